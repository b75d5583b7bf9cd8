//! A client behind a narrow path: the server sends shorter packets to this client, but not to others.

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World, quoted};

/// The MTU of the router's path to the client, and the longest inner packet that fits.
const NARROW: u32 = 1400;
const NARROW_INSIDE: u32 = NARROW - 72;
/// The longest inner packet.
const LONGEST: u32 = 1428;

#[test]
fn a_narrow_path_to_one_client_is_that_clients_alone() -> Result<()> {
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    world.setup_mut(Who::Server).top.insert("mtu_expires", quoted("8s"));
    world.open_all()?;
    let carries = |to| world.netns(Who::Server).carries(world.address(to, Inner::V6)?, LONGEST);
    let alice = world.address(Who::Alice, Inner::V6)?.to_string();
    let routes = || world.netns(Who::Server).run(&["-6", "route", "show", "dev", "mtd0"]);
    ensure!(carries(Who::Alice)? && carries(Who::Bob)?, "before");
    world.topology().set_path_mtu(world.host(Who::Alice), NARROW)?;
    ensure!(!carries(Who::Alice)?, "more than the router carries");
    // All of the server's sessions with a client must agree.
    let path_mtu = |who| -> Result<Option<u32>> {
        let sessions = world.sessions_with(who)?;
        let first = sessions.first().context("a session")?.path_mtu;
        ensure!(sessions.iter().all(|session| session.path_mtu == first), "{sessions:?}");
        Ok(first)
    };
    let narrow = format!("{alice} proto static metric 1024 mtu {NARROW_INSIDE}");
    wait_until("a route of the client's own", PATIENCE, || Ok(routes()?.contains(&narrow)))
        .with_context(|| world.explain())?;
    // Keys are renewed every few seconds here, but the path's MTU is kept, because it belongs to the peer, not to a session.
    ensure!((path_mtu(Who::Alice)?, path_mtu(Who::Bob)?) == (Some(NARROW), None), "{}", world.explain());
    ensure!(carries(Who::Bob)?, "the other client's path is as wide as before");
    wait_until("the path to be tried again", PATIENCE, || Ok(path_mtu(Who::Alice)?.is_none()))?;
    wait_until("its route to go", PATIENCE, || Ok(!routes()?.contains(&alice)))?;
    world.require_no_session_drops(&[Who::Server, Who::Bob])
}
