//! A registered client that sends other clients' handshake messages in packets of its own. These pass the receive program,
//! but the server refuses the messages without an answer.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::insider::Insider;
use super::watch::Watch;
use super::world::{INTRODUCTION_SLOT, Who, World, quoted};

const WINDOW: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(5);

#[test]
fn a_registered_client_cannot_use_another_ones_handshake() -> Result<()> {
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    world.setup_mut(Who::Server).keys.insert("introduction_grace", quoted(&format!("{}s", GRACE.as_secs())));
    world.begin_in_window(WINDOW, Duration::from_secs(35))?;
    world.start(Who::Server)?;
    world.wait_published(2)?;
    let insider = Insider::learn(&mut world, Who::Bob)?;
    let watch = Watch::start(&world)?;
    world.sleep_into(INTRODUCTION_SLOT, Duration::ZERO)?;
    let slot = insider.slot(world.now()?);
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    let client = world.host(Who::Alice).prefix;
    let request = insider.open(&watch.from(client)[0].data, slot)?;

    let same = insider.seal(slot, &request)?;
    require_refused(&world, &watch, &same, "replayed").context("in its slot")?;
    let garbage = insider.seal(slot, b"\x00\x01\x00\x00 not a handshake message at all, and no key")?;
    require_refused(&world, &watch, &garbage, "not_authentic").context("garbage")?;
    let short = insider.seal(slot, b"\x00\x01\x00\x00 short")?;
    require_refused(&world, &watch, &short, "malformed").context("too short")?;
    let unasked = insider.seal(slot, &[&[1], &request[1..]].concat())?;
    require_refused(&world, &watch, &unasked, "malformed").context("an answer that nobody waits for")?;

    thread::sleep(3 * INTRODUCTION_SLOT);
    let later = insider.seal(insider.slot(world.now()?), &request)?;
    require_refused(&world, &watch, &later, "replayed").context("slots later")?;

    // By now the server has forgotten the original request.
    world.sleep_into(WINDOW, GRACE + Duration::from_secs(3))?;
    let insider = Insider::learn(&mut world, Who::Bob)?;
    let later = insider.seal(insider.slot(world.now()?), &request)?;
    require_refused(&world, &watch, &later, "not_authentic").context("in the window after")?;

    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    watch.require_silence_but_to(&[client])
}

/// Checks that a packet leads to one refusal for this reason, and to no session.
fn require_refused(world: &World, watch: &Watch, packet: &[u8], reason: &str) -> Result<()> {
    let count = || -> Result<_> {
        let handshakes = world.handshakes()?;
        let refused = handshakes.refused.get(reason).copied().unwrap_or(0);
        Ok((refused, handshakes.refused.values().sum::<u64>(), handshakes.half_open))
    };
    let before = count()?;
    watch.send(&[watch.framed(packet)])?;
    wait_until("a refusal", PATIENCE, || Ok(count()?.1 > before.1)).with_context(|| world.explain())?;
    let after = count()?;
    ensure!(after.0 == before.0 + 1 && after.1 == before.1 + 1, "{:?}", world.handshakes()?);
    ensure!(world.sessions_with(Who::Bob)?.is_empty(), "{}", world.explain());
    let answers = watch.to(world.host(Who::Bob).prefix);
    ensure!(answers.is_empty(), "{answers:02x?}");
    Ok(())
}
