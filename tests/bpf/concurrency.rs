//! Two CPUs that receive or send for one session at the same time.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use aya::programs::Xdp;
use aya::{TestRun as _, TestRunOptions};
use mtd_common::DropReason;
use mtd_tests::runner::alone;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::harness::{Bench, SEQUENCE, XDP_DROP, XDP_REDIRECT};
use crate::inner::Version;
use crate::peering::CURRENT;

/// How many numbers both threads use between two barriers: fewer than the window is wide.
const LAP: u64 = 512;
const LAPS: u64 = 60;

/// Chooses the frame that a CPU takes, by its number, its turn, and the number of frames.
type Order = fn(usize, usize, usize) -> usize;

/// Pins this thread to the `nth` CPU that it may use.
pub(crate) fn pin(nth: usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    assert!(cpus.len() > 1, "this test needs two CPUs");
    let mut only = CpuSet::new();
    only.set(cpus[nth % cpus.len()]).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &only).expect("a CPU that is allowed");
}

/// Runs `work` on one CPU, so that limits and counters that each CPU has for itself are those of this one.
pub(crate) fn on_one_cpu<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(0);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The verdict of one run of the receive program, without looking at anything else.
pub(crate) fn verdict(program: &Xdp, frame: &[u8]) -> u32 {
    let mut buffer = [0; 2048];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut buffer), ..TestRunOptions::new() };
    program.test_run(options).expect("a test run").return_value
}

/// Gives the frames of each lap to two CPUs, to each in its own order. Returns how often each frame was accepted.
fn race(program: &Xdp, laps: &[Vec<Vec<u8>>], order: Order) -> Vec<u32> {
    let barrier = Barrier::new(2);
    let accepted = thread::scope(|scope| {
        let threads = [0, 1].map(|cpu| {
            let barrier = &barrier;
            scope.spawn(move || {
                pin(cpu);
                let mut accepted = Vec::new();
                for (lap, frames) in laps.iter().enumerate() {
                    barrier.wait();
                    for turn in 0..frames.len() {
                        let nth = order(cpu, turn, frames.len());
                        match verdict(program, &frames[nth]) {
                            XDP_REDIRECT => accepted.push(lap * LAP as usize + nth),
                            other => assert_eq!(other, XDP_DROP),
                        }
                    }
                }
                accepted
            })
        });
        threads.map(|thread| thread.join().expect("a thread")).concat()
    });
    let mut times = vec![0; laps.len() * LAP as usize];
    for number in accepted {
        times[number] += 1;
    }
    times
}

/// Both CPUs get every number at about the same time, in the same and in opposite orders.
#[test]
fn two_cpus_accept_each_number_exactly_once() {
    alone("both processors must work on the same numbers at the same time").expect("the machine");
    let (mut bench, peering) = Bench::with_session();
    let frame = |number| peering.packet(CURRENT, SEQUENCE + number, Version::V6.received(0, 41)).frame();
    let laps = |from: u64| -> Vec<Vec<Vec<u8>>> {
        (0..LAPS).map(|lap| (0..LAP).map(|n| frame((from + lap) * LAP + n)).collect()).collect()
    };
    let rounds: [(&str, Order); 3] = [
        ("the same order", |_, turn, _| turn),
        ("opposite orders", |cpu, turn, count| if cpu == 0 { turn } else { count - 1 - turn }),
        // 5 and 512 have no common factor, so every number comes, and numbers in the same word of the window come far apart.
        ("interleaved", |cpu, turn, count| (turn * 5 + cpu) % count),
    ];
    let mut total = 0;
    for (nth, (name, order)) in rounds.into_iter().enumerate() {
        let laps = laps(nth as u64 * LAPS);
        let program = bench.plane.receive_program().expect("a program");
        let times = race(program, &laps, order);
        let wrong: Vec<_> = times.iter().enumerate().filter(|(_, times)| **times != 1).take(10).collect();
        assert!(wrong.is_empty(), "{name}: not accepted exactly once: {wrong:?}");
        total += times.len() as u64;
    }
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.frames.accepted, total, "counted by both CPUs together");
    assert_eq!(counts.drops, BTreeMap::from([(DropReason::Replayed, total)]));
    let reported = bench.events().len() as u64;
    assert_eq!(reported + counts.frames.events_suppressed, total);
    let state = bench.plane.session_state(0).expect("a state");
    assert_eq!((state.rx_packets, state.rx_bytes), (total, 41 * total), "no update of one CPU was lost");
}

/// Both CPUs send for one session: no number may be used twice, or two packets would share a nonce.
#[test]
fn two_cpus_never_send_the_same_number() {
    const PACKETS: usize = 30_000;
    alone("both processors must work on the same numbers at the same time").expect("the machine");
    let (mut bench, peering) = Bench::with_session();
    bench.route("fd00:66::2/128", &peering);
    let frame = crate::inner::framed(&Version::V6.sent(0, 40));
    let program = bench.plane.send_program().expect("a program");
    let program = &*program;
    let barrier = Barrier::new(2);
    let mut numbers = thread::scope(|scope| {
        let threads = [0, 1].map(|cpu| {
            let (barrier, frame, peering) = (&barrier, &frame, &peering);
            scope.spawn(move || {
                pin(cpu);
                barrier.wait();
                let mut buffer = [0; 2048];
                let mut numbers = Vec::with_capacity(PACKETS);
                for _ in 0..PACKETS {
                    let options = TestRunOptions {
                        data_in: Some(frame),
                        data_out: Some(&mut buffer),
                        ..TestRunOptions::new()
                    };
                    let result = program.test_run(options).expect("a test run");
                    assert_eq!(result.return_value, crate::harness::TC_ACT_REDIRECT);
                    numbers.push(peering.tx.sequence(&buffer));
                }
                numbers
            })
        });
        threads.map(|thread| thread.join().expect("a thread")).concat()
    });
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..2 * PACKETS as u64), "every number once, without a gap");
    let state = bench.plane.session_state(0).expect("a state");
    assert_eq!((state.tx_sequence, state.tx_packets), (2 * PACKETS as u64, 2 * PACKETS as u64));
    assert_eq!(state.tx_bytes, 40 * 2 * PACKETS as u64);
}
