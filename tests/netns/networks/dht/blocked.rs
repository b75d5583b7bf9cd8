//! Networks that drop UDP over IPv4, or let none of the DHT's through.

use anyhow::{Context as _, Result, ensure};
use mtd::status::Network;
use mtd_tests::firewall::{drop_udp_v4, pass_udp_v4};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::{PATIENCE, require_shown, wait_network, wait_warning};
use crate::rendezvous::world::{Who, World};

#[test]
fn both_ends_say_that_no_node_answers_and_what_to_do() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    drop_udp_v4(&world.topology().router, None)?;
    world.start_all()?;
    for (who, way_out) in [(Who::Server, "mtd introduction"), (Who::Alice, "introduction_file")] {
        wait_network(&world, who, Network::Unreachable)?;
        let warning = wait_warning(&world, who, "dht_unreachable")?;
        ensure!(warning.text.contains("UDP over IPv4") && warning.text.contains(way_out), "{warning:?}");
        require_shown(&world, who, &["unreachable", "UDP over IPv4", way_out])?;
    }
    // It has looked in all windows around the present one before it gives up.
    wait_until("the client's try to fail", PATIENCE, || {
        Ok(world.session(Who::Alice)?.trouble.as_deref() == Some("network_unreachable"))
    })
    .with_context(|| world.explain())?;
    pass_udp_v4(&world.topology().router)?;
    world.wait_open(Who::Alice)?;
    for who in world.hosts() {
        wait_network(&world, who, Network::Ok)?;
        let warnings = world.status(who)?.warnings;
        ensure!(warnings.iter().all(|warning| warning.code != "dht_unreachable"), "{warnings:?}");
    }
    Ok(())
}

#[test]
fn nodes_that_answer_and_have_nothing_are_told_from_nodes_that_do_not_answer() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    // The server does not run.
    world.start(Who::Alice)?;
    let warning = wait_warning(&world, Who::Alice, "nothing_published")?;
    ensure!(warning.text.contains("mtd peers list"), "{warning:?}");
    wait_network(&world, Who::Alice, Network::Ok)?;
    require_shown(&world, Who::Alice, &["nodes of the DHT answer, but have nothing", "nothing found"])?;
    let session = world.session(Who::Alice)?;
    ensure!(session.trouble.as_deref() == Some("nothing_published"), "{session:?}");
    let hint = session.hint.context("no hint")?;
    ensure!(hint.contains("published nothing"), "{hint}");
    // The server comes: both the warning and the trouble go.
    world.start(Who::Server)?;
    world.wait_open(Who::Alice)?;
    let status = world.status(Who::Alice)?;
    ensure!(
        status.warnings.iter().all(|warning| warning.code != "nothing_published"),
        "{:?}",
        status.warnings
    );
    Ok(())
}
