//! Loading the keys from the files that a configuration names.

use std::path::Path;

use super::document::Document;
use super::{Config, ConfigError, Identity, Peer};
use crate::keys::{KeyFileErrorKind, SecretKey};
use crate::model::Fault;
use crate::schema::Problems;

/// Loads the own key and that of each peer. Two peers with one key are refused: if their seeds are equal as well, they share
/// addresses and nonces, and even otherwise, each could open packets meant for the other.
pub(super) fn keys(mut document: Document, mut problems: Problems<'_>) -> Result<Config, ConfigError> {
    let peers = std::mem::take(&mut document.peers);
    let mut keys: Vec<Option<SecretKey>> = Vec::with_capacity(peers.len());
    for (index, at) in document.key_files_at.iter().enumerate() {
        let key = peer_key(&peers, &keys, index);
        keys.push(key.map_err(|fault| problems.add(*at, "peer.key_file", fault)).ok());
    }
    let mut identity = None;
    if let Some(found) = document.identity.take() {
        match own_key(&found.key_file, &peers, &keys) {
            Ok(key) => {
                let own = key.public();
                for (name, other) in
                    document.public_keys().iter().filter(|(_, key)| key.value == *own.as_bytes())
                {
                    let remedy = "write the public key of the other end, which mtd pubkey prints there";
                    problems.add(other.at, *name, Fault::new("is this host's own public key", remedy));
                }
                identity = Some(Identity { key_file: found.key_file, key });
            }
            Err(fault) => problems.add(document.identity_at(), "private_key_file", fault),
        }
    }
    match keys.into_iter().collect::<Option<Vec<_>>>() {
        Some(keys) if problems.count() == 0 => {
            let peers = peers.into_iter().zip(keys).map(|(peer, key)| peer.with_key(key));
            Ok(document.with_keys(identity, peers.collect()))
        }
        _ => Err(problems.into_error()),
    }
}

/// The key of the peer at `index`, compared with `earlier`, those of the peers before it.
fn peer_key(peers: &[Peer<()>], earlier: &[Option<SecretKey>], index: usize) -> Result<SecretKey, Fault> {
    let path = &peers[index].key_file;
    let key = SecretKey::from_file(path).map_err(|error| Fault::new(error.what(), error.remedy()))?;
    if is_zero(&key) {
        let what = format!("{} holds a key of zeros", path.display());
        let remedy = format!("make a key for both ends: (umask 077; mtd genpsk > {})", path.display());
        return Err(Fault::new(what, remedy));
    }
    if let Some(other) = earlier.iter().position(|other| other.as_ref() == Some(&key)) {
        let what = format!("{} holds the same key as that of peer {}", path.display(), peers[other].name);
        return Err(Fault::new(what, "give each peer a key of its own, from mtd genpsk"));
    }
    Ok(key)
}

/// The own private key, compared with the keys of the peers.
fn own_key(path: &Path, peers: &[Peer<()>], keys: &[Option<SecretKey>]) -> Result<SecretKey, Fault> {
    let make = || format!("make one: (umask 077; mtd genkey > {})", path.display());
    let key = SecretKey::from_file(path).map_err(|error| {
        let is_missing = match error.kind() {
            KeyFileErrorKind::Open(source) => source.kind() == std::io::ErrorKind::NotFound,
            KeyFileErrorKind::Text(_) => true,
            KeyFileErrorKind::NotRegular | KeyFileErrorKind::Exposed(_) => false,
        };
        Fault::new(error.what(), if is_missing { make() } else { error.remedy() })
    })?;
    if is_zero(&key) {
        return Err(Fault::new(format!("{} holds a key of zeros", path.display()), make()));
    }
    if let Some(peer) = keys.iter().position(|other| other.as_ref() == Some(&key)) {
        let what = format!("{} holds the pre-shared key of peer {}", path.display(), peers[peer].name);
        return Err(Fault::new(what, make()));
    }
    Ok(key)
}

fn is_zero(key: &SecretKey) -> bool {
    *key == SecretKey::from_bytes([0; 32])
}
