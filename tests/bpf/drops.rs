//! At least one fixture for every reason for which the receive program drops, and a check that no reason is missing.

use std::collections::BTreeSet;

use mtd_common::DropReason;
use mtd_tests::packet::{
    DESTINATION_OPTIONS, HOP_BY_HOP, Path, echo_request, fragments, neighbour_solicitation, tcp_syn, udp,
    with_extension_header, with_fragment_header, with_vlan_tag,
};

use crate::harness::{Bench, Expect, Fixture, SEQUENCE};
use crate::inner::{OWN6, Version, ipv6};
use crate::message::MAX_MESSAGE;
use crate::peering::{CURRENT, Peering};
use crate::send_drops;
use crate::wire::{Keys, Mode, Packet, ROUTER_MAC, with_right_checksum};

use mtd::model::LinkMode;

/// Reasons that have tests of their own, because a single frame cannot cause them.
const ELSEWHERE: [(DropReason, &str); 14] = [
    (DropReason::NeighbourLimited, "neighbour::answers_are_rate_limited needs hundreds of frames"),
    (DropReason::IntroductionLimited, "introduction::they_are_rate_limited needs thousands of frames"),
    (
        DropReason::ControlLimited,
        "control::a_flood_of_one_session_takes_nothing_from_another needs many frames",
    ),
    (DropReason::ControlFull, "control::a_full_ring_buffer_costs_messages_only needs a thousand of frames"),
    (DropReason::SteeringFull, "steering::a_session_that_waits… needs thousands of frames that nobody takes"),
    (DropReason::StreamChanged, "keystream::what_changes… needs a second thread"),
    (DropReason::SendStreamChanged, "keystream::what_changes… needs a second thread"),
    (DropReason::TooBigInvalid, "too_big::what_is_not_about_a_packet_of_ours_is_not_believed"),
    (DropReason::SendUnheard, "translated::nothing_is_sent_to_the_peers_own_addresses"),
    (DropReason::TooBigLimited, "too_big::messages_are_rate_limited"),
    (DropReason::Filtered, "filter::every_way_of_a_received_packet_leads_through_the_filter needs a policy"),
    (DropReason::SendFiltered, "filter::every_way_of_a_sent_packet_leads_through_the_filter needs a policy"),
    (DropReason::FilterMissing, "filter::without_its_policy_nothing_passes"),
    (DropReason::SendFilterMissing, "filter::without_its_policy_nothing_passes"),
];

/// Reasons that no frame can cause.
const UNREACHABLE: [(DropReason, &str); 2] = [
    (
        DropReason::ReceiveFailed,
        "the kernel would have to refuse to take 72 bytes off the front of a longer frame, or to redirect (neither \
         depends on the frame), or an array element of the program's own would have to be missing",
    ),
    (
        DropReason::SendFailed,
        "the kernel would have to run out of memory while it makes room for the headers",
    ),
];

/// The frame with another next header in the IPv6 header.
fn with_next_header(frame: &[u8], next: u8) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[20] = next;
    changed
}

/// A data plane with the sessions and settings that [`fixtures`] need.
pub(crate) fn bench() -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.link = LinkMode::OnLink);
    let ended = Peering::new(1, Mode::Encrypt);
    bench.install(&ended);
    bench.install_bare(&Peering { generation: ended.generation + 1, ..ended });
    (bench, peering)
}

/// The valid packet that the fixtures are made from.
struct Origin<'a> {
    peering: &'a Peering,
    packet: Packet,
    frame: Vec<u8>,
    payload: Vec<u8>,
    path: Path,
    /// The same path, to an address that nobody has.
    unknown: Path,
    /// UDP ports of the packet.
    from: u16,
    to: u16,
}

impl<'a> Origin<'a> {
    fn new(peering: &'a Peering) -> Self {
        let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120));
        let (frame, payload, path) = (packet.frame(), packet.sealed(), packet.path());
        let (from, to) = (packet.from.port(), packet.to.port());
        let unknown = Path { destination: "2001:db8:a::1".parse().expect("an address"), ..path };
        Self { peering, packet, frame, payload, path, unknown, from, to }
    }

    /// The frame of the packet after a change.
    fn with(&self, change: impl Fn(&mut Packet)) -> Vec<u8> {
        let mut changed = self.packet.clone();
        change(&mut changed);
        changed.frame()
    }

    /// The frame with one bit of a byte flipped.
    fn flipped(&self, at: usize) -> Vec<u8> {
        let mut frame = self.frame.clone();
        frame[at] ^= 1;
        frame
    }
}

