//! `mtd events` on a server, while clients come, renew their keys and go.

use anyhow::{Context as _, Result, ensure};
use mtd::status::EventDocument;
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;
use nix::sys::signal::Signal;

use super::PATIENCE;
use super::world::{Who, World};

/// The events that a follower has printed so far. The last line may be incomplete, and is left out.
fn told(follower: &Running) -> Result<Vec<EventDocument>> {
    let text = follower.stdout()?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// What happened to the session or registration of the client with this key, in a word, if the event is about that.
fn change(event: &EventDocument, key: &str) -> Option<String> {
    // Events are found by the key, because the names are what is checked below.
    let session = event.session.as_ref().filter(|session| session.public_key.as_deref() == Some(key));
    let registration = event.registration.as_ref().filter(|registration| registration.public_key == key);
    session.map(|session| session.change.clone()).or(registration.map(|of| of.change.clone()))
}

#[test]
fn sessions_and_registrations_are_told_as_they_change() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.start(Who::Server)?;
    let mut follow = world.netns(Who::Server).command(mtd_program()?)?;
    follow.args(["events", "--follow", "--json"]);
    let mut follower = Running::spawn("mtd events", follow)?;
    let (client, key) = (Who::Alice.name(), world.public(Who::Alice).to_string());
    let wait = |follower: &Running, wanted: &str| {
        wait_until(&format!("the event {wanted}"), PATIENCE, || {
            Ok(told(follower)?.iter().any(|event| change(event, &key).as_deref() == Some(wanted)))
        })
    };
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    wait(&follower, "opened")?;
    // Keys are renewed every few seconds here.
    wait(&follower, "rekeyed")?;
    let list: serde_json::Value =
        serde_json::from_str(&world.mtd(Who::Server, &["peers", "list", "--json"])?)?;
    ensure!(list["instances"][0]["peers"][0]["session"] == "open", "{list}");

    let mut policy = world.netns(Who::Server).command(mtd_program()?)?;
    policy.args(["policy", &world.status(Who::Server)?.interface, "monitor"]);
    ensure!(policy.output()?.status.success(), "{policy:?}");
    world.mtd(Who::Server, &["reload"])?;
    world.mtd(Who::Server, &["peers", "remove", client])?;
    wait(&follower, "removed")?;
    wait(&follower, "closed")?;

    let events = told(&follower)?;
    let enforced: Vec<_> = events.iter().filter_map(|event| event.enforcement.as_ref()).collect();
    ensure!(enforced.iter().any(|guard| guard.policy == "monitor" && !guard.enforced), "{events:?}");
    ensure!(events.iter().any(|event| event.configuration.is_some()), "{events:?}");
    ensure!(events.iter().all(|event| event.task.is_none()), "no task has ended: {events:?}");
    ensure!(events.is_sorted_by_key(|event| event.number), "{events:?}");
    let mut sessions = events.iter().filter_map(|event| event.session.as_ref());
    ensure!(
        sessions.all(|session| session.name.as_deref() == Some(client)),
        "each says who it is, also when the client is removed: {events:?}"
    );
    // A later command shows the same for the events that are kept, although the client is gone.
    let kept = world.mtd(Who::Server, &["events", "--json"])?;
    let kept: Vec<EventDocument> = kept.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for event in events.iter().filter(|event| event.drop.is_none()) {
        ensure!(kept.contains(event), "{event:?} is not in {kept:?}");
    }
    let status = follower.terminate(Signal::SIGINT, PATIENCE)?;
    ensure!(status.success(), "Ctrl-C is how it ends: {status}");
    Ok(())
}
