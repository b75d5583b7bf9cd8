//! A virtual machine that is set back to a snapshot, or copied: the keys that it had are used no more.

use anyhow::{Context as _, Result, ensure};
use mtd::status::EventDocument;
use mtd_tests::rendezvous::SERVER_V6;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Who, World, quoted};

/// The changes of sessions that a host tells of.
fn changes(world: &World, who: Who) -> Result<Vec<String>> {
    let events = world.mtd(who, &["events", "--json"])?;
    let events: Vec<EventDocument> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter_map(|event| event.session).map(|session| session.change).collect())
}

#[test]
fn an_end_that_was_copied_gives_up_its_keys_and_gets_new_ones() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    // Keys are not renewed by themselves meanwhile.
    for key in ["rekey_after", "expire_after"] {
        let time = if key == "rekey_after" { "120s" } else { "180s" };
        world.setup_mut(Who::Server).keys.insert(key, quoted(time));
    }
    world.setup_mut(Who::Alice).keys.insert("keepalive", quoted("1s"));
    world.open_all()?;
    for (generation, copied) in [(1, Who::Alice), (2, Who::Server)] {
        let before = changes(&world, copied)?;
        ensure!(!before.iter().any(|change| change == "closed"), "{before:?}");
        world.setup(copied).copy_machine(generation)?;
        wait_until("the keys to go", PATIENCE, || {
            Ok(changes(&world, copied)?.iter().any(|change| change == "closed"))
        })
        .with_context(|| world.explain())?;
        let log = world.controller(copied)?.process.log();
        ensure!(log.contains("copied or set back to a snapshot"), "{log}");
        wait_until("a new session", PATIENCE, || {
            let changes = changes(&world, copied)?;
            Ok(changes.iter().rposition(|change| change == "opened")
                > changes.iter().rposition(|change| change == "closed"))
        })
        .with_context(|| world.explain())?;
        world
            .netns(Who::Alice)
            .wait_reachable(SERVER_V6.into(), PATIENCE)
            .with_context(|| world.explain())?;
    }
    Ok(())
}
