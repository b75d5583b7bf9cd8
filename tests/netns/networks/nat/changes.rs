//! Translations that begin, change and end in mid-session, renewed keys, killed controllers.

use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::home::{HomeRouter, Translation, forget_flows};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::Load;
use mtd_tests::wait_until;

use super::{PATIENCE, SLOT, at_home, one_way, open_at_home, require_translated};
use crate::rendezvous::world::{Inner, Who, World, quoted};

/// That traffic goes on in both directions.
fn require_traffic(world: &World, load: &Load) -> Result<()> {
    for arrived in [Load::arrived_at_server, Load::arrived_at_client] {
        let (packets, bytes) = arrived(load);
        wait_until("UDP and TCP to go on", PATIENCE, || {
            let (packets_now, bytes_now) = arrived(load);
            Ok(packets_now > packets && bytes_now > bytes)
        })
        .with_context(|| world.explain())?;
    }
    Ok(())
}

#[test]
fn tcp_goes_on_when_the_router_restarts_or_has_another_address() -> Result<()> {
    let (world, home) = open_at_home(Translation::Masquerade)?;
    let router = &world.topology().router;
    let load = world.load(Who::Alice, Inner::V6)?;
    thread::sleep(2 * SLOT);
    let handshakes = world.handshakes()?;
    for translation in [Translation::Ports, Translation::SecondAddress, Translation::Masquerade] {
        home.set(router, translation)?;
        forget_flows(router)?;
        let changed = Instant::now();
        require_traffic(&world, &load)?;
        println!("{translation:?}: both directions {:.2?} after the change", changed.elapsed());
        thread::sleep(2 * SLOT);
    }
    let report = load.stop()?;
    println!("over three changes: {report}");
    report.require_unbroken().with_context(|| world.explain())?;
    ensure!(world.handshakes()? == handshakes, "the session itself goes on: {:?}", world.handshakes()?);
    require_translated(&world, true)
}

/// A client in a network without translation, whose router begins to translate, and ends it.
#[test]
fn a_router_that_begins_to_translate_is_no_end() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.setup_mut(Who::Alice).keys.insert("keepalive", quoted("1s"));
    world.open_all()?;
    require_translated(&world, false)?;
    let load = world.load(Who::Alice, Inner::V6)?;
    let home = HomeRouter::of(world.topology(), world.host(Who::Alice));
    let changed = Instant::now();
    home.set(&world.topology().router, Translation::Masquerade)?;
    require_translated(&world, true)?;
    println!("translated session {:.2?} after the router's change", changed.elapsed());
    require_traffic(&world, &load)?;
    home.set(&world.topology().router, Translation::None)?;
    // Keys are renewed every few seconds here.
    require_translated(&world, false)?;
    require_traffic(&world, &load)?;
    load.stop()?.require_unbroken().with_context(|| world.explain())
}

#[test]
fn renewed_keys_and_killed_controllers_keep_it() -> Result<()> {
    let (mut world, _) = at_home(Translation::Ports)?;
    world.setup_mut(Who::Server).keys.insert("rekey_after", quoted("2s"));
    world.open_all()?;
    let load = world.load(Who::Alice, Inner::V6)?;
    wait_until("new keys, twice", PATIENCE, || Ok(world.handshakes()?.answered >= 3))
        .with_context(|| world.explain())?;
    require_translated(&world, true)?;
    for who in [Who::Server, Who::Alice] {
        world.kill(who)?;
        thread::sleep(2 * SLOT);
        world.start(who)?;
        wait_until("the session to be open", PATIENCE, || world.is_open(Who::Alice))
            .with_context(|| world.explain())?;
    }
    let report = load.stop()?;
    println!("killed, and new keys: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    let handshakes = world.handshakes()?;
    ensure!(handshakes.refused.is_empty(), "{handshakes:?}");
    require_translated(&world, true)?;
    let report = one_way(&world, 4 * SLOT)?;
    println!("one way after that: {report:?}");
    ensure!(report.lost == 0, "{report:?}\n{}", world.explain());
    world.require_no_session_drops(&[Who::Alice, Who::Server])
}
