//! Inner IPv6 packets that are too long for the path: two parts, which make the packet again.

use mtd_common::DropReason::{self, SendMalformed, SendTooBig};
use mtd_common::abi::SessionState;
use mtd_common::packet::inner::CONTROL_MARK;

use crate::harness::{Bench, Outcome, TC_ACT_SHOT};
use crate::inner::{IPV6_LEN, Version, framed};
use crate::message::NEXT_CONTROL;
use crate::peering::{CURRENT, Peering};
use crate::send::sealed;
use crate::send_drops::marked;

/// Mark of a packet of which only the second part is sent; the lower half says where that begins.
const SECOND_PART: u32 = 0x6d75_0000;
const NEXT_FRAGMENT: u8 = 44;
const HEADER: usize = 8;
/// The loopback interface: there the copy for the second part arrives, and is nobody's.
const LOOPBACK: u32 = 1;

/// A bench whose session may send inner packets of up to `longest` bytes.
fn bench(longest: u64) -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.tunnel_ifindex = LOOPBACK);
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    let state = SessionState { tx_longest: longest, ..SessionState::default() };
    bench.plane.set_session_state(0, state).expect("room for its state");
    (bench, peering)
}

/// The inner packet with a fragment header of one part.
fn whole(packet: &[u8], id: [u8; 4]) -> Vec<u8> {
    let mut whole = packet[..IPV6_LEN].to_vec();
    let length = (packet.len() - IPV6_LEN + HEADER) as u16;
    whole[4..6].copy_from_slice(&length.to_be_bytes());
    whole[6] = NEXT_FRAGMENT;
    whole.extend([packet[6], 0, 0, 0]);
    whole.extend(id);
    whole.extend(&packet[IPV6_LEN..]);
    whole
}

/// The part of a packet with a fragment header that begins after `from` bytes and has `length`.
fn part(whole: &[u8], from: usize, length: usize) -> Vec<u8> {
    let behind = IPV6_LEN + HEADER;
    let mut part = whole[..behind].to_vec();
    let place = u16::from_be_bytes([whole[42], whole[43]]);
    let more = u16::from(behind + from + length < whole.len());
    part[42..44].copy_from_slice(&((place + from as u16) | more).to_be_bytes());
    part[4..6].copy_from_slice(&((HEADER + length) as u16).to_be_bytes());
    part.extend(&whole[behind + from..behind + from + length]);
    part
}

/// Sends a packet, and the copy of it that goes round; checks both parts against the reference.
fn check(bench: &mut Bench, peering: &Peering, longest: usize, packet: &[u8]) {
    let outcome = bench.send(&framed(packet));
    let name = format!("{} bytes where {longest} are carried", packet.len());
    let first = sealed(peering, CURRENT, &outcome).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert_eq!(outcome.frames.cut, 1, "{name}");
    let kept = (longest - IPV6_LEN - HEADER) / 8 * 8;
    let id = (first.sequence as u32 - 1).to_be_bytes();
    let whole = if packet[6] == NEXT_FRAGMENT { packet.to_vec() } else { whole(packet, id) };
    assert_eq!(first.inner, part(&whole, 0, kept), "{name}");
    let context = marked(SECOND_PART | kept as u32);
    let outcome = bench.send_with(&framed(&whole), Some(&context));
    let second = sealed(peering, CURRENT, &outcome).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert_eq!(second.inner, part(&whole, kept, whole.len() - IPV6_LEN - HEADER - kept), "{name}");
    assert!(first.inner.len() <= longest && second.inner.len() <= longest, "{name}");
}

#[test]
fn long_packets_leave_in_two_parts() {
    for longest in [1208, 1209, 1228, 1279, 1350] {
        let (mut bench, peering) = bench(longest as u64);
        for length in [longest + 1, longest + 2, longest + 9, 1360, 1400, 1427, 1428] {
            check(&mut bench, &peering, longest, &Version::V6.sent(0, length));
        }
    }
}

