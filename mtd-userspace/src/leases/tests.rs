//! Tests of the tunnel addresses of clients.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn pool(v6: &str, v4: &str) -> Pool {
    Pool { v6: v6.parse().ok(), v4: v4.parse().ok() }
}

fn key(number: u32) -> PublicKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

fn v4(text: &str) -> TunnelAddresses {
    TunnelAddresses { v6: None, v4: Some(text.parse().unwrap()) }
}

fn leases() -> Leases {
    let own = ["fd00:6d74::1/128", "10.66.0.1/32"].map(|net| net.parse().unwrap());
    Leases::new(pool("fd00:6d74::/64", "10.66.0.0/24"), own)
}

#[test]
fn a_client_gets_an_address_of_each_family_and_keeps_it() {
    let mut leases = leases();
    let first = leases.lease(&key(1)).unwrap();
    let second = leases.lease(&key(2)).unwrap();
    assert_eq!(
        [first.v4, second.v4],
        [Some("10.66.0.2".parse().unwrap()), Some("10.66.0.3".parse().unwrap())],
        "the first free ones; the network's and our own are not free"
    );
    let network: Ipv6Net = "fd00:6d74::/64".parse().unwrap();
    assert!(network.contains(&first.v6.unwrap()) && network.contains(&second.v6.unwrap()));
    assert_ne!(first.v6, second.v6);
    assert_eq!(leases.lease(&key(1)), Ok(first));
    assert_eq!(leases.get(&key(1)), first);
    assert_eq!(leases.get(&key(3)), TunnelAddresses::default());
    // From the key alone: another server with this pool gives the same.
    assert_eq!(self::leases().lease(&key(2)).unwrap().v6, second.v6);
}

#[test]
fn the_ipv6_address_is_the_hash_of_the_key() {
    // (printf 'mtd v1 tunnel address'; head -c 36 /dev/zero) | sha256sum
    assert_eq!(leases().lease(&key(0)).unwrap().v6, Some("fd00:6d74::7be2:9d3b:b15e:b0fa".parse().unwrap()));
}

#[test]
fn a_pool_of_one_family_gives_one_address() {
    let mut leases = Leases::new(pool("", "10.66.0.0/24"), []);
    assert_eq!(leases.lease(&key(1)), Ok(v4("10.66.0.1")));
    let mut leases = Leases::new(pool("fd00::/120", ""), []);
    assert_eq!(leases.lease(&key(1)).unwrap().v4, None);
}

#[test]
fn addresses_of_clients_that_are_gone_are_given_away_last_and_the_oldest_first() {
    let mut leases = Leases::new(pool("", "10.66.0.0/29"), []);
    for number in 1..=5 {
        leases.lease(&key(number)).unwrap();
    }
    leases.release(&key(2), 200);
    leases.release(&key(4), 100);
    leases.release(&key(4), 300);
    assert_eq!(leases.lease(&key(6)), Ok(v4("10.66.0.6")), "never used");
    assert_eq!(leases.lease(&key(7)), Ok(v4("10.66.0.4")), "given back first");
    assert_eq!(leases.lease(&key(2)), Ok(v4("10.66.0.2")), "back in time");
    let error = leases.lease(&key(8)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address is free in 10.66.0.0/29; make the pool in [listen] larger, or remove clients"
    );
    assert_eq!(leases.get(&key(8)), TunnelAddresses::default());
    leases.release_all_but(|client| *client != key(5), 400);
    assert_eq!(leases.lease(&key(4)), Ok(v4("10.66.0.5")));
}

#[test]
fn fixed_addresses_win() {
    let mut leases = leases();
    let before = leases.lease(&key(1)).unwrap();
    assert_eq!(leases.lease(&key(2)).unwrap().v4, v4("10.66.0.3").v4);
    // The address of another client, and one outside of the pool.
    let outside = TunnelAddresses { v6: Some("fd11::1".parse().unwrap()), ..v4("10.66.0.2") };
    assert_eq!(leases.set_fixed([(key(3), outside), (key(2), v4("10.66.0.9"))]), [key(1)]);
    assert_eq!(leases.lease(&key(3)), Ok(outside));
    assert_eq!(leases.lease(&key(2)).unwrap().v4, v4("10.66.0.9").v4);
    let after = leases.lease(&key(1)).unwrap();
    assert_eq!((after.v6, after.v4), (before.v6, v4("10.66.0.3").v4), "what client 2 had is free now");
    // Taken out of the configuration again.
    assert!(leases.set_fixed([]).is_empty());
    assert_eq!(leases.lease(&key(3)).unwrap().v4, v4("10.66.0.2").v4);
    assert_ne!(leases.get(&key(3)).v6, outside.v6);
    // One's own address made a fixed one is no eviction.
    assert!(leases.set_fixed([(key(1), v4("10.66.0.3"))]).is_empty());
    assert_eq!(leases.get(&key(1)), after);
}

#[test]
fn reserved_networks_are_left_out_unless_the_pool_is_inside() {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    let reserved = nets(&["10.0.0.0/25", "0.0.0.0/0", "10.0.0.0/24", "10.0.0.128/32", "::/0"]);
    let mut leases = Leases::new(pool("", "10.0.0.0/24"), reserved);
    assert_eq!(leases.lease(&key(1)), Ok(v4("10.0.0.129")));
    let mut full = Leases::new(pool("fd00::/120", ""), nets(&["fd00::/121"]));
    // What is left of the lower half is nothing, and the upper half is reserved (RFC 2526).
    assert!(full.lease(&key(1)).is_err());
}

