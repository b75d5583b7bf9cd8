//! From a configuration to the keys in the files that it names.

use std::path::Path;

use super::document::Document;
use super::error::{ConfigError, Problems};
use super::{Config, Identity, Peer};
use crate::keys::{KeyFileErrorKind, SecretKey};
use crate::model::Fault;

/// Loads the own key and that of each peer. Two peers with one key are refused: with their seeds equal as well they
/// would share addresses and nonces, and even without, one could open what is meant for the other.
pub(super) fn keys(document: Document, mut problems: Problems) -> Result<Config, ConfigError> {
    let Document { config, key_files_at, identity_at, public_keys } = document;
    let mut keys: Vec<Option<SecretKey>> = Vec::with_capacity(config.peers.len());
    for (index, at) in key_files_at.into_iter().enumerate() {
        let key = peer_key(&config.peers, &keys, index);
        keys.push(key.map_err(|fault| problems.add(at, "peer.key_file", fault)).ok());
    }
    let mut identity = None;
    if let Some(found) = &config.identity {
        match own_key(&found.key_file, &config.peers, &keys) {
            Ok(key) => {
                let own = key.public();
                for (at, name, _) in public_keys.iter().filter(|(_, _, key)| *key == own) {
                    let remedy = "write the public key of the other end, which mtd pubkey prints there";
                    problems.add(*at, *name, Fault::new("is this host's own public key", remedy));
                }
                identity = Some(Identity { key_file: found.key_file.clone(), key });
            }
            Err(fault) => problems.add(identity_at, "private_key_file", fault),
        }
    }
    match keys.into_iter().collect::<Option<Vec<_>>>() {
        Some(keys) if problems.count() == 0 => Ok(with_keys(config, identity, keys)),
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

fn with_keys(config: Config<()>, identity: Option<Identity>, keys: Vec<SecretKey>) -> Config {
    let peers = config.peers.into_iter().zip(keys).map(|(peer, key)| peer.with_key(key));
    Config {
        interface: config.interface,
        prefixes: config.prefixes,
        follow_prefix: config.follow_prefix,
        link: config.link,
        xdp: config.xdp,
        policy: config.policy,
        allow: config.allow,
        steering: config.steering,
        keystream: config.keystream,
        device: config.device,
        addresses: config.addresses,
        mtu: config.mtu,
        mtu_expires: config.mtu_expires,
        horizon: config.horizon,
        max_sessions: config.max_sessions,
        socket: config.socket,
        state_dir: config.state_dir,
        identity,
        hooks: config.hooks,
        metrics: config.metrics,
        web: config.web,
        rendezvous: config.rendezvous,
        listen: config.listen,
        servers: config.servers,
        peers: peers.collect(),
    }
}
