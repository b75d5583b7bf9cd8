//! Filters of sessions: no way round them, whichever way a packet takes. (A packet that another CPU opens cannot be run in
//! isolation: see `netns/sessions/filter.rs`.)

use std::collections::BTreeMap;

use aya::maps::ProgramArray;
use mtd::dataplane::Maker;
use mtd::model::{Filter, Frames, Reject};
use mtd_common::DropReason::{self, FilterMissing, Filtered, SendFilterMissing, SendFiltered};
use mtd_common::abi::{FLAG_FILTER, SessionState};
use mtd_common::keystream::{Direction, Wanted};
use mtd_common::packet::inner::CONTROL_MARK;

use crate::harness::{Bench, SEQUENCE, TC_ACT_REDIRECT, TC_ACT_SHOT, TUNNEL_MAC, XDP_DROP};
use crate::inner::{Version, framed, ones_complement_sum, with_ipv4_checksum};
use crate::message::NEXT_CONTROL;
use crate::outcome::Outcome;
use crate::peering::{CURRENT, Peering};
use crate::send::sealed;
use crate::send_drops::marked;
use crate::wire::Mode;

/// Mark of a packet of which only the second part is sent.
const SECOND_PART: u32 = 0x6d75_0000;
const NEXT_FRAGMENT: u8 = 44;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// How a packet is opened or sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Ahead,
    Authenticate,
}

/// A data plane with one session, which has the filter of these rules.
fn bench(mode: Mode, rules: &[&str], reject: Reject) -> (Bench, Peering) {
    let mut bench = Bench::new();
    let peering = Peering::new(0, mode);
    bench.install(&peering);
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    give(&mut bench, rules, reject);
    (bench, peering)
}

/// Gives the session the filter of these rules.
fn give(bench: &mut Bench, rules: &[&str], reject: Reject) {
    let rules = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
    let number = bench.plane.policies().add(&Filter { rules, reject }).expect("room for a policy");
    bench.plane.policies().assign(0, number).expect("a session");
    let mut session = bench.plane.session(0).expect("a session");
    session.flags |= FLAG_FILTER;
    bench.plane.set_session(0, session).expect("a session");
}

/// A packet of 120 bytes, from the peer or to it, with these ports and flags.
fn packet(version: Version, inward: bool, protocol: u8, ports: [u16; 2], flags: u8) -> Vec<u8> {
    let mut packet = if inward { version.received(0, 120) } else { version.sent(0, 120) };
    let at = version.header_len();
    packet[at..at + 2].copy_from_slice(&ports[0].to_be_bytes());
    packet[at + 2..at + 4].copy_from_slice(&ports[1].to_be_bytes());
    packet[at + 13] = flags;
    set_protocol(&mut packet, protocol);
    packet
}

fn set_protocol(packet: &mut [u8], protocol: u8) {
    if packet[0] >> 4 == 4 {
        packet[9] = protocol;
        with_ipv4_checksum(packet);
    } else {
        packet[6] = protocol;
    }
}

/// Lets the key stream for the packet after this one be made ahead.
fn make_ahead(bench: &mut Bench, peering: &Peering, direction: Direction, sequence: u64) -> Maker {
    let mut maker = bench.plane.take_maker().expect("lanes");
    maker.ask(Wanted {
        sequence,
        slot: CURRENT as u32,
        session: peering.index,
        generation: peering.generation,
        direction: direction as u32,
    });
    maker
}

/// Checks that an opened packet was dropped: counted for its session, and its number used.
fn require_filtered(outcome: &Outcome, reason: DropReason, name: &str) {
    assert_eq!((outcome.verdict, &outcome.drops), (XDP_DROP, &BTreeMap::from([(reason, 1)])), "{name}");
    assert_eq!(outcome.frames.accepted, 0, "{name}");
    let [before, after] = [&outcome.states.0[0], &outcome.states.1[0]];
    assert_eq!(after.rx_packets, before.rx_packets + 1, "{name}");
    assert!(after.rx_last_valid > 0 && after.rx_highest > 0, "{name}");
}