/// A host has cut it already.
#[test]
fn parts_are_cut_into_smaller_parts() {
    let (mut bench, peering) = bench(1208);
    for more in [0, 1] {
        let mut packet = Version::V6.sent(0, 1280);
        packet[6] = NEXT_FRAGMENT;
        packet[IPV6_LEN..IPV6_LEN + HEADER].copy_from_slice(&[17, 0, 0x04, 0xd0 | more, 1, 2, 3, 4]);
        let outcome = bench.send(&framed(&packet));
        let first = outcome.frames.cut;
        assert_eq!(first, 1);
        let parts = [
            open_one(&peering, &outcome),
            open_one(&peering, &bench.send_with(&framed(&packet), Some(&marked(SECOND_PART + 1160)))),
        ];
        let head = |part: &[u8]| <[u8; 8]>::try_from(&part[IPV6_LEN..IPV6_LEN + HEADER]).expect("a header");
        assert_eq!(head(&parts[0]), [17, 0, 0x04, 0xd1, 1, 2, 3, 4]);
        assert_eq!(head(&parts[1]), [17, 0, 0x09, 0x58 | more, 1, 2, 3, 4]);
        let together = [&parts[0][48..], &parts[1][48..]].concat();
        assert_eq!(together, packet[48..]);
    }
}

/// What was sent, without a look at the session's state.
fn open_one(peering: &Peering, outcome: &Outcome) -> Vec<u8> {
    let mut frame = outcome.frame.clone();
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let outer = mtd_tests::packet::Outer::parse(&frame).expect("a packet");
    crate::wire::open(&peering.tx, peering.mode, CURRENT, outer.payload).expect("a right tag").1
}

#[test]
fn what_fits_or_is_divided_elsewhere_stays_whole() {
    let (mut bench, peering) = bench(1228);
    for packet in [Version::V6.sent(0, 1228), Version::V6.sent(0, 40), Version::V4.sent(0, 1428)] {
        let outcome = bench.send(&framed(&packet));
        let sent = sealed(&peering, CURRENT, &outcome).expect("a sealed packet");
        assert_eq!((outcome.frames.cut, sent.inner), (0, packet));
    }
    // A probe has to be as long as it is.
    let mut probe = Version::V6.sent(0, 1428);
    probe[6] = NEXT_CONTROL;
    let outcome = bench.send_with(&framed(&probe), Some(&marked(CONTROL_MARK)));
    assert_eq!(sealed(&peering, CURRENT, &outcome).expect("a sealed packet").inner, probe);
    // No limit.
    let (mut bench, peering) = self::bench(0);
    let packet = Version::V6.sent(0, 1428);
    let outcome = bench.send(&framed(&packet));
    assert_eq!(sealed(&peering, CURRENT, &outcome).expect("a sealed packet").inner, packet);
}

#[test]
fn what_cannot_be_cut_is_counted() {
    let (mut bench, _) = bench(1208);
    let set = |at: usize, value: u8| {
        let mut packet = Version::V6.sent(0, 1280);
        packet[at] = value;
        packet
    };
    let refused = |outcome: &Outcome, reason: DropReason, name: &str| {
        assert_eq!(outcome.verdict, TC_ACT_SHOT, "{name}");
        assert_eq!(outcome.drops.iter().collect::<Vec<_>>(), [(&reason, &1)], "{name}");
        assert_eq!(outcome.frames.sent, 0, "{name}");
    };
    for next in [0, 43] {
        refused(&bench.send(&framed(&set(6, next))), SendTooBig, "options for every router");
    }
    // Marks that a host has set itself.
    let kept = |bytes: u32| marked(SECOND_PART | bytes);
    let mut fragment = set(6, NEXT_FRAGMENT);
    fragment[42..44].copy_from_slice(&[0, 0]);
    for (name, packet, context) in [
        ("no fragment", Version::V6.sent(0, 1280), kept(1160)),
        ("IPv4", Version::V4.sent(0, 1280), kept(1160)),
        ("nothing left", fragment.clone(), kept(1232)),
        ("less than nothing left", fragment.clone(), kept(65_528)),
        ("no unit of eight bytes", fragment.clone(), kept(1161)),
        ("nothing taken", fragment, kept(0)),
    ] {
        refused(&bench.send_with(&framed(&packet), Some(&context)), SendMalformed, name);
    }
}
