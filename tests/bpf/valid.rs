//! Valid packets: every length, both modes, both inner families.

use mtd_common::DropReason;

use crate::harness::{Bench, Fixture, MTU, SEQUENCE};
use crate::inner::{OWN6, PEER6, Version, ipv4, ipv6};
use crate::peering::{CURRENT, Peering};
use crate::wire::Mode;

#[test]
fn every_length_is_opened_once_in_both_modes_and_families() {
    let mut bench = Bench::new();
    let peerings = Mode::BOTH.map(|mode| Peering::new(mode as u32, mode));
    for peering in &peerings {
        bench.install(peering);
    }
    let mut sequence = SEQUENCE;
    for peering in &peerings {
        for version in Version::BOTH {
            for length in version.header_len()..=MTU as usize {
                let name = format!("{:?}, {version:?}, {length} bytes", peering.mode);
                let packet = peering.packet(CURRENT, sequence, version.received(0, length));
                bench.check(&Fixture::accept(&name, peering, &packet));
                bench.check(&Fixture::drop(name + ", again", DropReason::Replayed, packet.frame()));
                sequence += 1;
            }
        }
    }
}

#[test]
fn contents_make_no_difference() {
    // Keys and texts that are edge cases for the arithmetic of the ciphers and the checksum.
    let mut bench = Bench::new();
    let mut index = 0;
    for seal in [[0; 32], [0xff; 32], [1; 32]] {
        for mode in Mode::BOTH {
            let mut peering = Peering::new(index, mode);
            peering.rx.seal = seal;
            bench.install(&peering);
            for (nth, fill) in [0, 1, 0x7f, 0x80, 0xff].into_iter().enumerate() {
                let mut inner = ipv6(PEER6, OWN6, 0, 1401);
                inner[40..].fill(fill);
                let packet = peering.packet(CURRENT, SEQUENCE + nth as u64, inner);
                let name = format!("key of {}, {mode:?}, text of {fill:#x}", seal[0]);
                bench.check(&Fixture::accept(name, &peering, &packet));
            }
            index += 1;
        }
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let (mut bench, peering) = Bench::with_session();
    let packet = (SEQUENCE..SEQUENCE + 2_000_000)
        .map(|sequence| peering.packet(CURRENT, sequence, Version::V6.received(0, 40)))
        .find(|packet| packet.frame()[60..62] == [0xff, 0xff])
        .expect("one in 65,535 packets");
    bench.check(&Fixture::accept("checksum ffff", &peering, &packet));
}

#[test]
fn the_second_prefix_is_served_too() {
    let mut bench = Bench::new();
    let peering = Peering { prefix: 1, ..Peering::new(3, Mode::Encrypt) };
    bench.install(&peering);
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V4.received(0, 100));
    bench.check(&Fixture::accept("a /80 prefix", &peering, &packet));
}

#[test]
fn inner_options_and_any_inner_protocol_are_carried() {
    let (mut bench, peering) = Bench::with_session();
    let mut with_options = ipv4([10, 66, 0, 2].into(), [10, 66, 0, 1].into(), 0, 60);
    with_options[0] = 0x4f;
    let mut fragment = ipv4([10, 66, 0, 2].into(), [10, 66, 0, 1].into(), 0, 100);
    fragment[6] = 0x20;
    let mut protocol = ipv6(PEER6, OWN6, 0b1011_1000, 90);
    protocol[6] = 0;
    for (turn, (name, inner)) in [
        ("15 words of IPv4 header", with_options),
        ("an IPv4 fragment", fragment),
        ("IPv6 with DSCP and extension header", protocol),
    ]
    .into_iter()
    .enumerate()
    {
        let packet = peering.packet(CURRENT, SEQUENCE + turn as u64, inner);
        bench.check(&Fixture::accept(name, &peering, &packet));
    }
}