fn require_kept_in(outcome: &Outcome, reason: DropReason, name: &str) {
    assert_eq!((outcome.verdict, &outcome.drops), (TC_ACT_SHOT, &BTreeMap::from([(reason, 1)])), "{name}");
    assert_eq!((outcome.frames.sent, &outcome.states.0), (0, &outcome.states.1), "{name}");
}

/// Packets by protocol, ports and TCP flags, and whether [`RULES`] let them pass.
type Cases<const N: usize> = [(u8, [u16; 2], u8, bool); N];

const RULES: [&str; 2] = ["allow in tcp/22", "allow out udp/53"];

const RECEIVED: Cases<7> = [
    (TCP, [50_000, 22], SYN, true),
    (TCP, [50_000, 22], ACK, true),
    (TCP, [50_000, 23], SYN, false),
    (TCP, [22, 50_000], SYN, false),
    (UDP, [53, 50_000], 0, true),
    (UDP, [50_000, 53], 0, false),
    (47, [50_000, 22], 0, false),
];

const SENT: Cases<6> = [
    (TCP, [22, 50_000], SYN | ACK, true),
    (TCP, [22, 50_000], SYN, false),
    (TCP, [50_000, 22], SYN, false),
    (UDP, [50_000, 53], 0, true),
    (UDP, [50_000, 54], 0, false),
    (47, [50_000, 53], 0, false),
];

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::Ahead, Self::Authenticate];

    const fn mode(self) -> Mode {
        if matches!(self, Self::Authenticate) { Mode::Authenticate } else { Mode::Encrypt }
    }

    const fn is_ahead(self) -> u64 {
        matches!(self, Self::Ahead) as u64
    }
}

#[test]
fn every_way_of_a_received_packet_leads_through_the_filter() {
    for (way, version) in Way::ALL.into_iter().flat_map(|way| Version::BOTH.map(|version| (way, version))) {
        let (mut bench, peering) = bench(way.mode(), &RULES, Reject::Drop);
        let ahead = way == Way::Ahead;
        let _maker = ahead.then(|| make_ahead(&mut bench, &peering, Direction::Receive, SEQUENCE - 1));
        for (sequence, (protocol, ports, flags, passes)) in (SEQUENCE..).zip(RECEIVED) {
            let inner = packet(version, true, protocol, ports, flags);
            let outcome = bench.receive(&peering.packet(CURRENT, sequence, inner.clone()).frame());
            let name = format!("{way:?}, {version:?}, {protocol}, {ports:?}, {flags}");
            assert_eq!(outcome.frames.opened_ahead, way.is_ahead(), "{name}");
            if passes {
                outcome.accepted(0, sequence, &inner).unwrap_or_else(|error| panic!("{name}: {error:#}"));
                continue;
            }
            require_filtered(&outcome, Filtered, &name);
            for (event, _) in &outcome.events {
                assert_eq!(event.next_header, protocol, "{name}");
                assert_eq!(event.destination_port == ports[1].to_be_bytes(), protocol != 47, "{name}");
            }
        }
    }
}

#[test]
fn every_way_of_a_sent_packet_leads_through_the_filter() {
    for (way, version) in Way::ALL.into_iter().flat_map(|way| Version::BOTH.map(|version| (way, version))) {
        let (mut bench, peering) = bench(way.mode(), &RULES, Reject::Drop);
        let _maker = (way == Way::Ahead).then(|| make_ahead(&mut bench, &peering, Direction::Send, 0));
        if way == Way::Ahead {
            let state = bench.plane.session_state(0).expect("a state");
            let state = SessionState { tx_sequence: 1, ..state };
            bench.plane.set_session_state(0, state).expect("a state");
        }
        for (protocol, ports, flags, passes) in SENT {
            let inner = packet(version, false, protocol, ports, flags);
            let outcome = bench.send(&framed(&inner));
            let name = format!("{way:?}, {version:?}, {protocol}, {ports:?}, {flags}");
            if !passes {
                require_kept_in(&outcome, SendFiltered, &name);
                continue;
            }
            let sent =
                sealed(&peering, CURRENT, &outcome).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!((sent.inner, outcome.frames.sealed_ahead), (inner, way.is_ahead()), "{name}");
        }
    }
}