pub(crate) fn fixtures(peering: &Peering) -> Vec<Fixture> {
    let origin = Origin::new(peering);
    let mut list: Vec<_> = [
        of_the_headers(&origin),
        of_lengths(&origin),
        of_path_and_ports(&origin),
        of_numbers_and_tags(&origin),
        of_what_is_inside(&origin),
        of_slots_fragments_and_next_headers(&origin),
        of_solicitations(&origin),
    ]
    .into_iter()
    .flatten()
    .collect();
    // After all that, the packet from which the fixtures were made is accepted, so its number is still unused.
    list.push(Fixture::accept("the valid packet", peering, &origin.packet));
    list.push(Fixture::drop("the valid packet again", DropReason::Replayed, origin.frame));
    list
}

fn of_the_headers(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let Origin { frame: valid, path, unknown, .. } = origin;
    vec![
        Fixture::drop("an IPv6 header cut short", Truncated, valid[..53].to_vec()),
        Fixture::drop("a UDP header cut short", Truncated, valid[..61].to_vec()),
        Fixture::drop("a valid packet with a VLAN tag", Vlan, with_vlan_tag(valid, 5)),
        Fixture::drop("hop-by-hop options", ExtensionHeader, with_extension_header(valid, HOP_BY_HOP)),
        Fixture::drop(
            "destination options",
            ExtensionHeader,
            with_extension_header(valid, DESTINATION_OPTIONS),
        ),
        Fixture::drop("an atomic fragment", Fragment, with_fragment_header(valid, 7)),
        Fixture::drop("TCP SYN to a live address", Tcp, tcp_syn(path, 40_000, 22, 1)),
        Fixture::drop("TCP SYN to an address that nobody has", Tcp, tcp_syn(unknown, 40_000, 443, 1)),
        Fixture::drop("ICMPv6 echo to a live address", Icmpv6, echo_request(path, 1, 1, b"ping")),
        Fixture::drop("ICMPv6 echo to an address that nobody has", Icmpv6, echo_request(unknown, 1, 1, b"")),
        Fixture::drop("SCTP", OtherProtocol, with_next_header(valid, 132)),
        Fixture::drop("an IPv4 packet inside IPv6", OtherProtocol, with_next_header(valid, 4)),
        Fixture::drop("UDP-Lite", OtherProtocol, with_next_header(valid, 136)),
    ]
}

fn of_lengths(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let &Origin { ref payload, ref path, from, to, .. } = origin;
    vec![
        Fixture::drop("the IPv6 length one too small", LengthMismatch, origin.flipped(19)),
        Fixture::drop("the UDP length one too small", LengthMismatch, origin.flipped(59)),
        Fixture::drop("UDP without payload", TooShort, udp(path, from, to, b"")),
        Fixture::drop("mtd's header and 19 bytes", TooShort, udp(path, from, to, &payload[..24 + 19])),
        Fixture::drop("one byte over the MTU", Oversized, udp(path, from, to, &[0; 24 + 1429])),
        Fixture::drop("a jumbo frame", Oversized, udp(path, from, to, &[0; 3000])),
    ]
}

fn of_path_and_ports(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let &Origin { ref payload, path, ref unknown, from, to, .. } = origin;
    vec![
        Fixture::drop("a flow label", FlowLabel, udp(&Path { flow_label: 1, ..path }, from, to, payload)),
        Fixture::drop("an address that nobody has", UnknownAddress, udp(unknown, from, to, payload)),
        Fixture::drop("the other end's port", WrongPeer, udp(&path, from ^ 1, to, payload)),
        Fixture::drop("the own port", WrongPort, udp(&path, from, to ^ 1, payload)),
        Fixture::drop(
            "the other end's address",
            WrongPeer,
            udp(&Path { source: "2001:db8:c::1".parse().expect("an address"), ..path }, from, to, payload),
        ),
        Fixture::drop("the address of an ended session", SessionEnded, {
            let ended = Peering::new(1, Mode::Encrypt);
            ended.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120)).frame()
        }),
    ]
}

