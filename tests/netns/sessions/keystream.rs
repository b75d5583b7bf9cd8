//! Key stream that a thread of the controller makes ahead of the packets (`docs/keystream.md`).

use std::thread;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;

use super::SLOT;
use super::steering::Traffic;
use super::world::{Role, World};

/// How many packets the client sealed, and the server opened, with key stream made ahead.
fn ahead(world: &World) -> Result<[u64; 2]> {
    Ok([world.status(Role::Client)?.frames.sealed_ahead, world.status(Role::Server)?.frames.opened_ahead])
}

#[test]
fn a_busy_session_uses_it_at_both_ends_in_every_slot() -> Result<()> {
    alone("traffic as fast as it goes, which makes a session busy")?;
    let world = World::open("encrypt", &TopologyOptions::default())?;
    let traffic = Traffic::start(&world)?;
    let mut busy = 0;
    for slot in 0..6 {
        let (before, sent) = (ahead(&world)?, world.status(Role::Client)?.frames.sent);
        thread::sleep(SLOT);
        let (after, more) = (ahead(&world)?, world.status(Role::Client)?.frames.sent - sent);
        // If other processes occupy the CPUs, the flow may stall for a slot.
        if more > 4_000 {
            busy += 1;
            ensure!((0..2).all(|end| after[end] > before[end] + 500), "slot {slot}: {before:?}, {after:?}");
        }
    }
    ensure!(busy > 1, "the session was hardly ever busy");
    traffic.stop_changed()?;
    for role in [Role::Client, Role::Server] {
        let status = world.status(role)?;
        println!("{role:?}: {:?}, {:?}", status.frames, status.drops);
        ensure!(
            ["bad_tag", "bad_checksum"].iter().all(|reason| !status.drops.contains_key(*reason)),
            "{status:?}"
        );
    }
    Ok(())
}

#[test]
fn without_the_controller_packets_go_on_and_with_the_next_one_it_is_back() -> Result<()> {
    alone("traffic as fast as it goes, which makes a session busy")?;
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let traffic = Traffic::start(&world)?;
    thread::sleep(SLOT);
    for role in [Role::Client, Role::Server] {
        world.kill(role)?;
    }
    // The key stream that was made before the kill is used up at once.
    thread::sleep(SLOT);
    let (dead, sent) = (ahead(&world)?, world.status(Role::Client)?.frames.sent);
    thread::sleep(SLOT);
    let (later, more) = (ahead(&world)?, world.status(Role::Client)?.frames.sent);
    ensure!(later == dead, "nobody makes key stream: {dead:?}, {later:?}");
    ensure!(more > sent + 1_000, "{sent} packets sent, then {more}");
    for role in [Role::Client, Role::Server] {
        world.start(role)?;
    }
    thread::sleep(2 * SLOT);
    let back = ahead(&world)?;
    ensure!((0..2).all(|end| back[end] > later[end] + 500), "{later:?}, {back:?}");
    traffic.stop_changed().with_context(|| world.explain())
}

#[test]
fn it_can_be_switched_off_and_a_session_that_authenticates_has_none() -> Result<()> {
    alone("traffic as fast as it goes, which makes a session busy")?;
    for (mode, extra) in [("encrypt", "keystream = \"off\"\n"), ("authenticate", "")] {
        let mut world = World::new(mode, &TopologyOptions::default())?;
        for role in [Role::Client, Role::Server] {
            world.setup_mut(role).extra = extra.to_owned();
        }
        world.start_all()?;
        world.wait_open()?;
        let traffic = Traffic::start(&world)?;
        thread::sleep(2 * SLOT);
        traffic.stop_changed().with_context(|| world.explain())?;
        let sent = world.status(Role::Client)?.frames.sent;
        ensure!(sent > 1_000 && ahead(&world)? == [0, 0], "{mode}: {sent} sent, {:?}", ahead(&world)?);
    }
    Ok(())
}
