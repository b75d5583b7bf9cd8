//! Both ends agree, nobody else reads or writes anything, and everything unusable is refused.

use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes([byte; 32])
}

/// What the server with key 1 and the client with this key derive, checked to be the same.
fn rendezvous(client: u8, window: u64) -> Rendezvous {
    let (server, client) = (key(1), key(client));
    let at = |own: &SecretKey, peer: &SecretKey| {
        let shared = Shared::new(own, &peer.public()).unwrap();
        shared.rendezvous(&server.public(), &client.public(), window)
    };
    let (a, b) = (at(&server, &client), at(&client, &server));
    assert!(a.descriptor == b.descriptor && a.seal == b.seal && a.item == b.item);
    a
}

fn introduction() -> Introduction {
    let mut prefix = [0; 16];
    prefix[..6].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1]);
    Introduction {
        network: Network { prefix, length: 64 },
        seed: [0xa5; 8],
        key: key(9),
        rot: Duration::from_secs(3),
        slot: Duration::from_secs(10),
        published_ms: 1_800_000_000_123,
    }
}

prop_compose! {
    fn any_introduction()(
        high in any::<u64>(), low in any::<u64>(), length in PREFIX_LENGTHS, seed in any::<[u8; 8]>(),
        key in any::<[u8; 32]>(), rot in SLOTS, slot in SLOTS, published in 0..=i64::MAX.cast_unsigned(),
    ) -> Introduction {
        let bits = (u128::from(high) << 64 | u128::from(low)) >> (128 - length) << (128 - length);
        Introduction {
            network: Network { prefix: bits.to_be_bytes(), length },
            seed,
            key: SecretKey::from_bytes(key),
            rot: Duration::from_millis(rot.into()),
            slot: Duration::from_millis(slot.into()),
            published_ms: published,
        }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens(introduction in any_introduction(), nonce in any::<[u8; 24]>(), window in any::<u64>()) {
        let rendezvous = rendezvous(2, window);
        let sealed = introduction.seal(&rendezvous, nonce).unwrap();
        prop_assert_eq!(Introduction::open(&rendezvous, &sealed), Ok(introduction));
    }

    #[test]
    fn other_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Introduction::open(&rendezvous(2, 0), &bytes).is_err());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let rendezvous = rendezvous(2, 900);
    let sealed = introduction().seal(&rendezvous, [5; 24]).unwrap();
    for bit in 0..SEALED_BYTES * 8 {
        let mut garbled = sealed;
        garbled[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Introduction::open(&rendezvous, &garbled), Err(OpenError::Sealed), "bit {bit}");
    }
    assert_eq!(Introduction::open(&rendezvous, &sealed[1..]), Err(OpenError::Length(SEALED_BYTES - 1)));
    let longer = [&sealed[..], &[0]].concat();
    assert_eq!(Introduction::open(&rendezvous, &longer), Err(OpenError::Length(SEALED_BYTES + 1)));
    assert_eq!(Introduction::open(&rendezvous, &sealed), Ok(introduction()));
}

#[test]
fn other_clients_windows_and_directions_open_nothing() {
    let sealed = introduction().seal(&rendezvous(2, 900), [5; 24]).unwrap();
    // The client as server: the same shared secret, the other direction.
    let (server, client) = (key(1), key(2));
    let shared = Shared::new(&client, &server.public()).unwrap();
    let backwards = shared.rendezvous(&client.public(), &server.public(), 900);
    for other in [rendezvous(3, 900), rendezvous(2, 1800), rendezvous(2, 0), backwards] {
        assert_eq!(Introduction::open(&other, &sealed), Err(OpenError::Sealed));
    }
    // The keys of one window with the descriptor of another.
    let mut mixed = rendezvous(2, 900);
    mixed.descriptor.0[19] ^= 1;
    assert_eq!(Introduction::open(&mixed, &sealed), Err(OpenError::Sealed));
}

