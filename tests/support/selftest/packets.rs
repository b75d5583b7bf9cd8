//! Checks the packet builders with etherparse as an independent parser.

use std::net::Ipv6Addr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice, UdpSlice};

use crate::packet::{
    DESTINATION_OPTIONS, HOP_BY_HOP, Outer, Path, echo_request, fragments, neighbour_solicitation, tcp_syn,
    udp, udp_checksum_is_right, with_extension_header, with_fragment_header, with_vlan_tag,
};
use crate::traffic::{MARKER, contains_marker};

const SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DESTINATION: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0xfeed, 0xbeef, 0x12, 0x3456);

fn path() -> Path {
    Path {
        hop_limit: 41,
        traffic_class: 0xb9,
        flow_label: 0xa_bcde,
        ..Path::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], SOURCE, DESTINATION)
    }
}

#[test]
fn udp_reads_back_with_a_right_checksum() {
    for len in [0, 1, 2, 31, 32, 1401, 1452] {
        let payload: Vec<u8> = (0..len).map(|at: u32| (at * 7) as u8).collect();
        let frame = udp(&path(), 50_000, 443, &payload);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
        let header = ip.header().to_header();
        let Some(TransportSlice::Udp(slice)) = &sliced.transport else { panic!("no UDP") };
        assert_eq!(slice.to_header().calc_checksum_ipv6(&header, &payload).unwrap(), slice.checksum());
        let outer = Outer::parse(&frame).unwrap();
        assert!(outer.checksum_is_right());
        assert_eq!((outer.source, outer.destination), (SOURCE, DESTINATION));
        assert_eq!((outer.source_port, outer.destination_port), (50_000, 443));
        assert_eq!((outer.hop_limit, header.hop_limit), (41, 41));
        assert_eq!((outer.flow_label, header.flow_label.value()), (0xa_bcde, 0xa_bcde));
        assert_eq!((outer.traffic_class, header.traffic_class), (0xb9, 0xb9));
        assert_eq!(outer.payload, payload);
    }
}

#[test]
fn the_checksum_check_sees_every_flipped_bit_that_it_covers() {
    let frame = udp(&path(), 1, 2, b"odd length!");
    for at in 0..frame.len() {
        for bit in 0..8 {
            let mut changed = frame.clone();
            changed[at] ^= 1 << bit;
            // A changed bit in addresses, ports, checksum or payload breaks the checksum; one in a length field makes the
            // parser refuse.
            let covered = at >= 22 && !(58..60).contains(&at);
            if covered {
                assert_eq!(udp_checksum_is_right(&changed), Some(false), "byte {at} bit {bit}");
            } else if (18..20).contains(&at) || (58..60).contains(&at) {
                assert_eq!(udp_checksum_is_right(&changed), None, "byte {at} bit {bit}");
            }
        }
    }
    assert_eq!(udp_checksum_is_right(&frame), Some(true));
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    // The two payload bytes with which the sum is zero.
    let probe = udp(&path(), 7, 7, &[0, 0]);
    let payload = Outer::parse(&probe).unwrap().checksum.to_be_bytes();
    let frame = udp(&path(), 7, 7, &payload);
    let outer = Outer::parse(&frame).unwrap();
    assert_eq!(outer.checksum, 0xffff);
    assert!(outer.checksum_is_right());
    let mut without = frame.clone();
    without[60..62].fill(0);
    assert_eq!(udp_checksum_is_right(&without), Some(false), "IPv6 needs a checksum");
}

#[test]
fn no_prefix_of_a_frame_parses() {
    let frame = udp(&path(), 1, 2, b"payload");
    assert!((0..frame.len()).all(|len| Outer::parse(&frame[..len]).is_none()));
    let padded = [frame.as_slice(), &[0; 9]].concat();
    assert_eq!(Outer::parse(&padded).unwrap().payload, b"payload");
}

