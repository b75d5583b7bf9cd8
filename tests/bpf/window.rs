//! The sequence window: numbers that are late, early, used or impossible.

use mtd_common::DropReason;

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::{OWN6, Version, ipv6};
use crate::peering::{CURRENT, Peering};
use crate::wire::Packet;

/// How far a number may lag behind and still be accepted in any case (issue 2).
const WIDTH: u64 = 1024;
/// Numbers per second of session time: one every 64 ns.
const PER_SECOND: u64 = 1_000_000_000 / 64;
/// How far ahead of the receiver's clock a number may be.
const SLACK: u64 = 1 << 34;

fn packet(peering: &Peering, sequence: u64) -> Packet {
    peering.packet(CURRENT, sequence, Version::V6.received(0, 48))
}

fn accept(peering: &Peering, sequence: u64) -> Fixture {
    Fixture::accept(format!("number {sequence}"), peering, &packet(peering, sequence))
}

fn refuse(peering: &Peering, sequence: u64, reason: DropReason) -> Fixture {
    Fixture::drop(format!("number {sequence}"), reason, packet(peering, sequence).frame())
}

#[test]
fn numbers_may_come_in_any_order_within_the_window() {
    for highest in [SEQUENCE + 5_000, SEQUENCE + 5_007, SEQUENCE + 5_015] {
        let (mut bench, peering) = Bench::with_session();
        let lag = |lag| highest - lag;
        let mut list = vec![accept(&peering, highest)];
        // All odd numbers in ascending order, all even ones in descending order.
        list.extend((1..=WIDTH).step_by(2).map(|n| accept(&peering, lag(n))));
        list.extend((1..=WIDTH / 2).rev().map(|n| accept(&peering, lag(2 * n))));
        list.extend((0..=WIDTH).map(|n| refuse(&peering, lag(n), DropReason::Replayed)));
        bench.run_all(&list);
    }
}

#[test]
fn a_number_far_behind_is_too_old() {
    let (mut bench, peering) = Bench::with_session();
    let stream: Vec<_> = (0..3 * WIDTH).map(|n| accept(&peering, SEQUENCE + n)).collect();
    bench.run_all(&stream);
    let highest = SEQUENCE + 3 * WIDTH - 1;
    bench.run_all(&[
        refuse(&peering, highest - 2 * WIDTH, DropReason::InvalidSequence),
        refuse(&peering, SEQUENCE, DropReason::InvalidSequence),
        refuse(&peering, 0, DropReason::InvalidSequence),
        refuse(&peering, 1, DropReason::InvalidSequence),
        refuse(&peering, highest - WIDTH, DropReason::Replayed),
        refuse(&peering, highest, DropReason::Replayed),
        accept(&peering, highest + 1),
    ]);
}

#[test]
fn gaps_of_any_size_are_no_obstacle() {
    let (mut bench, peering) = Bench::with_session();
    let mut sequence = SEQUENCE;
    let mut list = vec![accept(&peering, sequence)];
    for shift in 0..30 {
        sequence += 1 << shift;
        list.push(accept(&peering, sequence));
        list.push(refuse(&peering, sequence, DropReason::Replayed));
    }
    bench.run_all(&list);
}

#[test]
fn numbers_far_ahead_of_the_clock_are_impossible() {
    let (mut bench, peering) = Bench::with_session();
    let limit = bench.session_time() / 64 + SLACK;
    bench.run_all(&[
        refuse(&peering, limit + 60 * PER_SECOND, DropReason::InvalidSequence),
        refuse(&peering, 1 << 60, DropReason::InvalidSequence),
        refuse(&peering, u64::MAX, DropReason::InvalidSequence),
        // The impossible numbers have not used up any others:
        accept(&peering, SEQUENCE),
        accept(&peering, limit - PER_SECOND),
        refuse(&peering, limit - PER_SECOND, DropReason::Replayed),
        // That number has moved the window.
        refuse(&peering, SEQUENCE + 1, DropReason::InvalidSequence),
        accept(&peering, limit - PER_SECOND - WIDTH),
    ]);
}

#[test]
fn the_number_zero_is_a_number() {
    let (mut bench, peering) = Bench::with_session();
    bench.run_all(&[
        accept(&peering, 0),
        refuse(&peering, 0, DropReason::Replayed),
        accept(&peering, 1),
        accept(&peering, 15),
        accept(&peering, 16),
    ]);
}

#[test]
fn sessions_have_windows_of_their_own() {
    let (mut bench, first) = Bench::with_session();
    let second = Peering::new(1, crate::wire::Mode::Authenticate);
    bench.install(&second);
    bench.run_all(&[
        accept(&first, SEQUENCE),
        accept(&second, SEQUENCE),
        refuse(&first, SEQUENCE, DropReason::Replayed),
        refuse(&second, SEQUENCE, DropReason::Replayed),
    ]);
}

#[test]
fn a_forged_packet_burns_no_number() {
    let (mut bench, peering) = Bench::with_session();
    let mut list = Vec::new();
    for number in 0..2 * WIDTH {
        let packet = packet(&peering, SEQUENCE + number);
        let mut forged = packet.frame();
        let last = forged.len() - 1;
        forged[last] ^= 0x80;
        list.push(Fixture::drop(format!("number {number}, forged"), DropReason::BadTag, forged));
        list.push(Fixture::accept(format!("number {number}"), &peering, &packet));
    }
    bench.run_all(&list);
}

/// The tag does not cover checksum and congestion mark, so anybody on the way can send a changed copy ahead of the packet.
/// Such a copy must not use up the number of the packet itself.
#[test]
fn a_changed_copy_of_an_authentic_packet_burns_no_number() {
    let (mut bench, peering) = Bench::with_session();
    let first = packet(&peering, SEQUENCE);
    let mut wrong_sum = first.frame();
    wrong_sum[61] ^= 1;
    let second = packet(&peering, SEQUENCE + 1);
    let congested = Packet { traffic_class: 3, ..second.clone() };
    bench.run_all(&[
        Fixture::drop("a copy with a wrong checksum", DropReason::BadChecksum, wrong_sum),
        Fixture::accept("the packet after the copy with a wrong checksum", &peering, &first),
        Fixture::drop("a copy with a congestion mark", DropReason::Ecn, congested.frame()),
        Fixture::accept("the packet after the copy with a congestion mark", &peering, &second),
    ]);
}

#[test]
fn what_the_peer_itself_sealed_wrongly_is_refused_each_time() {
    let (mut bench, peering) = Bench::with_session();
    let stranger = "fd00:66::99".parse().expect("an address");
    let packet = peering.packet(CURRENT, SEQUENCE, ipv6(stranger, OWN6, 0, 60));
    bench.run_all(&[
        Fixture::drop("the first time", DropReason::InnerSource, packet.frame()),
        Fixture::drop("the second time", DropReason::InnerSource, packet.frame()),
    ]);
}