#[test]
fn nothing_is_shared_between_windows_and_clients() {
    let all = [rendezvous(2, 900), rendezvous(2, 1800), rendezvous(3, 900), rendezvous(3, 1800)];
    let parts = |r: &Rendezvous| [r.descriptor.0[..8].to_vec(), r.seal[..8].to_vec(), r.item[..8].to_vec()];
    let different: std::collections::BTreeSet<_> = all.iter().flat_map(parts).collect();
    assert_eq!(different.len(), all.len() * 3);
    // The same plaintext under the same nonce.
    let sealed = |r: &Rendezvous| introduction().seal(r, [5; 24]).unwrap();
    let (a, b) = (sealed(&all[0]), sealed(&all[2]));
    let same = a[24..].iter().zip(&b[24..]).filter(|(a, b)| a == b).count();
    assert!(same < 8, "{same} of 92 bytes are equal");
}

#[test]
fn public_keys_of_small_order_are_refused() {
    let one = {
        let mut point = [0; 32];
        point[0] = 1;
        point
    };
    for point in [[0; 32], one] {
        assert!(Shared::new(&key(1), &PublicKey::from_bytes(point)).is_none());
    }
}

#[test]
fn fields_that_make_no_sense_are_refused_by_writer_and_reader() {
    type Change = fn(&mut Introduction);
    let changes: [(Change, FieldError); 7] = [
        (|i| i.network.length = 63, FieldError::PrefixLength(63)),
        (|i| i.network.length = 113, FieldError::PrefixLength(113)),
        (|i| i.network.prefix[8] = 1, FieldError::HostBits),
        (|i| i.rot = Duration::from_millis(999), FieldError::Slot),
        (|i| i.slot = Duration::from_millis(3_600_001), FieldError::Slot),
        (|i| i.rot = Duration::MAX, FieldError::Slot),
        (|i| i.published_ms = 1 << 63, FieldError::Published),
    ];
    for (change, error) in changes {
        let mut introduction = introduction();
        change(&mut introduction);
        assert_eq!(introduction.seal(&rendezvous(2, 0), [0; 24]), Err(error));
    }
    let plain = *introduction().encode().unwrap();
    let bytes: [(usize, u8, OpenError); 8] = [
        (0, 2, OpenError::Version(2)),
        (1, 63, FieldError::PrefixLength(63).into()),
        (1, 113, FieldError::PrefixLength(113).into()),
        (3, 1, FieldError::Reserved.into()),
        (19, 1, FieldError::HostBits.into()),
        (61, 0xff, FieldError::Slot.into()),
        (65, 0xff, FieldError::Slot.into()),
        (68, 0x80, FieldError::Published.into()),
    ];
    for (at, value, error) in bytes {
        let mut changed = plain;
        changed[at] = value;
        assert_eq!(Introduction::decode(&changed), Err(error), "byte {at}");
    }
}

#[test]
fn debug_prints_show_no_secret() {
    let rendezvous = rendezvous(2, 900);
    let shared = Shared::new(&key(1), &key(2).public()).unwrap();
    let text = format!("{rendezvous:?} {shared:?} {:?}", introduction());
    assert!(!text.contains("9, 9, 9"), "{text}");
    assert_eq!(text.matches("..").count(), 3, "{text}");
}

#[test]
fn windows_start_at_multiples_and_neighbours_are_tried_by_likelihood() {
    assert_eq!(window_start(1_800_000_899, 900), 1_800_000_000);
    assert_eq!(window_start(1_800_000_900, 900), 1_800_000_900);
    assert_eq!(window_start(5, 0), 5);
    assert_eq!(windows_around(1_800_000_001, 900), [1_800_000_000, 1_799_999_100, 1_800_000_900]);
    assert_eq!(windows_around(1_800_000_899, 900), [1_800_000_000, 1_800_000_900, 1_799_999_100]);
    assert_eq!(windows_around(1, 900), [0, 0, 900]);
}
