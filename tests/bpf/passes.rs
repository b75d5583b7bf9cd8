//! Traffic that does not concern mtd reaches the kernel unchanged; VLAN-tagged traffic for a protected prefix does not.

use mtd_common::DropReason;
use mtd_tests::packet::{
    DESTINATION_OPTIONS, HOP_BY_HOP, Path, echo_request, neighbour_solicitation, tcp_syn, udp,
    with_extension_header, with_fragment_header, with_vlan_tag,
};

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::{PEER4, Version, framed_as, ipv4};
use crate::peering::{CURRENT, PREFIXES};
use crate::wire::{ROUTER_MAC, UNDERLAY_MAC};

const ARP: [u8; 2] = [0x08, 0x06];
const VLAN: [u8; 2] = [0x81, 0x00];
const SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];

fn path(destination: &str) -> Path {
    let address = |text: &str| text.parse().expect("an address");
    Path::new(ROUTER_MAC, UNDERLAY_MAC, address("2001:db8:f::9"), address(destination))
}

/// The frame with tags of these types in front of its EtherType, the first one outermost.
fn tagged(frame: &[u8], tags: &[[u8; 2]]) -> Vec<u8> {
    let tags: Vec<u8> = tags.iter().flat_map(|[a, b]| [*a, *b, 0x00, 0x05]).collect();
    // The EtherType of a tag stands in front of its number: type, number, type, number, …, the frame's own type.
    [&frame[..12], &tags, &frame[12..]].concat()
}

#[test]
fn what_is_for_others_is_not_touched() {
    let mut list = Vec::new();
    let outside = [
        ("the host's own address", "2001:db8:f::1"),
        ("one bit above the /64", "2001:db8:a:1::1"),
        ("one bit below the /64", "2001:db8:9:ffff:ffff:ffff:ffff:ffff"),
        ("beside the /80", "2001:db8:b0:0:78::1"),
        ("in the /64 of the /80, outside of it", "2001:db8:b0:0:7677::1"),
        ("all nodes", "ff02::1"),
        ("all zero", "::"),
    ];
    for (name, destination) in outside {
        let path = path(destination);
        let datagram = udp(&path, 4000, 5000, b"payload");
        list.extend([
            Fixture::pass(format!("UDP to {name}"), datagram.clone()),
            Fixture::pass(format!("TCP to {name}"), tcp_syn(&path, 4000, 80, 1)),
            Fixture::pass(format!("echo to {name}"), echo_request(&path, 1, 1, b"")),
            Fixture::pass(
                format!("hop-by-hop options to {name}"),
                with_extension_header(&datagram, HOP_BY_HOP),
            ),
            Fixture::pass(
                format!("destination options to {name}"),
                with_extension_header(&datagram, DESTINATION_OPTIONS),
            ),
            Fixture::pass(format!("fragment to {name}"), with_fragment_header(&datagram, 1)),
            Fixture::pass(format!("VLAN-tagged to {name}"), with_vlan_tag(&datagram, 5)),
            Fixture::pass(format!("double-tagged to {name}"), tagged(&datagram, &[SERVICE_VLAN, VLAN])),
        ]);
    }
    list.extend([
        Fixture::pass("IPv4", framed_as([0x08, 0x00], &ipv4(PEER4, PEER4, 0, 60))),
        Fixture::pass("a bare Ethernet header", framed_as(ARP, &[])),
        Fixture::pass("ARP", framed_as(ARP, &[0; 28])),
        Fixture::pass("LLDP", framed_as([0x88, 0xcc], &[0; 46])),
        Fixture::pass("VLAN-tagged ARP", framed_as(VLAN, &[&[0, 5], ARP.as_slice(), &[0; 28]].concat())),
        Fixture::pass("a VLAN tag cut short", framed_as(VLAN, &[0, 5])),
        Fixture::pass("a second VLAN tag cut short", framed_as(VLAN, &[0, 5, 0x81, 0, 0])),
        Fixture::pass(
            "a solicitation for another address",
            neighbour_solicitation(
                ROUTER_MAC,
                path("::1").source,
                "2001:db8:f::1".parse().expect("an address"),
                None,
            ),
        ),
    ]);
    let (mut bench, _) = Bench::with_session();
    bench.run_all(&list);
}

#[test]
fn tagged_frames_for_a_protected_prefix_are_dropped() {
    let (mut bench, peering) = Bench::with_session();
    let valid = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 80)).frame();
    let unknown = udp(&path("2001:db8:a::77"), 1, 2, b"");
    let second = udp(&path("2001:db8:b0:0:77::1"), 1, 2, b"");
    let mut list = Vec::new();
    for tags in [
        vec![VLAN],
        vec![SERVICE_VLAN],
        vec![VLAN, VLAN],
        vec![SERVICE_VLAN, VLAN],
        vec![VLAN, VLAN, VLAN],
        vec![SERVICE_VLAN, VLAN, VLAN],
    ] {
        for (name, frame) in [("a live", &valid), ("an unknown", &unknown), ("a second prefix's", &second)] {
            let name = format!("{} tags, {name} address", tags.len());
            list.push(Fixture::drop(name, DropReason::Vlan, tagged(frame, &tags)));
        }
    }
    // The program looks past at most two tags. With more, the frame may be for a protected prefix.
    let foreign = udp(&path("2001:db8:f::1"), 1, 2, b"");
    list.push(Fixture::drop("three tags, any address", DropReason::Vlan, tagged(&foreign, &[VLAN; 3])));
    // The frame is truncated in the IPv6 header, so its destination is not known.
    let cut = with_vlan_tag(&valid, 5)[..57].to_vec();
    list.push(Fixture::drop("tagged, the IPv6 header cut short", DropReason::Truncated, cut));
    bench.run_all(&list);
}

#[test]
fn without_settings_everything_passes() {
    let (mut bench, peering) = Bench::with_session();
    let frame = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 80)).frame();
    bench.configure(|settings| settings.prefixes.clear());
    bench.check(&Fixture::pass("no prefix is protected", frame));
}

#[test]
fn all_of_a_prefix_is_protected() {
    let (mut bench, _) = Bench::with_session();
    for (prefix, network) in PREFIXES {
        let length = prefix.rsplit('/').next().and_then(|text| text.parse::<u32>().ok()).expect("a length");
        for bit in 0..128 - length {
            let address = u128::from(network) ^ 1 << bit;
            let frame = udp(&Path { destination: address.into(), ..path("::") }, 4000, 5000, b"");
            bench.check(&Fixture::drop(format!("{prefix}, bit {bit}"), DropReason::UnknownAddress, frame));
        }
        for bit in 128 - length..128 {
            let address = u128::from(network) ^ 1 << bit;
            let frame = udp(&Path { destination: address.into(), ..path("::") }, 4000, 5000, b"");
            bench.check(&Fixture::pass(format!("{prefix}, bit {bit}"), frame));
        }
    }
}
