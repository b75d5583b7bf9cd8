//! Files about registered clients.

use std::collections::HashSet;
use std::net::IpAddr;

use mtd::keys::{KEY_CHARACTERS, PublicKey};
use mtd::leases::Leases;
use mtd::model::Pool;
use mtd::registry::{self, MAX_FILE_BYTES};
use serde_json::Value;

/// The file of tunnel addresses: nobody has one that is not in the pool, that is reserved, or that somebody else has;
/// and the same when it is written and read again.
pub fn leases(data: &[u8]) -> bool {
    let pool = Pool { v6: "fd00:6d74::/120".parse().ok(), v4: "10.66.0.0/28".parse().ok() };
    let own: [IpAddr; 2] = ["fd00:6d74::1", "10.66.0.1"].map(|address| address.parse().expect("an address"));
    let decode = |data: &[u8]| Leases::decode(data, pool, own.map(Into::into));
    let Ok(mut leases) = decode(data) else { return false };
    let written = leases.encode().expect("leases can be written");
    let read = decode(&written).expect("what was written can be read");
    assert!(!read.is_changed(), "what was written is left out");

    let document: Value = serde_json::from_slice(data).expect("what was decoded is JSON");
    let entries = document["leases"].as_object().expect("leases by key");
    let keys: Vec<PublicKey> = entries.keys().map(|key| key.parse().expect("a key")).collect();
    let mut taken = HashSet::new();
    for key in &keys {
        let addresses = leases.get(key);
        assert_eq!(read.get(key), addresses);
        for address in addresses.iter() {
            assert!(pool.networks().any(|net| net.contains(&address)) && !own.contains(&address));
            assert!(taken.insert(address), "{address} has two holders");
        }
    }
    for key in &keys {
        let before = leases.get(key);
        // An empty pool is no breach of anything.
        let Ok(after) = leases.lease(key) else { continue };
        assert!(after.v6.is_some() && after.v4.is_some());
        assert!(
            before.iter().all(|address| after.iter().any(|kept| kept == address)),
            "{before:?}, {after:?}"
        );
    }
    true
}

/// The file that registers a client: a key that can be used, in the one form that it has, and white space.
pub fn registered(data: &[u8]) -> bool {
    match registry::decode_key(data) {
        Ok(key) => {
            assert!(key.is_usable() && data.len() as u64 <= MAX_FILE_BYTES);
            let text = data.trim_ascii_end();
            assert!(text.len() == KEY_CHARACTERS && key.to_string().as_bytes() == text);
            true
        }
        Err(fault) => {
            assert!(!fault.what.is_empty() && !fault.remedy.is_empty());
            // What is said of it does not depend on what is in it: it may be a private key, put there by mistake.
            let others = [&b""[..], &[b' '; MAX_FILE_BYTES as usize + 1]].map(registry::decode_key);
            assert!(others.contains(&Err(fault)));
            false
        }
    }
}
