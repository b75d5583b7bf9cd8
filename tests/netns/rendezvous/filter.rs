//! Filters of registered clients and of servers: they hold for every session with them, also after a renewal of keys.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World};
use crate::sessions::filter::{CLOSED, OPEN, SILENCE, SOON, connect};

/// Checks that the client reaches one port of the server and no other, and the server none of the client.
fn require_rules(world: &World) -> Result<()> {
    let (alice, server) = (world.netns(Who::Alice), world.netns(Who::Server));
    let to: [IpAddr; 2] = [mtd_tests::rendezvous::SERVER_V6.into(), mtd_tests::rendezvous::SERVER_V4.into()];
    for address in to {
        connect(alice, server, address, OPEN, SOON)?.with_context(|| format!("{address}: the open port"))?;
        ensure!(connect(alice, server, address, CLOSED, SILENCE)?.is_err(), "{address}: the closed port");
    }
    for inner in [Inner::V6, Inner::V4] {
        let address = world.address(Who::Alice, inner)?;
        ensure!(connect(server, alice, address, OPEN, SILENCE)?.is_err(), "{address}: what the server opens");
    }
    Ok(())
}

#[test]
fn clients_and_servers_are_filtered_in_every_session_with_them() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    let key = world.public(Who::Alice);
    std::fs::remove_file(world.setup(Who::Server).client_file(Who::Alice.name()))?;
    let server = world.setup_mut(Who::Server);
    server.clients.push((Who::Alice.name().to_owned(), key));
    server.client_keys.insert("filter", "[\"allow in tcp/2222\", \"allow icmp\"]".to_owned());
    world.setup_mut(Who::Alice).keys.insert("filter", "[\"allow out\", \"allow in icmp\"]".to_owned());
    world.open_all()?;
    require_rules(&world).with_context(|| world.explain())?;
    ensure!(world.session(Who::Alice)?.filter_rules == Some(2));
    let before = world.handshakes()?;
    wait_until("the keys to be renewed", PATIENCE, || {
        Ok(world.handshakes()?.answered >= before.answered + 2)
    })?;
    require_rules(&world).context("after a renewal of keys")?;
    // The server alone changes its own.
    world.setup_mut(Who::Server).client_keys.insert("filter", "[\"allow\"]".to_owned());
    world.setup(Who::Server).write()?;
    let told = world.mtd(Who::Server, &["reload"])?;
    ensure!(told.contains("new filter for alice"), "{told}");
    let (alice, server) = (world.netns(Who::Alice), world.netns(Who::Server));
    let address = mtd_tests::rendezvous::SERVER_V6.into();
    connect(alice, server, address, CLOSED, SOON)?.context("allowed now")?;
    let address = world.address(Who::Alice, Inner::V6)?;
    ensure!(connect(server, alice, address, OPEN, SILENCE)?.is_err(), "the client's own filter denies it");
    let drops = world.status(Who::Alice)?.drops;
    ensure!(drops.get("filtered").is_some_and(|count| *count > 0), "{drops:?}");
    Ok(())
}
