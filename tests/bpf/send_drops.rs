//! Packets that the send program refuses.

use std::collections::BTreeMap;

use mtd::model::SessionIndex;
use mtd::proto::slots::SlotMaps as _;
use mtd_common::DropReason::{self, *};
use mtd_common::abi::Slot;
use mtd_common::packet::NEXT_UDP;
use mtd_common::packet::inner::{CONTROL_MARK, NEXT_CONTROL};

use crate::harness::{Bench, MTU, SLOTS, TC_ACT_SHOT};
use crate::inner::{OWN4, OWN6, PEER4, PEER6, Version, framed, framed_as, ipv4, ipv6};
use crate::peering::{CURRENT, Peering};
use crate::wire::Mode;

/// The faulty sessions of [`bench`]. Number 0 is the one that works.
const ENDED: u32 = 1;
const NO_SLOT: u32 = 2;
const OLD_SLOT: u32 = 3;
const OTHERS_SLOT: u32 = 4;
const NO_MODE: u32 = 5;
const NO_PERIOD: u32 = 6;

/// The mark of sealed packets.
const OUTER_MARK: u32 = 0x6d74;

/// A frame from the tunnel device, and why it is not sent.
pub(crate) struct SendFixture {
    name: &'static str,
    pub(crate) reason: DropReason,
    frame: Vec<u8>,
    context: Option<[u8; 192]>,
}

fn to4(destination: [u8; 4]) -> Vec<u8> {
    framed(&ipv4(OWN4, destination.into(), 0, 60))
}

fn to6(destination: &str) -> Vec<u8> {
    framed(&ipv6(OWN6, destination.parse().expect("an address"), 0, 60))
}

/// An inner packet to the working peer, with one byte set.
fn set(version: Version, at: usize, value: u8) -> Vec<u8> {
    let mut packet = version.sent(0, 60);
    packet[at] = value;
    framed_as(crate::inner::ethertype(&version.sent(0, 60)), &packet)
}

/// A `__sk_buff` with a segment size, as of a packet that will be segmented later.
fn segmented() -> [u8; 192] {
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    context[GSO_SEGS..][..4].copy_from_slice(&2_u32.to_ne_bytes());
    context[GSO_SIZE..][..4].copy_from_slice(&600_u32.to_ne_bytes());
    context
}

/// A `__sk_buff` with a mark.
pub(crate) fn marked(mark: u32) -> [u8; 192] {
    const MARK: usize = 8;
    let mut context = [0; 192];
    context[MARK..][..4].copy_from_slice(&mark.to_ne_bytes());
    context
}

/// At least one fixture for every reason of the send program, for the sessions of [`bench`]. There are none of packets that
/// end within their IP header, because the kernel refuses to run a program on those.
pub(crate) fn fixtures() -> Vec<SendFixture> {
    let fixture = |name, reason, frame| SendFixture { name, reason, frame, context: None };
    let over = MTU as usize + 1;
    let mapped = "::ffff:10.66.0.2".parse().expect("an address");
    let mut list = vec![
        fixture("no route, IPv4", SendNoPeer, to4([192, 0, 2, 1])),
        fixture("no route, IPv6", SendNoPeer, to6("2001:db8::1")),
        fixture("multicast", SendNoPeer, to6("ff02::2")),
        fixture("broadcast", SendNoPeer, to4([255; 4])),
        fixture("an ended session", SendNoPeer, to4([10, 0, 0, ENDED as u8])),
        fixture("a session without period", SendNoPeer, to4([10, 0, 0, NO_PERIOD as u8])),
        fixture("no slot loaded", SendNoSlot, to4([10, 0, 0, NO_SLOT as u8])),
        fixture("a slot of one turn of the ring ago", SendNoSlot, to4([10, 0, 0, OLD_SLOT as u8])),
        fixture("a slot of an earlier generation", SendNoSlot, to4([10, 0, 0, OTHERS_SLOT as u8])),
        fixture("one byte over the MTU, IPv4", SendTooBig, framed(&Version::V4.sent(0, over))),
        fixture("one byte over the MTU, IPv6", SendTooBig, framed(&Version::V6.sent(0, over))),
        fixture("a jumbo packet", SendTooBig, framed(&Version::V6.sent(0, 3000))),
        fixture("ARP", SendMalformed, framed_as([8, 6], &[0; 28])),
        fixture(
            "a VLAN tag",
            SendMalformed,
            framed_as([0x81, 0], &[[0; 4].as_slice(), &[0x45; 60]].concat()),
        ),
        fixture("MPLS", SendMalformed, framed_as([0x88, 0x47], &[0x45; 60])),
        fixture("IPv4 as IPv6", SendMalformed, framed_as([0x86, 0xdd], &Version::V4.sent(0, 60))),
        fixture("IPv6 as IPv4", SendMalformed, framed_as([8, 0], &Version::V6.sent(0, 60))),
        fixture("IPv4 header of 4 words", SendMalformed, set(Version::V4, 0, 0x44)),
        fixture("IPv4 total length too small", SendMalformed, set(Version::V4, 3, 59)),
        fixture("IPv4 total length too big", SendMalformed, set(Version::V4, 3, 61)),
        fixture("IPv6 payload length too small", SendMalformed, set(Version::V6, 5, 19)),
        fixture("IPv6 payload length too big", SendMalformed, set(Version::V6, 5, 21)),
        fixture("to an IPv4-mapped address", SendMalformed, framed(&ipv6(OWN6, mapped, 0, 60))),
        fixture("from an IPv4-mapped address", SendMalformed, framed(&ipv6(mapped, PEER6, 0, 60))),
    ];
    let mut control = Version::V6.sent(0, 60);
    control[6] = NEXT_CONTROL;
    list.push(fixture("a control message of nobody's", SendControl, framed(&control)));
    list.push(SendFixture {
        name: "a control message with another mark",
        reason: SendControl,
        frame: framed(&control),
        context: Some(marked(CONTROL_MARK ^ 4)),
    });
    let mut sealed = Version::V6.sent(0, 60);
    sealed[6] = NEXT_UDP;
    list.push(SendFixture {
        name: "a packet that was sealed before",
        reason: SendLoop,
        frame: framed(&sealed),
        context: Some(marked(OUTER_MARK)),
    });
    list.push(SendFixture {
        name: "a packet to be segmented",
        reason: SendOffload,
        frame: framed(&Version::V6.sent(0, 1400)),
        context: Some(segmented()),
    });
    list
}

