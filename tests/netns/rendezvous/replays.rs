//! A client's packets, replayed by a stranger: in their slot, in their window, and after both; from their original source
//! and from other addresses.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::packet::Outer;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::watch::Watch;
use super::world::{INTRODUCTION_SLOT, REKEY, Who, World, quoted};
use crate::adversary::Drops;

const WINDOW: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(5);

/// Reasons for which packets are dropped when their slot is over.
const OVER: [&str; 2] = ["unknown_address", "stale_slot"];

#[test]
fn a_clients_introduction_and_handshake_are_of_no_use_to_who_repeats_them() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.setup_mut(Who::Server).keys.insert("introduction_grace", quoted(&format!("{}s", GRACE.as_secs())));
    world.begin_in_window(WINDOW, Duration::from_secs(25))?;
    world.start(Who::Server)?;
    let watch = Watch::start(&world)?;
    world.sleep_into(INTRODUCTION_SLOT, Duration::ZERO)?;
    world.start(Who::Alice)?;
    let client = world.host(Who::Alice).prefix;

    // The server's first answer is the second message of the handshake.
    wait_until("the server's answer", PATIENCE, || Ok(!watch.to(client).is_empty()))?;
    let answer = watch.to(client).swap_remove(0);
    let requests: Vec<_> =
        watch.from(client).into_iter().filter(|frame| frame.time_ns < answer.time_ns).collect();
    let requests: Vec<_> = requests.iter().map(|frame| watch.forwarded(&frame.data)).collect();
    ensure!(!requests.is_empty(), "an answer to nothing");
    let elsewhere: Vec<_> =
        requests.iter().map(|frame| watch.sent_from(frame, watch.address, 40_000)).collect::<Result<_>>()?;
    let requester = Outer::parse(&requests[0]).context("no packet of mtd's")?.source;
    let answers = || watch.answers(|to| to == requester).len();
    world.wait_open(Who::Alice)?;
    let (handshakes, answered) = (world.handshakes()?, answers());

    for again in [&requests, &elsewhere] {
        let drops = watch.inject(&world, again)?;
        require_only(&drops, &["replayed"])?;
    }
    ensure!(world.handshakes()? == handshakes, "{handshakes:?}, {:?}", world.handshakes()?);
    ensure!(answers() == answered, "an answer to a replay");

    // The packets include the requests and answers by which keys are renewed.
    thread::sleep(REKEY + INTRODUCTION_SLOT * 3);
    let session = world.session(Who::Alice)?;
    let all: Vec<_> = watch.from(client).iter().map(|frame| watch.forwarded(&frame.data)).collect();
    let live = |frame: &Vec<u8>| {
        let outer = Outer::parse(frame).expect("a packet of mtd's");
        session.local.is_some_and(|own| own.address == outer.source)
    };
    let over: Vec<_> = all.iter().filter(|frame| !live(frame)).cloned().collect();
    let handshakes = world.handshakes()?;
    ensure!(handshakes.answered > 1, "the keys were not renewed: {handshakes:?}");
    let drops = watch.inject(&world, &[over.clone(), elsewhere.clone()].concat())?;
    println!("{} packets repeated some slots later: {drops:?}", over.len() + elsewhere.len());
    // A slot stays live for one more slot: packets of the last two slots are recognised by their sequence numbers.
    require_only(&drops, &[&OVER[..], &["replayed", "wrong_peer"]].concat())?;

    world.sleep_into(WINDOW, GRACE + Duration::from_secs(1))?;
    let drops = watch.inject(&world, &[requests.clone(), elsewhere.clone()].concat())?;
    require_only(&drops, &["unknown_address"]).context("in the window after")?;
    let after = world.handshakes()?;
    ensure!(after.refused.is_empty() && after.received == after.answered, "{after:?}");
    ensure!(world.is_open(Who::Alice)? && world.sessions_with(Who::Alice)?.len() == 1, "{}", world.explain());

    // A server that has forgotten everything does not accept them either.
    world.kill(Who::Server)?;
    world.start(Who::Server)?;
    let all = [requests, elsewhere, over].concat();
    let drops = watch.inject(&world, &all)?;
    println!("{} packets repeated after a restart: {drops:?}", all.len());
    let after = world.handshakes()?;
    ensure!(after.refused.is_empty() && after.received == after.answered, "{after:?}");
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    ensure!(answers() == answered, "an answer to a replay");
    watch.require_silence_but_to(&[client])
}

fn require_only(drops: &Drops, reasons: &[&str]) -> Result<()> {
    ensure!(drops.keys().all(|reason| reasons.contains(&reason.as_str())), "{drops:?}");
    Ok(())
}
