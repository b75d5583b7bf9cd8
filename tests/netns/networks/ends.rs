//! What one end says when it ends a session: the other end knows at once, and says why.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use crate::rendezvous::world::{Who, World, quoted};

/// How soon the other end knows.
const AT_ONCE: Duration = Duration::from_secs(3);

fn world() -> Result<World> {
    let mut world = World::new(&TopologyOptions::default())?;
    for (key, time) in [("rekey_after", "120s"), ("expire_after", "180s")] {
        world.setup_mut(Who::Server).keys.insert(key, quoted(time));
    }
    world.open_all()?;
    Ok(world)
}

/// Waits until a client gives this reason.
fn wait_told(world: &World, reason: &str) -> Result<()> {
    wait_until("the client to say why the session has ended", AT_ONCE, || {
        Ok(world.session(Who::Alice)?.hint.is_some_and(|hint| hint.starts_with(reason)))
    })
    .with_context(|| world.explain())
}

#[test]
fn a_server_that_stops_says_so_and_is_found_again() -> Result<()> {
    let mut world = world()?;
    let able = |session: &mtd::status::Session| {
        let names = session.capabilities.clone().unwrap_or_default();
        names.iter().any(|name| name == "term") && names.iter().any(|name| name == "instance")
    };
    let far = world.sessions_with(Who::Alice)?;
    ensure!(able(&world.session(Who::Alice)?) && far.iter().all(able), "{far:?}");

    world.stop(Who::Server)?;
    wait_told(&world, "the server was stopped")?;
    let asked = Instant::now();
    world.start(Who::Server)?;
    world.wait_open(Who::Alice)?;
    println!("open {:.1?} after the server was started again", asked.elapsed());
    Ok(())
}

#[test]
fn a_client_that_is_removed_is_told_why_in_one_harmless_line() -> Result<()> {
    let world = world()?;
    let words = "sold;\n ask \u{1b}[31mthe help desk";
    world.mtd(Who::Server, &["peers", "remove", "alice", "--tell", words])?;
    let removed = "the server has removed this client from its registry";
    wait_told(&world, removed)?;
    let hint = world.session(Who::Alice)?.hint.unwrap_or_default();
    ensure!(hint == format!("{removed}; it says: sold;? ask ?[31mthe help desk"), "{hint:?}");
    Ok(())
}