#[test]
fn control_messages_are_not_filtered() {
    let (mut bench, peering) = bench(Mode::Encrypt, &["deny"], Reject::Drop);
    let message = peering.message(CURRENT, SEQUENCE, 60);
    bench.check(&crate::harness::Fixture::divert("a control message", &peering, &message));
    let mut message = Version::V6.sent(0, 100);
    message[6] = NEXT_CONTROL;
    let outcome = bench.send_with(&framed(&message), Some(&marked(CONTROL_MARK)));
    assert_eq!(sealed(&peering, CURRENT, &outcome).expect("a sealed message").inner, message);
    // Without the controller's mark it is none.
    let outcome = bench.send(&framed(&message));
    require_kept_in(&outcome, DropReason::SendControl, "a forged control message");
}

#[test]
fn without_its_policy_nothing_passes() {
    let (mut bench, peering) = bench(Mode::Encrypt, &["allow"], Reject::Drop);
    bench.plane.policies().assign(0, 999).expect("a session");
    let inner = Version::V6.received(0, 120);
    let outcome = bench.receive(&peering.packet(CURRENT, SEQUENCE, inner.clone()).frame());
    require_filtered(&outcome, FilterMissing, "received");
    require_kept_in(&bench.send(&framed(&Version::V4.sent(0, 120))), SendFilterMissing, "sent");
    // Its policy is there again, then removed.
    give(&mut bench, &["allow"], Reject::Drop);
    let outcome = bench.receive(&peering.packet(CURRENT, SEQUENCE + 1, inner.clone()).frame());
    outcome.accepted(0, SEQUENCE + 1, &inner).expect("allowed");
    for number in bench.plane.policies().numbers() {
        bench.plane.policies().remove(number).expect("a policy");
    }
    let outcome = bench.receive(&peering.packet(CURRENT, SEQUENCE + 2, inner).frame());
    require_filtered(&outcome, FilterMissing, "received");
}

#[test]
fn where_the_stage_is_missing_nothing_passes() {
    use mtd_common::abi::stages::{FILTER, SEAL};

    let clear = |bench: &mut Bench, array: &str, place: u32| {
        let map = bench.plane.ebpf_mut().map_mut(array).expect("a map");
        ProgramArray::try_from(map).expect("an array of programs").clear_index(&place).expect("a place");
    };
    let (mut bench, peering) = bench(Mode::Encrypt, &["allow"], Reject::Drop);
    clear(&mut bench, "STAGES_SEND", SEAL);
    require_kept_in(&bench.send(&framed(&Version::V4.sent(0, 120))), SendFilterMissing, "no way back");
    clear(&mut bench, "STAGES_SEND", FILTER);
    require_kept_in(&bench.send(&framed(&Version::V4.sent(0, 120))), SendFilterMissing, "sent");
    clear(&mut bench, "STAGES_RECEIVE", FILTER);
    let outcome = bench.receive(&peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120)).frame());
    assert_eq!((outcome.verdict, outcome.drops), (XDP_DROP, BTreeMap::from([(FilterMissing, 1)])));
    assert_eq!(outcome.frames.accepted, 0);
}

#[test]
fn a_session_without_filter_is_as_before() {
    let (mut bench, peering) = Bench::with_session();
    bench.plane.policies().assign(0, 999).expect("a session");
    let packet = peering.packet(CURRENT, SEQUENCE, packet(Version::V6, true, TCP, [1, 2], SYN));
    bench.check(&crate::harness::Fixture::accept("a packet", &peering, &packet));
}

