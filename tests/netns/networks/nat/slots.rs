//! Longer slots: a router's table has fewer entries.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::firewall::{forget_flows_after, tracked_flows};
use mtd_tests::home::Translation;
use mtd_tests::wait_until;

use super::{PATIENCE, at_home, require_translated};
use crate::rendezvous::world::{Who, World, quoted};

/// The slot length of Alice's session at both ends, in s.
fn period(world: &World) -> Result<Option<f64>> {
    let (near, far) = (world.session(Who::Alice)?.period_seconds, world.sessions_with(Who::Alice)?);
    Ok(near.filter(|near| far.iter().all(|session| session.period_seconds == Some(*near))))
}

fn wait_period(world: &World, wanted: f64) -> Result<()> {
    wait_until("slots of this length", PATIENCE, || Ok(period(world)? == Some(wanted)))
        .with_context(|| format!("{wanted} s: {}", world.explain()))
}

#[test]
fn a_client_gets_the_slots_that_it_asks_for_or_that_are_set_for_it() -> Result<()> {
    let (mut world, _) = at_home(Translation::Masquerade)?;
    world.setup_mut(Who::Server).keys.insert("longest_slot", quoted("20s"));
    world.setup_mut(Who::Alice).keys.insert("slot", quoted("10s"));
    world.open_all()?;
    wait_period(&world, 10.0)?;
    // More than the server grants.
    world.stop(Who::Alice)?;
    world.setup_mut(Who::Alice).keys.insert("slot", quoted("1h"));
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    wait_period(&world, 20.0)?;
    // What is set for a client decides, from the next session on.
    world.stop(Who::Alice)?;
    let key = world.public(Who::Alice);
    std::fs::remove_file(world.setup(Who::Server).client_file(Who::Alice.name()))?;
    let server = world.setup_mut(Who::Server);
    server.clients.push((Who::Alice.name().to_owned(), key));
    server.client_keys.insert("slot", quoted("5s"));
    server.write()?;
    world.mtd(Who::Server, &["reload"])?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    wait_period(&world, 5.0)?;
    require_translated(&world, true)
}

/// Entries of one idle session in the router's table, after so many seconds.
fn entries(slot: &str, timeout: u32, seconds: u64) -> Result<u32> {
    let (mut world, _) = at_home(Translation::Masquerade)?;
    forget_flows_after(&world.topology().router, timeout)?;
    world.setup_mut(Who::Server).keys.insert("period", quoted(slot));
    world.open_all()?;
    thread::sleep(Duration::from_secs(seconds));
    tracked_flows(&world.topology().router)
}

#[test]
fn longer_slots_take_fewer_entries_of_the_router() -> Result<()> {
    // As slots of 3 s and 30 s with a time-out of 30 s, ten times as fast.
    let (short, long) = thread::scope(|scope| {
        let short = scope.spawn(|| entries("1s", 10, 12));
        let long = entries("10s", 10, 12);
        (short.join().expect("a thread that counts"), long)
    });
    let (short, long) = (short?, long?);
    println!("{short} entries with slots of a tenth of the time-out, {long} with slots as long as it");
    // Both have what the search for the server takes.
    ensure!(long + 5 < short, "{short}, {long}");
    Ok(())
}
