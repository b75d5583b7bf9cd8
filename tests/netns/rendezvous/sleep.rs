//! A host that has slept: its clocks show it, and its sessions are looked after at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World, quoted};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;

/// Waits until a controller has noticed that its host slept.
fn wait_for_notice(world: &World, who: Who) -> Result<()> {
    wait_until("the sleep to be noticed", PATIENCE, || {
        Ok(world.controller(who)?.process.log().contains("this host has slept for"))
    })
    .with_context(|| world.explain())
}

#[test]
fn a_client_that_has_slept_has_new_keys_at_once_and_a_step_of_the_wall_clock_is_no_sleep() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    // Keys are not renewed by themselves meanwhile.
    for (key, value) in [("rekey_after", "120s"), ("expire_after", "180s")] {
        world.setup_mut(Who::Server).keys.insert(key, quoted(value));
    }
    world.open_all()?;
    let load = world.load(Who::Alice, Inner::V6)?;
    let handshakes = world.handshakes()?;
    for step in [HOUR, -2 * HOUR] {
        world.setup(Who::Alice).set_clocks(step, 0)?;
        let difference = step.unsigned_abs() as f64 / 1e9;
        let is_so = |seconds: f64| (seconds - difference).abs() < 60.0;
        let stepped = || Ok(world.status(Who::Alice)?.clock_offset_seconds.is_some_and(is_so));
        wait_until("the step to be seen", PATIENCE, stepped).with_context(|| world.explain())?;
    }
    // What sleeps is not the client: it goes on with its keys.
    world.setup(Who::Server).set_clocks(0, 60 * SECOND)?;
    wait_for_notice(&world, Who::Server)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(world.handshakes()? == handshakes, "{:?}", world.handshakes()?);

    let woken = Instant::now();
    world.setup(Who::Alice).set_clocks(0, 60 * SECOND)?;
    wait_until("new keys", PATIENCE, || Ok(world.handshakes()?.answered > handshakes.answered))
        .with_context(|| world.explain())?;
    println!("new keys after {:.2?}", woken.elapsed());
    wait_for_notice(&world, Who::Alice)?;
    wait_until("the session before to end", PATIENCE, || Ok(world.sessions_with(Who::Alice)?.len() == 1))
        .with_context(|| world.explain())?;
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    load.stop()?.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())
}
