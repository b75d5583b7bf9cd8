//! Both ends derive the same, and nothing in common with anybody else.

use super::*;
use crate::keys::SecretKey;

fn session(own: u8, other: u8, period: &str, mode: &str, key: u8) -> Session {
    let end = |number: u8| {
        let prefix = format!("2001:db8:{number}::/64").parse().unwrap();
        end(prefix, u64::from(number).to_be_bytes())
    };
    let mode = Mode::CHOICES.iter().find(|(word, _)| *word == mode).unwrap().1;
    let key = SecretKey::from_bytes([key; 32]);
    let period = humantime::parse_duration(period).unwrap();
    Session::new(Static { local: end(own), remote: end(other), key: &key, period, mode })
}

#[test]
fn both_ends_derive_the_same() {
    let (a, b) = (session(1, 2, "3s", "encrypt", 7), session(2, 1, "3s", "encrypt", 7));
    assert!(a.tx == b.rx && a.rx == b.tx);
    assert!(a.tx != a.rx, "each direction has keys of its own");
    assert_eq!((a.phase, a.period), (b.phase, b.period));
    assert!(a.phase < a.period);
    for slot in [0, 1, 600_000_000] {
        let (a_local, a_remote) = a.endpoints(slot);
        assert_eq!((a_remote, a_local), b.endpoints(slot));
        assert_eq!(a_local.address[..6], [0x20, 1, 0xd, 0xb8, 0, 1]);
    }
}

#[test]
fn any_difference_makes_all_keys_others() {
    let base = session(1, 2, "3s", "encrypt", 7);
    for other in [
        session(1, 2, "3s", "encrypt", 8),
        session(1, 2, "4s", "encrypt", 7),
        session(1, 2, "3s", "authenticate", 7),
        session(1, 3, "3s", "encrypt", 7),
    ] {
        assert!(base.tx.0.seal != other.tx.0.seal && base.tx.0.mask != other.tx.0.mask);
        assert_ne!(base.endpoints(5).0, other.endpoints(5).0);
        assert_ne!(base.fingerprint(), other.fingerprint());
    }
}

/// The derivation as `docs/wire-format.md` gives it, written out with other tools: `make_session.py`.
#[test]
fn vector_of_the_data_file() {
    #[derive(serde::Deserialize)]
    struct Vector {
        key: String,
        seeds: [String; 2],
        period_ns: u64,
        mode: u32,
        phase_ns: u64,
        address_key: String,
        seal: [String; 2],
        mask: [String; 2],
    }
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../../tests/vectors/session.json")).unwrap();
    assert_eq!(vectors.len(), 2);
    for v in vectors {
        assert_eq!(v.key, "07".repeat(32));
        assert_eq!(v.seeds, ["0000000000000001", "0000000000000002"]);
        let mode = if v.mode == abi::MODE_ENCRYPT { "encrypt" } else { "authenticate" };
        let first = session(1, 2, &format!("{}s", v.period_ns / 1_000_000_000), mode, 7);
        assert_eq!(first.phase, v.phase_ns);
        assert_eq!(hex::encode(first.address_key), v.address_key);
        for (keys, n) in [(&first.tx, 0), (&first.rx, 1)] {
            assert_eq!(hex::encode(keys.0.seal), v.seal[n]);
            assert_eq!(hex::encode(keys.0.mask), v.mask[n]);
        }
    }
}
