//! A session whose peer a router translates: packets from any source, answers to where the newest one came from, and nothing to
//! anybody before.

use std::net::{Ipv6Addr, SocketAddrV6};

use mtd_common::DropReason::{BadTag, InnerSource, InvalidSequence, Replayed, SendUnheard, WrongPort};
use mtd_common::packet::inner::{CONTROL_MARK, NEXT_CONTROL, OPENER_MARK, PROBE_MARK};
use mtd_tests::packet::Outer;

use crate::harness::{Bench, Fixture, SEQUENCE, TC_ACT_SHOT};
use crate::inner::{OWN6, Version, framed, ipv6};
use crate::peering::{CURRENT, Peering};
use crate::send_drops::marked;
use crate::wire::{Mode, Packet, with_right_checksum};

fn bench(mode: Mode) -> (Bench, Peering) {
    let mut bench = Bench::new();
    let peering = Peering { anybody: true, ..Peering::new(0, mode) };
    bench.install(&peering);
    bench.route("fd00:66::2/128", &peering);
    (bench, peering)
}

/// Somewhere on the outside of a router.
fn outside(nth: u16) -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0x77, nth, 1, 2, 3, 4), 40_000 + nth, 0, 0)
}

fn packet(peering: &Peering, slot: u64, number: u64, from: SocketAddrV6) -> Packet {
    Packet { from, ..peering.packet(slot, SEQUENCE + number, Version::V6.received(0, 60)) }
}

/// Where a packet of this host goes, and from which end.
fn sent(bench: &mut Bench) -> (SocketAddrV6, SocketAddrV6) {
    let mut frame = bench.send(&framed(&Version::V6.sent(0, 60))).frame;
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let outer = Outer::parse(&frame).expect("a packet");
    assert!(outer.checksum_is_right());
    (
        SocketAddrV6::new(outer.source, outer.source_port, 0, 0),
        SocketAddrV6::new(outer.destination, outer.destination_port, 0, 0),
    )
}

#[test]
fn the_newest_authentic_packet_says_where_the_peer_is() {
    for mode in Mode::BOTH {
        let (mut bench, peering) = bench(mode);
        let here = |slot| peering.local(slot);
        for (number, slot, from, expected) in [
            (0, CURRENT - 1, outside(1), (CURRENT - 1, outside(1))),
            (2, CURRENT, outside(2), (CURRENT, outside(2))),
            // Overtaken.
            (1, CURRENT, outside(1), (CURRENT, outside(2))),
            // Late, in the slot before.
            (3, CURRENT - 1, outside(3), (CURRENT, outside(2))),
            // The router has another address, or another port.
            (4, CURRENT, outside(4), (CURRENT, outside(4))),
            // The router is gone.
            (5, CURRENT, peering.remote(CURRENT), (CURRENT, peering.remote(CURRENT))),
        ] {
            bench.check(&Fixture::accept(
                format!("number {number}"),
                &peering,
                &packet(&peering, slot, number, from),
            ));
            assert_eq!(sent(&mut bench), (here(expected.0), expected.1), "number {number}");
        }
    }
}

#[test]
fn nobody_else_moves_it() {
    for mode in Mode::BOTH {
        let (mut bench, peering) = bench(mode);
        let good = packet(&peering, CURRENT, 10, outside(1));
        bench.check(&Fixture::accept("the peer", &peering, &good));
        let stranger = |packet: &Packet| Packet { from: outside(9), ..packet.clone() };
        let unsent = packet(&peering, CURRENT, 11, outside(9));
        let changed = |at: usize| {
            let mut frame = unsent.frame();
            frame[at] ^= 1;
            with_right_checksum(&frame)
        };
        let mut other_port = unsent.clone();
        other_port.to.set_port(unsent.to.port() ^ 1);
        let last = unsent.frame().len() - 1;
        let not_the_peers = Packet {
            inner: ipv6("fd00:66::99".parse().expect("an address"), OWN6, 0, 60),
            ..packet(&peering, CURRENT, 12, outside(9))
        };
        let far = Packet { sequence: 1 << 60, ..unsent.clone() };
        bench.run_all(&[
            Fixture::drop("a replay", Replayed, stranger(&good).frame()),
            Fixture::drop("a changed text", BadTag, changed(last)),
            Fixture::drop("a changed tag", InvalidSequence, changed(80)),
            Fixture::drop("another port", WrongPort, other_port.frame()),
            Fixture::drop("in another slot", BadTag, Packet { slot: CURRENT + 1, ..unsent.clone() }.frame()),
            Fixture::drop("not the peer's", InnerSource, not_the_peers.frame()),
            Fixture::drop("a number of the far future", InvalidSequence, far.frame()),
        ]);
        assert_eq!(sent(&mut bench), (peering.local(CURRENT), outside(1)));
        // What was refused has used up nothing.
        bench.check(&Fixture::accept("the peer again", &peering, &packet(&peering, CURRENT, 11, outside(2))));
        assert_eq!(sent(&mut bench), (peering.local(CURRENT), outside(2)));
    }
}

#[test]
fn nothing_is_sent_to_the_peers_own_addresses() {
    let mut control = Version::V6.sent(0, 60);
    control[6] = NEXT_CONTROL;
    let messages = [CONTROL_MARK, OPENER_MARK, PROBE_MARK].map(|mark| (framed(&control), Some(marked(mark))));
    let all = [(framed(&Version::V6.sent(0, 60)), None)].into_iter().chain(messages);
    for (frame, context) in all {
        let (mut bench, peering) = bench(Mode::Encrypt);
        let context = context.as_ref().map(<[u8; 192]>::as_slice);
        bench.send_with(&frame, context).dropped(TC_ACT_SHOT, &frame, SendUnheard).expect("a drop");
        // In a slot that has not begun, as from a peer whose clock is ahead: not yet either.
        let early = packet(&peering, CURRENT + 1, 0, outside(1));
        bench.check(&Fixture::accept("early", &peering, &early));
        bench.send_with(&frame, context).dropped(TC_ACT_SHOT, &frame, SendUnheard).expect("a drop");
        bench.check(&Fixture::accept("now", &peering, &packet(&peering, CURRENT, 1, outside(2))));
        let mut sent = bench.send_with(&frame, context).frame;
        sent[12..14].copy_from_slice(&[0x86, 0xdd]);
        let outer = Outer::parse(&sent).expect("a packet");
        assert_eq!((outer.destination, outer.destination_port), (*outside(2).ip(), outside(2).port()));
        assert_eq!(outer.source, *peering.local(CURRENT).ip());
    }
}

/// Sessions may have the same address (requirement MT-07): the port tells a translated one apart.
#[test]
fn a_session_with_the_same_address_keeps_its_packets() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new();
        let pinned = Some("2001:db8:a:0:1234::1".parse().expect("an address"));
        let both = [
            Peering { pinned, anybody: true, ..Peering::new(0, Mode::Encrypt) },
            Peering { pinned, ..Peering::new(1, Mode::Encrypt) },
        ];
        for index in order {
            bench.install_bare(&both[index]);
            bench.load(&both[index], CURRENT);
        }
        let [translated, plain] = &both;
        let own = plain.packet(CURRENT, SEQUENCE, Version::V6.received(0, 60));
        bench.run_all(&[
            Fixture::accept("translated", translated, &packet(translated, CURRENT, 0, outside(1))),
            Fixture::accept("the other", plain, &own),
        ]);
    }
}
