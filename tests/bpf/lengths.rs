//! Packets truncated to every length, with bytes after the end, and with wrong length fields.

use mtd_common::DropReason;

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::Version;
use crate::peering::CURRENT;
use crate::wire::{INNER_AT, with_right_lengths};

const INNER: usize = 173;

#[test]
fn a_packet_cut_short_anywhere_is_dropped() {
    let (mut bench, peering) = Bench::with_session();
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, INNER));
    let frame = packet.frame();
    let mut list = Vec::new();
    for length in 14..frame.len() {
        let reason = if length < 62 { DropReason::Truncated } else { DropReason::LengthMismatch };
        list.push(Fixture::drop(format!("{length} bytes"), reason, frame[..length].to_vec()));
    }
    for length in 62..frame.len() {
        let reason = if length < INNER_AT + 20 { DropReason::TooShort } else { DropReason::BadTag };
        let cut = with_right_lengths(&frame[..length]);
        list.push(Fixture::drop(format!("{length} bytes, lengths and checksum right"), reason, cut));
    }
    list.push(Fixture::accept("the whole packet", &peering, &packet));
    bench.run_all(&list);
}

#[test]
fn bytes_behind_a_packet_are_not_let_in() {
    let (mut bench, peering) = Bench::with_session();
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, INNER));
    let mut list = Vec::new();
    for more in 1..=64 {
        let longer = [packet.frame(), vec![0; more]].concat();
        list.push(Fixture::drop(format!("{more} bytes behind"), DropReason::LengthMismatch, longer.clone()));
        let right = with_right_lengths(&longer);
        list.push(Fixture::drop(format!("{more} bytes more, lengths right"), DropReason::BadTag, right));
    }
    list.push(Fixture::accept("the packet itself", &peering, &packet));
    bench.run_all(&list);
}

#[test]
fn lengths_that_do_not_agree_are_refused() {
    let (mut bench, peering) = Bench::with_session();
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, INNER));
    let frame = packet.frame();
    let right = (frame.len() - 54) as u16;
    let mut list = Vec::new();
    // A length of 0 belongs to a jumbogram (RFC 2675), which mtd does not support.
    for wrong in [0, 8, right - 1, right + 1, u16::MAX] {
        for (name, places) in [("IPv6", &[18][..]), ("UDP", &[58]), ("IPv6 and UDP", &[18, 58])] {
            let mut changed = frame.clone();
            for place in places {
                changed[*place..place + 2].copy_from_slice(&wrong.to_be_bytes());
            }
            let name = format!("{name} length {wrong} instead of {right}");
            list.push(Fixture::drop(name, DropReason::LengthMismatch, changed));
        }
    }
    list.push(Fixture::accept("the packet itself", &peering, &packet));
    bench.run_all(&list);
}

#[test]
fn the_mtu_is_the_limit() {
    for mtu in [1280_u32, 1400, 1428] {
        let (mut bench, peering) = Bench::with_session();
        bench.configure(|settings| settings.inner_mtu = mtu);
        let fits = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, mtu as usize));
        let over = peering.packet(CURRENT, SEQUENCE + 1, Version::V6.received(0, mtu as usize + 1));
        bench.run_all(&[
            Fixture::drop(format!("MTU {mtu} and one byte"), DropReason::Oversized, over.frame()),
            Fixture::accept(format!("MTU {mtu}"), &peering, &fits),
        ]);
    }
}

/// Packets longer than the cipher supports are dropped, whatever the settings say.
#[test]
fn an_mtu_beyond_the_ciphers_reach_lets_nothing_bigger_in() {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.inner_mtu = 9000);
    let list: Vec<Fixture> = [1429, 1430, 1472, 1492, 1536, 3000]
        .into_iter()
        .map(|length| {
            let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, length));
            Fixture::drop(format!("{length} bytes"), DropReason::Oversized, packet.frame())
        })
        .collect();
    bench.run_all(&list);
}