#[test]
fn icmpv6_and_tcp_read_back_with_right_checksums() {
    let ping = echo_request(&path(), 0x1234, 7, b"abc");
    let sliced = SlicedPacket::from_ethernet(&ping).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(SOURCE.octets(), DESTINATION.octets()));

    let syn = tcp_syn(&path(), 40_000, 22, 0xdead_beef);
    let sliced = SlicedPacket::from_ethernet(&syn).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    assert!(tcp.syn() && !tcp.ack() && tcp.sequence_number() == 0xdead_beef);
    let right = tcp.calc_checksum_ipv6(SOURCE.octets(), DESTINATION.octets()).unwrap();
    assert_eq!(tcp.checksum(), right);
}

#[test]
fn solicitations_are_as_rfc_4861_says() {
    let mac = [2, 0, 0, 0, 0, 9];
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
    let multicast = ([0x33, 0x33, 0xff, 0x12, 0x34, 0x56], group);
    let unicast = ([2, 0, 0, 0, 0, 8], DESTINATION);
    for (to, (to_mac, to_address)) in [(None, multicast), (Some(unicast.0), unicast)] {
        let frame = neighbour_solicitation(mac, SOURCE, DESTINATION, to);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
        assert_eq!((ip.header().hop_limit(), ip.header().destination_addr()), (255, to_address));
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(SOURCE.octets(), to_address.octets()));
        assert_eq!(frame[..6], to_mac);
        assert_eq!(frame[62..78], DESTINATION.octets());
        assert_eq!(frame[78..], [1, 1, 2, 0, 0, 0, 0, 9]);
    }
}

#[test]
fn reshaped_packets_still_hold_the_udp_packet() {
    let plain = udp(&path(), 5, 6, b"inside");
    let forms = [
        with_vlan_tag(&plain, 0x123),
        with_extension_header(&plain, HOP_BY_HOP),
        with_extension_header(&plain, DESTINATION_OPTIONS),
        with_fragment_header(&plain, 77),
        with_vlan_tag(&with_extension_header(&plain, DESTINATION_OPTIONS), 9),
    ];
    for frame in &forms {
        assert!(Outer::parse(frame).is_none(), "not a plain packet any more");
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Udp(inner)) = sliced.transport else { panic!("no UDP in {frame:02x?}") };
        assert_eq!(inner.slice(), &plain[54..]);
    }
    let vlan = SlicedPacket::from_ethernet(&forms[0]).unwrap();
    assert_eq!(vlan.vlan_ids()[0].value(), 0x123);
}

#[test]
fn fragments_make_up_the_packet() {
    let payload = [b'x'; 100];
    let plain = udp(&path(), 5, 6, &payload);
    for part_len in [1, 8, 30, 64, 4000] {
        let mut whole = Vec::new();
        let parts = fragments(&plain, 99, part_len);
        for (nth, frame) in parts.iter().enumerate() {
            let sliced = LaxSlicedPacket::from_ethernet(frame).unwrap();
            let Some(LaxNetSlice::Ipv6(ip)) = sliced.net else { panic!("no IPv6") };
            let header = etherparse::Ipv6FragmentHeader::from_slice(&frame[54..]).unwrap().0;
            assert_eq!(header.fragment_offset.byte_offset() as usize, whole.len());
            assert_eq!(header.more_fragments, nth + 1 < parts.len());
            assert_eq!(header.identification, 99);
            assert_eq!(usize::from(ip.header().payload_length()), frame.len() - 54);
            whole.extend_from_slice(&frame[62..]);
        }
        assert_eq!(UdpSlice::from_slice(&whole).unwrap().payload(), payload);
    }
}

#[test]
fn the_marker_is_found_wherever_it_is() {
    let text = [b"MTD-TEST-MTD-".as_slice(), MARKER, b"M"].concat();
    assert!(contains_marker(&text) && contains_marker(MARKER));
    assert!(!contains_marker(&text[..36]) && !contains_marker(&text[14..]) && !contains_marker(&[]));
}
