//! Vectors from a data file made by another program, and the properties of the derivation.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

#[derive(serde::Deserialize)]
struct VectorEnd {
    prefix: String,
    seed: String,
}

#[derive(serde::Deserialize)]
struct VectorEndpoint {
    address: Ipv6Addr,
    port: u16,
}

#[derive(serde::Deserialize)]
struct Vector {
    first: VectorEnd,
    second: VectorEnd,
    key: String,
    slot: u64,
    first_endpoint: VectorEndpoint,
    second_endpoint: VectorEndpoint,
}

fn network(text: &str) -> Network {
    let (prefix, length) = text.split_once('/').unwrap();
    Network { prefix: prefix.parse::<Ipv6Addr>().unwrap().octets(), length: length.parse().unwrap() }
}

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

impl VectorEnd {
    fn end(&self) -> End {
        End { network: network(&self.prefix), seed: bytes(&self.seed) }
    }
}

impl VectorEndpoint {
    fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.octets(), port: self.port }
    }
}

#[test]
fn vectors_of_the_data_file() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../tests/vectors/addresses.json")).unwrap();
    assert!(vectors.len() >= 20);
    for v in vectors {
        let found = endpoints(&v.first.end(), &v.second.end(), &bytes(&v.key), v.slot);
        let expected = (v.first_endpoint.endpoint(), v.second_endpoint.endpoint());
        assert_eq!(found, expected, "{} slot {}", v.first.prefix, v.slot);
    }
}

fn end(prefix: &str, seed: u8) -> End {
    End { network: network(prefix), seed: [seed; 8] }
}

#[test]
fn two_ends_in_one_small_prefix_never_share_an_address() {
    let (a, b) = (end("2001:db8::/112", 1), end("2001:db8::/112", 2));
    let mut skipped = 0;
    for slot in 0..200_000 {
        let (first, second) = endpoints(&a, &b, &[3; 32], slot);
        assert_ne!(first.address, second.address);
        let plain = endpoint(b.network, &digest(b.seed, &[3; 32], slot, 0));
        skipped += u32::from(plain != second);
    }
    assert!(skipped > 0, "no collision occurred, so none was tested");
}

#[test]
fn reserved_addresses_are_known() {
    let wide = network("2001:db8::/64");
    for (host, reserved) in [
        (0_u64, true),
        (1, false),
        (u64::MAX, true),
        (u64::MAX - 0x7f, true),
        (u64::MAX - 0x80, false),
        (0xfdff_ffff_ffff_ff7f, false),
        (0xfdff_ffff_ffff_ff80, true),
        (0x0200_5eff_fdff_ffff, false),
        (0x0200_5eff_fe00_0000, true),
        (0x0200_5eff_feff_ffff, true),
    ] {
        assert_eq!(wide.reserved(wide.address(host)), reserved, "{host:x}");
    }
    let narrow = network("2001:db8::/112");
    assert!(narrow.reserved(narrow.prefix));
    assert!(narrow.reserved("2001:db8::ffc0".parse::<Ipv6Addr>().unwrap().octets()));
    assert!(!narrow.reserved("2001:db8::ff00".parse::<Ipv6Addr>().unwrap().octets()));
}

proptest! {
    #[test]
    fn addresses_lie_in_their_prefix_and_ports_in_range(
        seed in any::<[u8; 8]>(),
        key in any::<[u8; 32]>(),
        slot in any::<u64>(),
        length in PREFIX_LENGTHS,
        prefix in any::<u128>(),
    ) {
        let keep = u128::MAX << (128 - u32::from(length));
        let prefix = (prefix & keep).to_be_bytes();
        let a = End { network: Network { prefix, length }, seed };
        let b = End { network: Network { prefix, length }, seed: [0; 8] };
        let (found, _) = endpoints(&a, &b, &key, slot);
        prop_assert_eq!((u128::from_be_bytes(found.address) & keep).to_be_bytes(), prefix);
        prop_assert!(!a.network.reserved(found.address));
        prop_assert!(found.port >= MIN_PORT);
    }
}

#[test]
fn slots_do_not_repeat_addresses_or_cluster_ports() {
    let (a, b) = (end("2001:db8:1::/64", 1), end("2001:db8:2::/64", 2));
    let mut addresses = HashSet::new();
    let mut ports = [0_u32; 16];
    for slot in 0..20_000 {
        let (first, second) = endpoints(&a, &b, &[9; 32], slot);
        assert!(addresses.insert(first.address) && addresses.insert(second.address));
        ports[usize::from((first.port - MIN_PORT) / 4032)] += 1;
    }
    // 1,250 expected in each sixteenth; five standard deviations are 171.
    assert!(ports.iter().all(|&n| n.abs_diff(1_250) < 175), "{ports:?}");
}