#[test]
fn a_large_network_is_searched_without_walking_through_it() {
    let mut leases = Leases::new(pool("", "10.0.0.0/8"), ["10.0.0.0/9".parse().unwrap()]);
    for number in 0..20_000 {
        leases.lease(&key(number)).unwrap();
    }
    assert_eq!(leases.get(&key(0)), v4("10.128.0.0"));
    assert_eq!(leases.get(&key(19_999)), v4("10.128.78.31"));
}

#[test]
fn leases_outlive_the_controller() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases/eth0.json");
    let (pool, own) = (pool("fd00:6d74::/64", "10.66.0.0/24"), || ["10.66.0.1/32".parse().unwrap()]);
    let mut leases = Leases::read(&path, pool, own()).unwrap().unwrap();
    assert!(!leases.is_changed());
    let first = leases.lease(&key(1)).unwrap();
    leases.lease(&key(2)).unwrap();
    let third = leases.lease(&key(3)).unwrap();
    leases.release(&key(2), 100);
    assert!(leases.is_changed());
    leases.write(&path).unwrap();
    assert!(!leases.is_changed());

    let mut read = Leases::read(&path, pool, own()).unwrap().unwrap();
    assert!(!read.is_changed());
    assert_eq!((read.get(&key(1)), read.get(&key(3))), (first, third));
    assert_eq!(read.lease(&key(4)).unwrap().v4, v4("10.66.0.5").v4, "that of client 2 is kept for it");
    assert_eq!(read.released.len(), 1);

    // Another pool, and an own address where a client had one: what fits is kept.
    let narrow = Pool { v4: None, ..pool };
    let mut read =
        Leases::read(&path, narrow, [IpNet::from(IpAddr::V6(first.v6.unwrap()))]).unwrap().unwrap();
    assert!(read.is_changed());
    assert_eq!(read.get(&key(3)), TunnelAddresses { v4: None, ..third });
    assert_ne!(read.lease(&key(1)).unwrap().v6, first.v6);
}

#[test]
fn a_damaged_file_is_told_from_a_missing_one() {
    let good = r#"{"version":1,"leases":{"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=":{"v6":null,"v4":"10.66.0.7","released":null}}}"#;
    let decode = |text: &str| Leases::decode(text.as_bytes(), pool("", "10.66.0.0/24"), []);
    assert_eq!(decode(good).unwrap().leased.len(), 1);
    for (old, new) in [
        ("\"version\":1", "\"version\":2"),
        ("AQAA", "A"),
        ("10.66.0.7", "ten"),
        ("\"released\"", "\"x\":1,\"released\""),
        ("}}}", "}}"),
    ] {
        assert!(decode(&good.replacen(old, new, 1)).is_err(), "{new}");
    }
    // Two clients with one address: the first has it.
    let two = good.replace("\"leases\":{", "\"leases\":{\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\":{\"v6\":null,\"v4\":\"10.66.0.7\",\"released\":5},");
    let read = decode(&two).unwrap();
    assert_eq!((read.leased.len(), read.holders.len(), read.released.len()), (1, 1, 1));
}

/// What is done to the leases in the random test.
#[derive(Clone, Debug)]
enum Step {
    Lease(u32),
    Release(u32),
    Fix(Vec<(u32, u8)>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_u32).prop_map(Step::Lease),
        3 => (0..12_u32).prop_map(Step::Release),
        1 => prop::collection::btree_map(0..16_u8, 0..12_u32, 0..3)
            .prop_map(|fixed| Step::Fix(fixed.into_iter().map(|(host, key)| (key, host)).collect())),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn no_two_clients_ever_have_one_address(steps in prop::collection::vec(step(), 0..200)) {
        // For twelve clients, twelve IPv6 addresses and eleven IPv4 ones.
        let pool = pool("fd00::/120", "10.0.0.0/28");
        let own = || ["10.0.0.1/32", "10.0.0.2/31", "fd00::/122", "fd00::40/123", "fd00::60/124", "fd00::70/126"]
            .map(|net| net.parse().unwrap());
        let mut leases = Leases::new(pool, own());
        let mut fixed: HashMap<PublicKey, TunnelAddresses> = HashMap::new();
        let mut registered = HashSet::new();
        for (now, step) in steps.into_iter().enumerate() {
            match step {
                Step::Lease(number) => {
                    let before = leases.get(&key(number));
                    match leases.lease(&key(number)) {
                        Ok(given) => {
                            prop_assert!(given.v4.is_some() && given.v6.is_some());
                            let complete = before.v4.is_some() && before.v6.is_some();
                            prop_assert!(!complete || given == before, "not the same as before");
                            registered.insert(number);
                        }
                        Err(_) => prop_assert!(registered.len() >= 11, "not all addresses are taken"),
                    }
                }
                Step::Release(number) => {
                    leases.release(&key(number), now as u64);
                    registered.remove(&number);
                }
                Step::Fix(new) => {
                    fixed = new.iter().map(|(number, host)| {
                        (key(*number), v4(&format!("10.0.0.{}", u32::from(*host) + 16)))
                    }).collect();
                    let evicted = leases.set_fixed(fixed.clone());
                    prop_assert!(evicted.is_empty(), "outside of the pool");
                }
                Step::Restart => {
                    let text = leases.encode().unwrap();
                    leases = Leases::decode(&text, pool, own()).unwrap();
                    leases.set_fixed(fixed.clone());
                }
            }
            let mut seen = HashSet::new();
            for number in 0..12 {
                let addresses = leases.get(&key(number));
                for address in addresses.iter() {
                    prop_assert!(seen.insert(address), "{address} twice");
                    prop_assert!(own().iter().all(|net: &IpNet| !net.contains(&address)));
                }
                if let Some(fixed) = fixed.get(&key(number)) {
                    prop_assert_eq!(addresses.v4, fixed.v4);
                }
            }
            prop_assert_eq!(seen.len(), leases.holders.len());
        }
    }
}
