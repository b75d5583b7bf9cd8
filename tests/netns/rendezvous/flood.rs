//! A flood of the address at which introductions are received.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::packet::{self, Outer};
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::insider::Insider;
use super::watch::{Watch, received_drops};
use super::world::{Who, World, quoted};
use crate::adversary::difference;

/// Packets of a burst, and the time for one burst: 20,000 packets a second, which a sender that needs a system call for each
/// packet can reach, and for which the queues of virtual cables have room.
const BURST: usize = 40;
const PAUSE: Duration = Duration::from_millis(2);

/// The flood ends by itself after this time.
const LONGEST: Duration = Duration::from_secs(30);

/// Least number of packets of each kind.
const MANY: u64 = 5_000;

#[test]
fn a_client_connects_in_a_flood_of_random_and_of_replayed_packets() -> Result<()> {
    alone("the flood takes a processor")?;
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    // One slot lasts for the whole test, so that the flood always hits the live address.
    let slot = Duration::from_mins(10);
    world.setup_mut(Who::Server).keys.insert("introduction_slot", quoted("10m"));
    world.begin_in_window(Duration::from_hours(1), Duration::from_mins(2))?;
    world.start(Who::Server)?;
    let watch = Watch::start(&world)?;
    world.start(Who::Bob)?;
    world.wait_open(Who::Bob)?;
    ensure!(world.now()? % slot.as_nanos() as u64 > 0);
    let request = watch.from(world.host(Who::Bob).prefix).swap_remove(0).data;
    let insider = Insider::learn(&mut world, Who::Bob)?;
    let target = insider.target(insider.slot(world.now()?));
    let outer = Outer::parse(&request).context("no packet of mtd's")?;
    ensure!(
        (outer.destination, outer.destination_port) == target,
        "Bob's request went elsewhere than {target:?}"
    );

    let random = random_frames(&watch, &request, BURST / 2)?;
    let replayed = vec![watch.forwarded(&request); BURST / 2];
    let frames = [random, replayed].concat();
    let (before, handshakes) = (received_drops(&world)?, world.handshakes()?);
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let took = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&watch, &frames, &done, &sent));
        thread::sleep(Duration::from_secs(1));
        let took = world.start_timed(Who::Alice).and_then(|took| {
            world.wait_open(Who::Alice)?;
            // Half of the flood is of each kind.
            wait_until("enough of a flood", LONGEST, || Ok(sent.load(Ordering::Relaxed) > 3 * MANY))?;
            Ok(took)
        });
        done.store(true, Ordering::Relaxed);
        flood.join().expect("a thread that floods").and(took)
    })?;
    let dropped = difference(&before, &received_drops(&world)?);
    println!(
        "first inner packet after {took:.2?} in a flood of {} packets; the server dropped {dropped:?}",
        sent.load(Ordering::Relaxed)
    );
    for reason in ["bad_tag", "replayed"] {
        ensure!(dropped.get(reason).is_some_and(|count| *count > MANY), "{dropped:?}");
    }
    let after = world.handshakes()?;
    ensure!(after.refused == handshakes.refused, "none of it has come to the controller: {after:?}");
    ensure!(world.is_open(Who::Bob)?, "{}", world.explain());
    watch.require_silence_but_to(&[world.host(Who::Alice).prefix, world.host(Who::Bob).prefix])
}

/// The request with random contents, from random addresses.
fn random_frames(watch: &Watch, request: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    let outer = Outer::parse(request).context("no packet of mtd's")?;
    let frame = |_| {
        let mut payload = vec![0; outer.payload.len()];
        let mut source = [0; 16];
        for bytes in [&mut payload[..], &mut source] {
            getrandom::fill(bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        }
        source[..2].copy_from_slice(&[0x20, 1]);
        let elsewhere = watch.sent_from(request, Ipv6Addr::from(source), 40_000)?;
        let to = Outer::parse(&elsewhere).context("no packet of mtd's")?;
        let [to_mac, from_mac] =
            [&elsewhere[..6], &elsewhere[6..12]].map(|mac| mac.try_into().expect("6 bytes"));
        let path = packet::Path::new(from_mac, to_mac, to.source, to.destination);
        Ok(packet::udp(&path, to.source_port, to.destination_port, &payload))
    };
    (0..count).map(frame).collect()
}

fn flood(watch: &Watch, frames: &[Vec<u8>], done: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let begin = Instant::now();
    while !done.load(Ordering::Relaxed) && begin.elapsed() < LONGEST {
        watch.send(frames)?;
        sent.fetch_add(frames.len() as u64, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