/// An inner IPv6 packet with a fragment header: `from` bytes are before the part.
fn part(whole: &[u8], from: u16, more: bool) -> Vec<u8> {
    let mut part = whole[..40].to_vec();
    let length = (whole.len() - 40 + 8) as u16;
    part[4..6].copy_from_slice(&length.to_be_bytes());
    part[6] = NEXT_FRAGMENT;
    part.extend([whole[6], 0]);
    part.extend((from | u16::from(more)).to_be_bytes());
    part.extend([9, 9, 9, 9]);
    part.extend(&whole[40..]);
    part
}

#[test]
fn later_parts_pass_with_their_first_one_only() {
    let (mut bench, peering) = bench(Mode::Encrypt, &["allow in udp/53"], Reject::Drop);
    let mut sequence = SEQUENCE;
    let mut receive = |bench: &mut Bench, inner: Vec<u8>| {
        sequence += 1;
        bench.receive(&peering.packet(CURRENT, sequence, inner).frame())
    };
    let allowed = packet(Version::V6, true, UDP, [9, 53], 0);
    let denied = packet(Version::V6, true, UDP, [9, 54], 0);
    require_filtered(&receive(&mut bench, part(&allowed, 80, false)), Filtered, "before the first part");
    require_filtered(
        &receive(&mut bench, part(&denied, 0, true)),
        Filtered,
        "a first part that may not pass",
    );
    require_filtered(&receive(&mut bench, part(&denied, 80, false)), Filtered, "behind that");
    assert_eq!(receive(&mut bench, part(&allowed, 0, true)).frames.accepted, 1);
    assert_eq!(
        receive(&mut bench, part(&denied, 80, false)).frames.accepted,
        1,
        "behind a first part that passed"
    );
    // Of another packet.
    let mut other = part(&allowed, 80, false);
    other[44] ^= 1;
    require_filtered(&receive(&mut bench, other), Filtered, "a later part of another packet");
    // A rule without ports needs no first part.
    give(&mut bench, &["allow udp"], Reject::Drop);
    let mut other = part(&allowed, 80, false);
    other[45] ^= 1;
    assert_eq!(receive(&mut bench, other).frames.accepted, 1);
}

