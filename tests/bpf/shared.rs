//! A prefix that is shared with ordinary hosts: only live addresses belong to mtd.

use std::net::Ipv6Addr;

use mtd_common::DropReason::*;
use mtd_tests::packet::{
    DESTINATION_OPTIONS, HOP_BY_HOP, Path, echo_request, fragments, neighbour_solicitation, tcp_syn, udp,
    with_extension_header, with_fragment_header, with_vlan_tag,
};

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::Version;
use crate::neighbour::{ROUTER, assert_answered, probe, solicit};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, ROUTER_MAC, UNDERLAY_MAC};

use mtd::model::LinkMode;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x77);

/// A data plane with sessions 0 (live) and 1 (ended) and an introduction in a shared prefix. Some slots are not live.
fn bench() -> (Bench, Peering, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.link = LinkMode::Shared);
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    let ended = Peering::new(1, Mode::Encrypt);
    bench.install(&ended);
    bench.install_bare(&Peering { generation: ended.generation + 1, ..ended.clone() });
    (bench, peering, ended)
}

fn path(destination: Ipv6Addr) -> Path {
    Path::new(ROUTER_MAC, UNDERLAY_MAC, SOURCE, destination)
}

#[test]
fn what_is_for_no_live_address_is_not_touched() {
    let (mut bench, peering, ended) = bench();
    let mut list = Vec::new();
    for (name, destination) in [
        ("an ordinary address", "2001:db8:a::1".parse().expect("an address")),
        ("an ordinary address of the second prefix", "2001:db8:b0:0:77::5".parse().expect("an address")),
        ("the prefix itself", "2001:db8:a::".parse().expect("an address")),
        ("a slot that is over", *peering.local(CURRENT - 2).ip()),
        ("a slot that has not begun", *peering.local(CURRENT + 2).ip()),
        ("an ended session", *ended.local(CURRENT).ip()),
    ] {
        let path = path(destination);
        let datagram = udp(&path, 4000, 5000, &[7; 200]);
        let mut sctp = datagram.clone();
        sctp[20] = 132;
        list.extend([
            Fixture::pass(format!("UDP to {name}"), datagram.clone()),
            Fixture::pass(format!("UDP without payload to {name}"), udp(&path, 4000, 5000, b"")),
            Fixture::pass(format!("a jumbo datagram to {name}"), udp(&path, 4000, 5000, &[0; 3000])),
            Fixture::pass(format!("a UDP header cut short, to {name}"), datagram[..61].to_vec()),
            Fixture::pass(format!("TCP to {name}"), tcp_syn(&path, 4000, 22, 1)),
            Fixture::pass(format!("echo to {name}"), echo_request(&path, 1, 1, b"ping")),
            Fixture::pass(format!("SCTP to {name}"), sctp),
            Fixture::pass(
                format!("hop-by-hop options to {name}"),
                with_extension_header(&datagram, HOP_BY_HOP),
            ),
            Fixture::pass(
                format!("destination options to {name}"),
                with_extension_header(&datagram, DESTINATION_OPTIONS),
            ),
            Fixture::pass(format!("an atomic fragment to {name}"), with_fragment_header(&datagram, 1)),
            Fixture::pass(format!("a VLAN-tagged frame to {name}"), with_vlan_tag(&datagram, 5)),
            Fixture::pass(format!("a solicitation for {name}"), solicit(destination)),
            Fixture::pass(format!("a unicast solicitation for {name}"), probe(destination)),
            Fixture::pass(
                format!("address detection for {name}"),
                neighbour_solicitation(ROUTER_MAC, Ipv6Addr::UNSPECIFIED, destination, None),
            ),
        ]);
        for (nth, fragment) in fragments(&datagram, 9, 64).into_iter().enumerate() {
            list.push(Fixture::pass(format!("fragment {nth} to {name}"), fragment));
        }
    }
    for (name, session, slot) in [
        ("a packet of a slot that is over", &peering, CURRENT - 2),
        ("a packet of a slot that has not begun", &peering, CURRENT + 2),
        ("a packet of an ended session", &ended, CURRENT),
    ] {
        let packet = session.packet(slot, SEQUENCE, Version::V6.received(0, 80));
        list.push(Fixture::pass(name, packet.frame()));
    }
    // VLAN-tagged frames belong to other links, whatever follows the tag.
    let live = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 80)).frame();
    list.push(Fixture::pass("a VLAN-tagged packet to a live address", with_vlan_tag(&live, 5)));
    bench.run_all(&list);
}

