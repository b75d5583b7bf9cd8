//! Packets of a busy session, which the receive program hands to another CPU (`mtd_common::steering`). The program that
//! continues there cannot be run in isolation: the scenarios in `netns/sessions/steering.rs` test it.

use mtd::dataplane::steering_cpus;
use mtd::model::Frames;
use mtd_common::DropReason;
use mtd_common::abi::{SessionState, Steering};
use mtd_common::steering::MAX_WAITING;

use crate::drops;
use crate::harness::{Bench, Expect, Fixture, SEQUENCE, XDP_DROP, XDP_REDIRECT, boot_time};
use crate::inner::Version;
use crate::outcome::Outcome;
use crate::peering::{CURRENT, Peering};

/// Bytes of traffic in an interval with which any session counts as busy.
const BUSY: u64 = 1 << 30;
/// Length of the inner packets, in bytes.
const LENGTH: usize = 120;

/// Makes the session busy for the next minute, by an interval of measurement that does not end before.
fn make_busy(bench: &mut Bench) {
    let began = boot_time() + 60_000_000_000;
    set_steering(bench, Steering { rate: BUSY, began, ..Steering::default() });
}

fn set_steering(bench: &mut Bench, steering: Steering) {
    let state = bench.plane.session_state(0).expect("a state");
    bench.plane.set_session_state(0, SessionState { steering, ..state }).expect("room for a state");
}

/// A data plane that hands packets on, with one session.
fn steering_bench() -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    let cpus = steering_cpus();
    assert!(cpus.len() > 1, "this test needs two CPUs");
    bench.plane.steer(&cpus).expect("queues");
    (bench, peering)
}

/// Checks that the frame was handed to another CPU unchanged, and that only that was counted.
fn handed_on(outcome: &Outcome, frame: &[u8]) {
    outcome.moved(XDP_REDIRECT, Frames { steered: 1, ..Frames::default() }).expect("handed on");
    assert_eq!(outcome.frame, frame, "the frame was changed");
    let (mut model, after) = (outcome.states.0.clone(), &outcome.states.1);
    let found = after[0].steering;
    assert!((outcome.time.0..=outcome.time.1).contains(&found.handed_at), "time of the hand-over");
    assert!(steering_cpus().contains(&(found.target as u32 - 1)), "CPU {} less 1", found.target);
    let before = model[0].steering;
    model[0].steering = Steering { handed: before.handed + 1, work: found.work, ..found };
    assert!(found.work > before.work, "not measured");
    assert_eq!(model, *after, "something else than where packets are opened was changed");
}

#[test]
fn packets_of_a_busy_session_are_handed_on_and_those_of_a_quiet_one_opened() {
    let (mut bench, peering) = steering_bench();
    let packet = |number| peering.packet(CURRENT, SEQUENCE + number, Version::V6.received(0, LENGTH));
    let quiet = bench.receive(&packet(0).frame());
    assert_eq!((quiet.verdict, quiet.frames), (XDP_REDIRECT, Frames { accepted: 1, ..Frames::default() }));
    make_busy(&mut bench);
    for number in 1..4 {
        let frame = packet(number).frame();
        handed_on(&bench.receive(&frame), &frame);
    }
}

#[test]
fn with_one_cpu_every_packet_is_opened_as_without_steering() {
    let (mut bench, peering) = Bench::with_session();
    bench.plane.steer(&[0]).expect("a queue");
    make_busy(&mut bench);
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, LENGTH));
    bench.check(&Fixture::accept("the valid packet", &peering, &packet));
}

/// Packets that are refused before the check of the tag never reach another CPU. A sender without the keys therefore
/// cannot fill its queue.
#[test]
fn a_busy_session_refuses_what_a_quiet_one_refuses() {
    use DropReason::{BadChecksum, BadTag, ControlTooLong, Ecn, InnerSource, MalformedInner};

    let (mut bench, peering) = drops::bench();
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    let [mut before, mut after] = [0, 0];
    for fixture in drops::fixtures(&peering) {
        match fixture.expect {
            // Opened here before the session is busy: marks its number for the replay behind it.
            Expect::Accept(..) => bench.check(&fixture),
            Expect::Drop(BadTag | BadChecksum | MalformedInner | InnerSource | Ecn | ControlTooLong) => {
                bench.plane.steer(&steering_cpus()).expect("queues");
                make_busy(&mut bench);
                handed_on(&bench.receive(&fixture.frame), &fixture.frame);
                after += 1;
            }
            _ => {
                bench.plane.steer(&steering_cpus()).expect("queues");
                make_busy(&mut bench);
                bench.check(&fixture);
                before += 1;
            }
        }
        bench.plane.steer(&[]).expect("no queues");
    }
    assert!(before > 30 && after > 5, "{before} fixtures refused before the hand-over, {after} handed on");
}

#[test]
fn a_session_that_waits_for_too_long_loses_packets_until_the_other_cpu_goes_on() {
    let (mut bench, peering) = steering_bench();
    let packet = |number| peering.packet(CURRENT, SEQUENCE + number, Version::V6.received(0, LENGTH)).frame();
    make_busy(&mut bench);
    let first = packet(0);
    handed_on(&bench.receive(&first), &first);
    let steering = bench.plane.session_state(0).expect("a state").steering;
    let full = Steering { handed: MAX_WAITING, handed_at: boot_time(), ..steering };
    set_steering(&mut bench, full);
    let outcome = bench.receive(&packet(1));
    assert_eq!(
        (outcome.verdict, outcome.drops.keys().copied().collect::<Vec<_>>()),
        (XDP_DROP, vec![DropReason::SteeringFull])
    );
    // Nobody has taken the packets for a long time: they count as lost, and the session continues.
    set_steering(&mut bench, Steering { handed_at: boot_time() - 300_000_000, ..full });
    let outcome = bench.receive(&packet(2));
    let expected = Frames { steered: 1, steering_lost: MAX_WAITING, ..Frames::default() };
    outcome.moved(XDP_REDIRECT, expected).expect("handed on");
    assert_eq!(outcome.states.1[0].steering.handed, 1);
}
