//! The wire format as `docs/wire-format.md` gives it, written out with other tools: `make_rendezvous.py`.

use mtd_common::address::Network;

use super::*;
use crate::proto::rendezvous::{Introduction, Shared, ports, window_start};

#[derive(serde::Deserialize)]
struct Vector {
    server_private: String,
    server_public: String,
    client_private: String,
    client_public: String,
    time: u64,
    window_length: u64,
    window: u64,
    descriptor: String,
    prefix: String,
    prefix_length: u8,
    seed: String,
    key: String,
    rot_ms: u64,
    slot_ms: u64,
    published_ms: u64,
    nonce: String,
    sealed: String,
    client_seed: String,
    item_seed: String,
    item_public: String,
    item_target: String,
    ports: String,
}

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn check(vector: &Vector) {
    let server = SecretKey::from_bytes(bytes(&vector.server_private));
    let client = SecretKey::from_bytes(bytes(&vector.client_private));
    assert_eq!(hex::encode(server.public().as_bytes()), vector.server_public);
    assert_eq!(hex::encode(client.public().as_bytes()), vector.client_public);
    assert_eq!(window_start(vector.time, vector.window_length), vector.window);
    let introduction = Introduction {
        network: Network { prefix: bytes(&vector.prefix), length: vector.prefix_length },
        seed: bytes(&vector.seed),
        key: SecretKey::from_bytes(bytes(&vector.key)),
        rot: Duration::from_millis(vector.rot_ms),
        slot: Duration::from_millis(vector.slot_ms),
        published_ms: vector.published_ms,
    };
    for (own, peer) in [(&server, &client), (&client, &server)] {
        let shared = Shared::new(own, &peer.public()).unwrap();
        assert_eq!(hex::encode(shared.client_seed(&introduction)), vector.client_seed);
        let rendezvous = shared.rendezvous(&server.public(), &client.public(), vector.window);
        assert_eq!(rendezvous.descriptor().to_string(), vector.descriptor);
        assert_eq!(hex::encode(rendezvous.item_seed()), vector.item_seed);

        let sealed = introduction.seal(&rendezvous, bytes(&vector.nonce)).unwrap();
        assert_eq!(hex::encode(sealed), vector.sealed);
        assert_eq!(Introduction::open(&rendezvous, &sealed).as_ref(), Ok(&introduction));

        let stuffed: Vec<_> =
            ports::encode(&sealed).unwrap().into_iter().flat_map(u16::to_be_bytes).collect();
        assert_eq!(hex::encode(stuffed), vector.ports);

        let item = Item::new(&rendezvous, sealed.to_vec(), introduction.published_ms);
        assert_eq!(item.lookup(), Lookup::new(&rendezvous));
        assert_eq!(hex::encode(item.lookup().item_key), vector.item_public);
        assert_eq!(hex::encode(item.lookup().item_target()), vector.item_target);
    }
}

#[test]
fn vectors_of_the_data_file() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../tests/vectors/rendezvous.json")).unwrap();
    assert_eq!(vectors.len(), 3);
    vectors.iter().for_each(check);
}