#[test]
fn a_live_address_is_as_dark_as_ever() {
    let (mut bench, peering, _) = bench();
    let introduction = Peering::introduction(2);
    bench.install(&introduction);
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120));
    let valid = packet.frame();
    let path = packet.path();
    let (from, to) = (packet.from.port(), packet.to.port());
    let payload = packet.sealed();
    let mut forged = valid.clone();
    forged[100] ^= 1;
    let mut far = solicit(path.destination);
    far[21] = 254;
    let mut list = vec![
        Fixture::drop("TCP", Tcp, tcp_syn(&path, 40_000, 22, 1)),
        Fixture::drop("echo", Icmpv6, echo_request(&path, 1, 1, b"ping")),
        Fixture::drop("hop-by-hop options", ExtensionHeader, with_extension_header(&valid, HOP_BY_HOP)),
        Fixture::drop("an atomic fragment", Fragment, with_fragment_header(&valid, 7)),
        Fixture::drop("a UDP header cut short", Truncated, valid[..61].to_vec()),
        Fixture::drop("an IPv6 header cut short", Truncated, valid[..53].to_vec()),
        Fixture::drop("the own port", WrongPort, udp(&path, from, to ^ 1, &payload)),
        Fixture::drop("the peer's port", WrongPeer, udp(&path, from ^ 1, to, &payload)),
        Fixture::drop("a stranger", WrongPeer, udp(&Path { source: SOURCE, ..path }, from, to, &payload)),
        Fixture::drop("a flow label", FlowLabel, udp(&Path { flow_label: 1, ..path }, from, to, &payload)),
        Fixture::drop("UDP without payload", TooShort, udp(&path, from, to, b"")),
        Fixture::drop("a forged packet", BadTag, crate::wire::with_right_checksum(&forged)),
        Fixture::drop("a solicitation that went through a router", NeighbourMalformed, far),
        Fixture::drop(
            "address detection",
            NeighbourMalformed,
            neighbour_solicitation(ROUTER_MAC, Ipv6Addr::UNSPECIFIED, path.destination, None),
        ),
        Fixture::accept("a valid packet", &peering, &packet),
        Fixture::drop("a replay", Replayed, valid),
        Fixture::divert("an introduction", &introduction, &introduction.message(CURRENT, 3, 90)),
        Fixture::drop("TCP to the introduction", Tcp, {
            tcp_syn(&Path { destination: *introduction.local(CURRENT).ip(), ..path }, 40_000, 22, 1)
        }),
    ];
    for slot in [CURRENT - 1, CURRENT + 1] {
        let path = Path { destination: *peering.local(slot).ip(), ..path };
        list.push(Fixture::drop(format!("TCP to slot {slot}"), Tcp, tcp_syn(&path, 40_000, 22, 1)));
    }
    bench.run_all(&list);
}

#[test]
fn solicitations_for_live_addresses_are_answered() {
    let (mut bench, peering, _) = bench();
    for slot in CURRENT - 1..=CURRENT + 1 {
        let target = *peering.local(slot).ip();
        assert_answered(&format!("slot {slot}"), &mut bench, &solicit(target), target);
        assert_answered(&format!("slot {slot}, unicast"), &mut bench, &probe(target), target);
    }
    // Sent to a live address, but about one that is not live: it is passed to the kernel.
    let mut about_another = probe(*peering.local(CURRENT).ip());
    about_another[62..78].copy_from_slice(&SOURCE.octets());
    bench.check(&Fixture::pass("about an ordinary address", about_another));
    let from_live = neighbour_solicitation(ROUTER_MAC, *peering.local(CURRENT).ip(), ROUTER, None);
    bench.check(&Fixture::pass("for another prefix", from_live));
}
