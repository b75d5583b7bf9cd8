//! Probes of the path: control messages as long as the path carries, of which the controller gets the head.

use mtd_common::DropReason::{BadTag, ControlLimited, ControlTooLong, InnerSource};

use crate::harness::{Bench, Fixture, MTU, SEQUENCE};
use crate::inner::{IPV6_LEN, OWN6, PEER6};
use crate::message::{self, MAX_MESSAGE, PATH_PROBE};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, Packet};

/// Messages of a session that pass at once.
const SESSION_BURST: u64 = 40;

/// A probe of `length` bytes, inner header included.
fn probe(peering: &Peering, number: u64, length: usize) -> Packet {
    let mut inner = message::inner(PEER6, OWN6, length - IPV6_LEN);
    inner[IPV6_LEN] = PATH_PROBE;
    peering.packet(CURRENT, SEQUENCE + number, inner)
}

#[test]
fn probes_of_every_length_reach_the_controller_by_their_head() {
    for mode in Mode::BOTH {
        let mut bench = Bench::new();
        let peering = Peering::new(0, mode);
        bench.install(&peering);
        let lengths = [52, 53, IPV6_LEN + MAX_MESSAGE - 1, IPV6_LEN + MAX_MESSAGE];
        let longer = (IPV6_LEN + MAX_MESSAGE + 1..=MTU as usize).step_by(7).chain([1280, 1427, 1428]);
        for (number, length) in (0..).zip(lengths.into_iter().chain(longer)) {
            bench.rest(&peering);
            let name = format!("{mode:?}, {length} bytes");
            bench.check(&Fixture::divert(name, &peering, &probe(&peering, number, length)));
        }
    }
}

#[test]
fn what_is_no_probe_or_not_authentic_stays_refused() {
    let (mut bench, peering) = Bench::with_session();
    let introduction = Peering::introduction(1);
    bench.install(&introduction);
    let right = probe(&peering, 0, 1428);
    let mut list = Vec::new();
    for kind in (0..=9).filter(|kind| *kind != PATH_PROBE) {
        let mut packet = right.clone();
        packet.inner[IPV6_LEN] = kind;
        list.push(Fixture::drop(format!("type {kind}"), ControlTooLong, packet.frame()));
    }
    let mut forged = right.frame();
    *forged.last_mut().expect("a byte") ^= 1;
    list.push(Fixture::drop("padding that was changed", BadTag, forged));
    let mut cut = right.frame();
    cut.truncate(1400);
    list.push(Fixture::drop("cut short on the way", mtd_common::DropReason::LengthMismatch, cut));
    let stranger = Packet {
        inner: {
            let mut inner = message::inner("fd00:99::1".parse().expect("an address"), OWN6, 1388);
            inner[IPV6_LEN] = PATH_PROBE;
            inner
        },
        ..right.clone()
    };
    list.push(Fixture::drop("of nobody's", InnerSource, stranger.frame()));
    let mut introduced = introduction.message(CURRENT, 7, MAX_MESSAGE + 1);
    introduced.inner[IPV6_LEN] = PATH_PROBE;
    list.push(Fixture::drop("through an introduction", ControlTooLong, introduced.frame()));
    list.push(Fixture::divert("the right one", &peering, &right));
    bench.run_all(&list);
}

/// Whoever floods with probes meets the limit on the messages of his session.
#[test]
fn a_flood_of_probes_is_limited_as_other_messages_are() {
    let (mut bench, peering) = Bench::with_session();
    for number in 0..SESSION_BURST {
        bench.check(&Fixture::divert("a probe", &peering, &probe(&peering, number, 1428)));
    }
    // Each took 50 ms of the limit, and a run takes much less.
    let more = probe(&peering, SESSION_BURST + 1, 1428);
    let state = bench.plane.session_state(0).expect("a state");
    let full = mtd_common::abi::SessionState { rx_control: u64::MAX / 2, ..state };
    bench.plane.set_session_state(0, full).expect("room for its state");
    bench.check(&Fixture::lose("one more", ControlLimited, &peering, &more));
}