fn bench() -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.fwmark = OUTER_MARK);
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    for index in [ENDED, NO_SLOT, OLD_SLOT, OTHERS_SLOT, NO_MODE, NO_PERIOD] {
        let other = Peering::new(index, Mode::Encrypt);
        if index != NO_SLOT {
            bench.install(&other);
        }
        bench.install_bare(&other);
        bench.route(&format!("10.0.0.{index}/32"), &other);
    }
    let mut change = |index: u32, change: &dyn Fn(&mut mtd_common::abi::Session)| {
        let mut session = bench.plane.session(index).expect("a session");
        change(&mut session);
        bench.plane.set_session(index, session).expect("a session");
    };
    change(ENDED, &|session| session.generation += 1);
    change(NO_MODE, &|session| session.mode = 0);
    change(NO_PERIOD, &|session| session.period = 0);
    let slots = bench.plane.slots();
    // The same element of the ring as the current slot.
    let old = Peering::new(OLD_SLOT, Mode::Encrypt).slot(CURRENT - u64::from(SLOTS));
    slots.load(SessionIndex(OLD_SLOT), &old).expect("room");
    let others = Peering::new(OTHERS_SLOT, Mode::Encrypt).slot(CURRENT);
    slots
        .load(SessionIndex(OTHERS_SLOT), &Slot { generation: others.generation - 1, ..others })
        .expect("room");
    (bench, peering)
}

#[test]
fn every_fixture_is_refused_for_its_reason() {
    let (mut bench, peering) = bench();
    for fixture in fixtures() {
        let outcome = bench.send_with(&fixture.frame, fixture.context.as_ref().map(<[u8; 192]>::as_slice));
        let result = outcome.dropped(TC_ACT_SHOT, &fixture.frame, fixture.reason);
        result.unwrap_or_else(|error| panic!("{}: {error:#}", fixture.name));
        assert!(outcome.frame == fixture.frame, "{}: refused, but changed", fixture.name);
    }
    // The working session still works.
    for inner in [Version::V4.sent(0, 60), Version::V6.sent(0, 60)] {
        crate::send::sealed(&peering, CURRENT, &bench.send(&framed(&inner))).expect("a sealed packet");
    }
    assert_eq!(bench.plane.counts().expect("the counters").frames.sent, 2);
}

#[test]
fn the_configured_mtu_is_the_limit() {
    for mtu in [1280, 1400, 1428] {
        let (mut bench, peering) = bench();
        bench.configure(|settings| settings.inner_mtu = mtu);
        for version in Version::BOTH {
            let fits = bench.send(&framed(&version.sent(0, mtu as usize)));
            crate::send::sealed(&peering, CURRENT, &fits)
                .unwrap_or_else(|error| panic!("{version:?}, {mtu} bytes: {error:#}"));
            let frame = framed(&version.sent(0, mtu as usize + 1));
            bench.send(&frame).dropped(TC_ACT_SHOT, &frame, SendTooBig).expect("one byte too many");
        }
    }
}

/// A configured MTU beyond what the cipher takes.
#[test]
fn nothing_longer_than_the_cipher_takes_is_sent() {
    let (mut bench, _) = bench();
    bench.configure(|settings| settings.inner_mtu = 9000);
    for length in [1429, 1492, 3000] {
        let frame = framed(&Version::V6.sent(0, length));
        let outcome = bench.send(&frame);
        assert_eq!(outcome.drops, BTreeMap::from([(SendTooBig, 1)]), "{length} bytes");
    }
}

/// This is noticed only after room for the headers has been made: the number is used up, but the packet is not sent.
#[test]
fn a_session_without_mode_sends_nothing() {
    let (mut bench, _) = bench();
    let outcome = bench.send(&to4([10, 0, 0, NO_MODE as u8]));
    assert_eq!((outcome.verdict, outcome.drops), (TC_ACT_SHOT, BTreeMap::from([(SendNoPeer, 1)])));
    let state = outcome.states.1[NO_MODE as usize];
    assert_eq!((state.tx_packets, state.tx_bytes), (0, 0), "counted as sent");
}

#[test]
fn a_session_that_ends_takes_its_routes_along() {
    let (mut bench, peering) = bench();
    let frame = framed(&ipv4(OWN4, PEER4, 0, 60));
    crate::send::sealed(&peering, CURRENT, &bench.send(&frame)).expect("a sealed packet");
    bench.plane.set_session(0, mtd_common::abi::Session::default()).expect("a session");
    bench.send(&frame).dropped(TC_ACT_SHOT, &frame, SendNoPeer).expect("ended");
}
