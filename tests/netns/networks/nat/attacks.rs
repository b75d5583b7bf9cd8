//! What others can do to a session whose client is translated: packets come from any address, so they try.

use std::net::Ipv6Addr;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv6Net;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::home::Translation;
use mtd_tests::packet::Outer;
use mtd_tests::wait_until;

use super::{PATIENCE, SLOT, at_home, one_way, open_at_home};
use crate::rendezvous::watch::Watch;
use crate::rendezvous::world::{Who, World};

/// Everything that can be on the server's link.
fn everybody() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)
}

/// Frames of the client, as the router has sent them on, that are no older than a slot.
fn recent(watch: &Watch, count: usize) -> Vec<Vec<u8>> {
    let frames = watch.from(everybody());
    let of_mtd = frames.iter().filter(|frame| Outer::parse(&frame.data).is_some());
    let mut recent: Vec<_> = of_mtd.map(|frame| watch.forwarded(&frame.data)).collect();
    recent.split_off(recent.len().saturating_sub(count))
}

/// That the server sends to nobody but where the router has the client.
fn require_only_to_router(world: &World, watch: &Watch) -> Result<()> {
    let strangers = watch.answers(|to| to == watch.address);
    ensure!(strangers.is_empty(), "{} packets to the stranger\n{}", strangers.len(), world.explain());
    Ok(())
}

#[test]
fn replays_and_forgeries_from_elsewhere_move_nothing() -> Result<()> {
    let (world, _) = open_at_home(Translation::Ports)?;
    let watch = Watch::start(&world)?;
    let report = thread::scope(|scope| -> Result<_> {
        let stream = scope.spawn(|| one_way(&world, 8 * SLOT));
        let mut all = Vec::new();
        for round in 0..6 {
            thread::sleep(SLOT);
            // This slot's, and the last one's.
            let genuine = recent(&watch, 3);
            ensure!(!genuine.is_empty(), "the client sends nothing");
            let mut frames = Vec::new();
            for frame in &genuine {
                frames.push(watch.sent_from(frame, watch.address, 40_000 + round)?);
                let mut forged = frame.clone();
                *forged.last_mut().context("bytes")? ^= 1;
                frames.push(watch.sent_from(&forged, watch.address, 40_000 + round)?);
                let mut other_number = frame.clone();
                other_number[62] ^= 1;
                frames.push(watch.sent_from(&other_number, watch.address, 40_000 + round)?);
            }
            let drops = watch.inject(&world, &frames)?;
            all.push(drops);
        }
        let known = ["replayed", "bad_tag", "invalid_sequence", "stale_slot", "unknown_address"];
        let other =
            all.iter().flat_map(|drops| drops.keys()).find(|reason| !known.contains(&reason.as_str()));
        ensure!(other.is_none(), "{all:?}");
        println!("{all:?}");
        stream.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    println!("meanwhile, one way to the client: {report:?}");
    ensure!(report.lost == 0, "{report:?}\n{}", world.explain());
    require_only_to_router(&world, &watch)
}

/// Copies of the client's request that come before it, since the router is slower.
#[test]
fn whoever_is_faster_with_a_copy_of_a_request_keeps_nobody_out() -> Result<()> {
    let (mut world, home) = at_home(Translation::Masquerade)?;
    world.start(Who::Server)?;
    let watch = Watch::start(&world)?;
    let (router, tap) = (&world.topology().router, &world.host(Who::Alice).tap_ifname);
    let inside = Capture::start(router, tap, &CaptureOptions::default())?;
    let server = world.host(Who::Server).prefix;
    let of_client =
        |frame: &Frame| Outer::parse(&frame.data).is_some_and(|outer| server.contains(&outer.destination));
    // The router holds all back that the client sends; the stranger has it from the client's own link.
    home.hold_back(&world.topology().router, true)?;
    world.start(Who::Alice)?;
    let request = inside.wait_for(of_client, PATIENCE)?;
    let copy = watch.sent_from(&watch.forwarded(&request.data), watch.address, 41_000)?;
    watch.send(std::slice::from_ref(&copy))?;
    wait_until("the answer to the copy", PATIENCE, || {
        Ok(!watch.answers(|to| to == watch.address).is_empty())
    })
    .with_context(|| world.explain())?;
    // Once more: known.
    watch.inject(&world, std::slice::from_ref(&copy))?;
    home.hold_back(&world.topology().router, false)?;
    world.wait_open(Who::Alice)?;
    let answers = watch.answers(|to| to == watch.address);
    ensure!(answers.len() == 1, "{} answers to one copy", answers.len());
    let sent = answers[0].wire_len;
    ensure!(sent <= copy.len(), "{sent} bytes for {}", copy.len());
    Ok(())
}