fn of_numbers_and_tags(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let &Origin { peering, ref payload, ref path, from, to, .. } = origin;
    vec![
        Fixture::drop("a number of the far future", InvalidSequence, origin.with(|p| p.sequence = u64::MAX)),
        Fixture::drop("a tag of zero", BadTag, {
            // The number must stay a possible one, since that is checked before the tag.
            let sequence = SEQUENCE.to_le_bytes();
            let mut header = [sequence.as_slice(), &[0; 16]].concat();
            let masked = peering.rx.sequence(&[&[0; 62], header.as_slice()].concat());
            header[..8].copy_from_slice(&(masked).to_le_bytes());
            udp(path, from, to, &[&header, &payload[24..]].concat())
        }),
        Fixture::drop("the other direction's key", BadTag, {
            origin.with(|p| p.keys = Keys { mask: peering.rx.mask, ..peering.tx })
        }),
        Fixture::drop("the other mode", BadTag, origin.with(|p| p.mode = Mode::Authenticate)),
        Fixture::drop("the next slot's nonce", BadTag, origin.with(|p| p.slot += 1)),
        Fixture::drop(
            "a changed inner packet, the checksum right",
            BadTag,
            with_right_checksum(&origin.flipped(100)),
        ),
        Fixture::drop("a wrong checksum", BadChecksum, {
            let mut frame = origin.with(|p| p.sequence += 100);
            frame[61] ^= 0x10;
            frame
        }),
        Fixture::drop("no checksum", BadChecksum, {
            let mut frame = origin.with(|p| p.sequence += 101);
            frame[60..62].fill(0);
            frame
        }),
    ]
}

fn of_what_is_inside(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    vec![
        Fixture::drop("no IP packet inside", MalformedInner, {
            origin.with(|p| (p.sequence, p.inner) = (SEQUENCE + 102, vec![0; 120]))
        }),
        Fixture::drop("a stranger's inner source", InnerSource, {
            let stranger = "fd00:66::3".parse().expect("an address");
            origin.with(|p| (p.sequence, p.inner) = (SEQUENCE + 103, ipv6(stranger, OWN6, 0, 120)))
        }),
        Fixture::drop("a control message that is too long", ControlTooLong, {
            origin.peering.message(CURRENT, SEQUENCE + 105, MAX_MESSAGE + 1).frame()
        }),
        Fixture::drop("congestion that cannot be said", Ecn, {
            origin.with(|p| (p.sequence, p.traffic_class) = (SEQUENCE + 104, 3))
        }),
    ]
}

fn of_slots_fragments_and_next_headers(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let mut list = Vec::new();
    for slot in [CURRENT - 2, CURRENT + 2] {
        let stale = origin.peering.packet(slot, SEQUENCE, Version::V6.received(0, 120));
        list.push(Fixture::drop(format!("slot {slot} instead of {CURRENT}"), StaleSlot, stale.frame()));
    }
    for (nth, fragment) in fragments(&origin.frame, 9, 64).into_iter().enumerate() {
        list.push(Fixture::drop(format!("fragment {nth}"), Fragment, fragment));
    }
    for next in [43, 51, 59, 135, 139, 140] {
        list.push(Fixture::drop(
            format!("next header {next}"),
            ExtensionHeader,
            with_next_header(&origin.frame, next),
        ));
    }
    list
}

fn of_solicitations(origin: &Origin) -> Vec<Fixture> {
    use DropReason::*;
    let Origin { path, unknown, .. } = origin;
    let dead = neighbour_solicitation(ROUTER_MAC, path.source, unknown.destination, None);
    let mut far = neighbour_solicitation(ROUTER_MAC, path.source, path.destination, None);
    far[21] = 254;
    vec![
        Fixture::drop("a solicitation for an address that nobody has", NeighbourDead, dead),
        Fixture::drop("a solicitation that went through a router", NeighbourMalformed, far),
    ]
}

#[test]
fn every_fixture_is_dropped_for_its_reason() {
    let (mut bench, peering) = bench();
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    bench.run_all(&fixtures(&peering));
}

#[test]
fn every_reason_has_a_fixture_or_cannot_come_about() {
    let peering = Peering::new(0, Mode::Encrypt);
    let mut covered: BTreeSet<DropReason> = fixtures(&peering)
        .into_iter()
        .filter_map(|fixture| match fixture.expect {
            Expect::Drop(reason) => Some(reason),
            Expect::Pass | Expect::Accept(..) | Expect::Divert(_) | Expect::Lose(..) => None,
        })
        .collect();
    covered.extend(send_drops::fixtures().into_iter().map(|fixture| fixture.reason));
    for (reason, why) in ELSEWHERE.into_iter().chain(UNREACHABLE) {
        assert!(covered.insert(reason), "{reason:?} has a fixture, although {why}");
    }
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !covered.contains(reason)).collect();
    assert!(missing.is_empty(), "no fixture for {missing:?}");
}