#[test]
fn headers_in_front_hide_nothing() {
    let (mut bench, peering) = bench(Mode::Encrypt, &["allow", "deny in tcp/23"], Reject::Drop);
    for (n, (port, headers, passes)) in
        [(22, 1, true), (23, 0, false), (23, 1, false), (23, 8, false), (22, 8, true), (22, 9, false)]
            .into_iter()
            .enumerate()
    {
        let tcp = packet(Version::V6, true, TCP, [9, port], SYN);
        let mut inner = tcp[..40].to_vec();
        for header in 0..headers {
            if header == 0 {
                inner[6] = 60;
            }
            inner.extend([if header + 1 == headers { TCP } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        inner.extend(&tcp[40..]);
        let length = (inner.len() - 40) as u16;
        inner[4..6].copy_from_slice(&length.to_be_bytes());
        let sequence = SEQUENCE + n as u64;
        let outcome = bench.receive(&peering.packet(CURRENT, sequence, inner.clone()).frame());
        let name = format!("port {port} behind {headers} headers");
        if passes {
            outcome.accepted(0, sequence, &inner).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        } else {
            require_filtered(&outcome, Filtered, &name);
        }
    }
}

#[test]
fn packets_that_are_cut_in_two_lead_through_the_filter() {
    for (port, passes) in [(53, true), (54, false)] {
        let (mut bench, peering) = bench(Mode::Encrypt, &["allow out udp/53"], Reject::Drop);
        bench.configure(|settings| settings.tunnel_ifindex = 1);
        let state = SessionState { tx_longest: 1208, ..SessionState::default() };
        bench.plane.set_session_state(0, state).expect("room for its state");
        let mut long = Version::V6.sent(0, 1400);
        long[42..44].copy_from_slice(&u16::to_be_bytes(port));
        let first = bench.send(&framed(&long));
        // As the copy that goes round.
        let mut whole = part(&long, 0, false);
        whole[44..48].copy_from_slice(&0_u32.to_be_bytes());
        let second = bench.send_with(&framed(&whole), Some(&marked(SECOND_PART + 1160)));
        if passes {
            let first = sealed(&peering, CURRENT, &first).expect("the first part");
            let second = sealed(&peering, CURRENT, &second).expect("the second part");
            assert_eq!([&first.inner[48..], &second.inner[48..]].concat(), long[40..]);
        } else {
            for outcome in [first, second] {
                assert_eq!(outcome.verdict, TC_ACT_SHOT);
                assert_eq!(outcome.drops, BTreeMap::from([(SendFiltered, 1)]));
            }
        }
    }
}

/// Whoever set the mark himself gets no part out whose first part was kept in.
#[test]
fn the_mark_of_second_parts_is_no_way_round() {
    let (mut bench, _) = bench(Mode::Encrypt, &["allow out udp/53"], Reject::Drop);
    let whole = part(&packet(Version::V6, false, TCP, [1, 2], SYN), 0, false);
    let outcome = bench.send_with(&framed(&whole), Some(&marked(SECOND_PART + 16)));
    require_kept_in(&outcome, SendFiltered, "a second part without a first one");
}

/// An ICMP error about a packet from this end, or from the peer.
fn error(version: Version, inward: bool, about: &[u8]) -> Vec<u8> {
    let length = version.header_len() + 8 + about.len().min(60);
    let mut packet = if inward { version.received(0, length) } else { version.sent(0, length) };
    let at = version.header_len();
    packet[at..at + 8].copy_from_slice(&[if version == Version::V4 { 3 } else { 1 }, 4, 0, 0, 0, 0, 0, 0]);
    packet[at + 8..].copy_from_slice(&about[..length - at - 8]);
    set_protocol(&mut packet, if version == Version::V4 { 1 } else { 58 });
    packet
}

#[test]
fn errors_pass_with_the_flow_that_they_are_about() {
    for version in Version::BOTH {
        let (mut bench, peering) =
            bench(Mode::Encrypt, &["allow in tcp/22", "allow out udp/53"], Reject::Drop);
        let about = |protocol, ports, flags| packet(version, false, protocol, ports, flags);
        for (n, (inner, passes)) in [
            (error(version, true, &about(UDP, [9, 53], 0)), true),
            (error(version, true, &about(TCP, [22, 9], ACK)), true),
            (error(version, true, &about(UDP, [9, 54], 0)), false),
            // About a packet of the peer's own: nobody here has sent it.
            (error(version, true, &packet(version, true, TCP, [9, 22], SYN)), false),
            // An error about an error.
            (error(version, true, &error(version, false, &about(UDP, [9, 53], 0))), false),
        ]
        .into_iter()
        .enumerate()
        {
            let sequence = SEQUENCE + n as u64;
            let outcome = bench.receive(&peering.packet(CURRENT, sequence, inner.clone()).frame());
            if passes {
                outcome
                    .accepted(0, sequence, &inner)
                    .unwrap_or_else(|e| panic!("{version:?}, error {n}: {e:#}"));
            } else {
                require_filtered(&outcome, Filtered, &format!("{version:?}, error {n}"));
            }
        }
        let out = error(version, false, &packet(version, true, TCP, [9, 22], SYN));
        assert_eq!(sealed(&peering, CURRENT, &bench.send(&framed(&out))).expect("sealed").inner, out);
    }
}

#[test]
fn senders_here_are_told_if_that_is_wanted() {
    for version in Version::BOTH {
        for length in [version.header_len() + 8, 79, 80, 120, 1400] {
            let (mut bench, _) = bench(Mode::Encrypt, &["allow in tcp/22"], Reject::Prohibited);
            let mut inner = version.sent(0, length);
            let at = version.header_len();
            inner[at..at + 4].copy_from_slice(&[0x30, 0, 0, 53]);
            let outcome = bench.send(&framed(&inner));
            let name = format!("{version:?}, {length} bytes");
            assert_eq!(outcome.verdict, TC_ACT_REDIRECT, "{name}");
            assert_eq!(outcome.drops, BTreeMap::from([(SendFiltered, 1)]), "{name}");
            let state = outcome.states.1[0];
            assert_eq!((outcome.frames.sent, state.tx_sequence, state.tx_packets), (0, 0, 0), "{name}");
            let answer = &outcome.frame;
            assert_eq!(
                (&answer[..6], &answer[12..14]),
                (TUNNEL_MAC.as_slice(), crate::inner::ethertype(&inner).as_slice())
            );
            let (ip, message) = answer[14..].split_at(at);
            let addresses = if version == Version::V4 { (12, 4) } else { (8, 16) };
            let ends = |packet: &[u8], n: usize| {
                packet[addresses.0 + n * addresses.1..addresses.0 + (n + 1) * addresses.1].to_vec()
            };
            assert_eq!((ends(ip, 0), ends(ip, 1)), (ends(&inner, 1), ends(&inner, 0)), "{name}");
            let kind = if version == Version::V4 { [3, 13] } else { [1, 1] };
            assert_eq!(message[..2], kind, "{name}");
            let quote = &message[8..];
            assert_eq!(quote, &inner[..quote.len()], "{name}");
            assert!(quote.len() >= at + 8, "{name}: {} bytes are quoted", quote.len());
            if version == Version::V4 {
                assert_eq!(ones_complement_sum(ip), 0xffff, "{name}");
                assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), answer.len() - 14, "{name}");
                assert_eq!(ones_complement_sum(message), 0xffff, "{name}");
            } else {
                let header = [&ip[8..40], &[0, 0, ip[4], ip[5], 0, 0, 0, 58]].concat();
                assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), message.len(), "{name}");
                assert_eq!(ones_complement_sum(&[&header, message].concat()), 0xffff, "{name}");
            }
        }
        let (mut bench, _) = bench(Mode::Encrypt, &["allow in tcp/22"], Reject::Prohibited);
        for quiet in [
            error(version, false, &packet(version, true, UDP, [1, 2], 0)),
            version.sent(0, version.header_len() + 4),
        ] {
            require_kept_in(&bench.send(&framed(&quiet)), SendFiltered, "an error, or what cannot be read");
        }
        let told = (0..1000).filter(|_| {
            bench.send(&framed(&packet(version, false, UDP, [1, 2], 0))).verdict == TC_ACT_REDIRECT
        });
        let told = told.count();
        assert!((100..=600).contains(&told), "{told} senders of 1,000 were told");
    }
}

/// A packet that may leave is not taken for one later: the note of that is used once.
#[test]
fn what_was_allowed_once_says_nothing_of_the_next_packet() {
    let (mut bench, peering) = bench(Mode::Encrypt, &["allow out udp/53"], Reject::Drop);
    for _ in 0..3 {
        let outcome = bench.send(&framed(&packet(Version::V6, false, UDP, [9, 53], 0)));
        sealed(&peering, CURRENT, &outcome).expect("a sealed packet");
        require_kept_in(
            &bench.send(&framed(&packet(Version::V6, false, UDP, [9, 54], 0))),
            SendFiltered,
            "next",
        );
    }
    assert_eq!(bench.plane.counts().expect("counters").frames, Frames { sent: 3, ..Frames::default() });
}
