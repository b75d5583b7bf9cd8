//! Registry and leases together: which clients may connect, with which tunnel addresses, and the resulting changes for the
//! sessions.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use tracing::{info, warn};

use super::{Change, Entry, Registry, Sources, not_a_server};
use crate::config::Config;
use crate::http::{Reason, Refusal};
use crate::keys::PublicKey;
use crate::leases::Leases;
use crate::model::{LastTry, News};
use crate::proto::session::nanoseconds;
use crate::sessions::{Clock, Consequences, RegisteredClient};
use crate::status::{self, SessionState};

/// The settings of the whole file that concern clients.
impl<K> Config<K> {
    /// The sources of the registered clients, and their restrictions; `None` without `[listen]`.
    pub fn client_sources(&self) -> Option<Sources> {
        let names = self.peers.iter().map(|peer| &peer.name);
        let names: HashSet<_> =
            names.chain(self.servers.iter().map(|server| &server.name)).cloned().collect();
        let keys = self.servers.iter().map(|server| server.public_key).collect();
        Some(Sources::new(self.listen.as_ref()?, names, keys))
    }

    /// Addresses that are never leased: own tunnel addresses, and the inner networks of peers and servers.
    pub fn reserved_networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        let own = self.addresses.iter().map(|net| IpNet::from(net.addr()));
        let peers = self.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        let servers = self.servers.iter().flat_map(|server| server.allowed_ips.iter().copied());
        own.chain(peers).chain(servers)
    }
}

/// The registered clients and their addresses.
pub(super) struct Registrar {
    registry: Registry,
    sources: Sources,
    leases: Leases,
    leases_path: PathBuf,
    /// Why the leases could not be written the last time.
    unsaved: LastTry,
    clock: Arc<dyn Clock>,
    own_key: PublicKey,
}

impl Registrar {
    /// Reads registry and leases. `None`: this host is not a server.
    ///
    /// # Errors
    /// When they cannot be read, or the pool is exhausted.
    pub(super) fn load(
        config: &Config,
        leases_path: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Option<Self>> {
        let (Some(sources), Some(listen), Some(identity)) =
            (config.client_sources(), &config.listen, &config.identity)
        else {
            return Ok(None);
        };
        let own_key = identity.key.public();
        let sources = sources.with_own_key(own_key);
        let (registry, warnings) = Registry::load(sources.clone())?;
        for warning in warnings {
            warn!("{warning}");
        }
        let leases = Leases::read(&leases_path, listen.pool, config.reserved_networks())?;
        let leases = leases.unwrap_or_else(|why| {
            warn!("{} cannot be used ({why}): clients get new addresses", leases_path.display());
            Leases::new(listen.pool, config.reserved_networks())
        });
        let mut registrar =
            Self { registry, sources, leases, leases_path, unsaved: LastTry::default(), clock, own_key };
        registrar.bring_up_to_date();
        Ok(Some(registrar))
    }

    /// Every client with its addresses. A client for which no address is left is omitted, with a warning.
    pub(super) fn all(&mut self) -> Vec<RegisteredClient> {
        let entries: Vec<_> = self.registry.entries().cloned().collect();
        let all = entries.iter().filter_map(|entry| self.lease(entry)).collect();
        self.save();
        all
    }

    /// Number of clients.
    pub(super) fn count(&self) -> usize {
        self.registry.len()
    }

    /// All clients for the control socket, with the states of their sessions.
    pub(super) fn document(&self, sessions: &HashMap<PublicKey, SessionState>) -> status::Registered {
        let mut document = self.registry.document();
        for client in &mut document.peers {
            if let Ok(key) = client.public_key.parse() {
                client.addresses = self.leases.get(&key).iter().collect();
                client.session = sessions.get(&key).copied();
            }
        }
        document
    }

    /// Registers a client.
    pub(super) fn add(
        &mut self,
        name: &str,
        key: PublicKey,
    ) -> Result<(status::Client, Consequences), Refusal> {
        let entry = self.registry.add(name, key)?;
        info!("client {name} is registered");
        let leased = self.leases.lease(&key).context("the client is registered, but");
        self.save();
        let addresses = leased.map_err(|error| Refusal::new(Reason::Conflict, format!("{error:#}")))?;
        let mut document = entry.document();
        document.addresses = addresses.iter().collect();
        let client = RegisteredClient { public_key: key, name: entry.name, addresses, period: None };
        Ok((document, Consequences { register: vec![client], ..Consequences::default() }))
    }

    /// Removes a client.
    pub(super) fn remove(&mut self, name: &str) -> Result<(status::Client, Consequences), Refusal> {
        let entry = self.registry.remove(name)?;
        info!("client {name} is removed");
        let now = self.now();
        self.leases.release(&entry.public_key, now);
        self.save();
        let remove = vec![entry.public_key];
        Ok((entry.document(), Consequences { remove, ..Consequences::default() }))
    }

    /// Reads the registry again: the folder, and the clients of the configuration, which may have changed.
    pub(super) fn reload(&mut self, config: Option<&Config<()>>) -> Result<(Change, Consequences), Refusal> {
        if let Some(config) = config {
            let sources = config.client_sources().ok_or_else(not_a_server)?;
            self.sources = sources.with_own_key(self.own_key);
        }
        let change = self.registry.reload(self.sources.clone())?;
        for warning in &change.warnings {
            warn!("{warning}");
        }
        let (added, removed) = (change.added.len(), change.removed.len());
        info!("registry read again: {added} clients added, {removed} removed");
        let now = self.now();
        for entry in &change.removed {
            self.leases.release(&entry.public_key, now);
        }
        let evicted = self.bring_up_to_date();
        let evicted = evicted.iter().filter_map(|key| self.registry.by_key(key).cloned());
        let entries: Vec<Entry> =
            change.added.iter().chain(&change.changed).cloned().chain(evicted).collect();
        let register = entries.iter().filter_map(|entry| self.lease(entry)).collect();
        self.save();
        let remove = change.removed.iter().map(|entry| entry.public_key).collect();
        Ok((change, Consequences { register, remove, ..Consequences::default() }))
    }

    /// Makes the leases fit the registry; returns the clients whose addresses are void.
    fn bring_up_to_date(&mut self) -> Vec<PublicKey> {
        let (registry, now) = (&self.registry, self.now());
        let evicted =
            self.leases.set_fixed(registry.entries().map(|entry| (entry.public_key, entry.addresses)));
        self.leases.release_all_but(|key| registry.by_key(key).is_some(), now);
        evicted
    }

    fn lease(&mut self, entry: &Entry) -> Option<RegisteredClient> {
        match self.leases.lease(&entry.public_key) {
            Ok(addresses) => {
                let (public_key, name) = (entry.public_key, entry.name.clone());
                Some(RegisteredClient { public_key, name, addresses, period: entry.slot.map(nanoseconds) })
            }
            Err(error) => {
                warn!("client {} cannot come: {error}", entry.name);
                None
            }
        }
    }

    /// Unix time in s, by the clock of the sessions.
    fn now(&self) -> u64 {
        self.clock.read().wall.seconds()
    }

    /// Writes the leases if they have changed, or could not be written before. A failure is logged once: the leases hold as
    /// long as this controller runs.
    pub(super) fn save(&mut self) {
        let written = self.leases.write(&self.leases_path);
        match self.unsaved.note(written.err().map(|error| error.to_string())) {
            Some(News::Fails(why)) => warn!("{why}"),
            Some(News::Works) => info!("the tunnel addresses of clients are saved again"),
            None => {}
        }
    }

    /// Why the leases are not saved; `None`: they are.
    pub(super) fn unsaved(&self) -> Option<&str> {
        self.unsaved.failure()
    }
}

#[cfg(test)]
impl Registrar {
    /// The clients of a folder, with addresses of this pool.
    pub(super) fn of_folder(dir: &std::path::Path, pool: crate::model::Pool, clock: Arc<dyn Clock>) -> Self {
        let sources = Sources::of_folder(dir);
        let (registry, _) = Registry::load(sources.clone()).unwrap();
        let leases_path = dir.join("leases");
        let own_key = PublicKey::from_bytes([1; 32]);
        Self {
            registry,
            sources,
            leases: Leases::new(pool, []),
            leases_path,
            unsaved: LastTry::default(),
            clock,
            own_key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;
    use crate::model::{BootNs, Pool, Reading, UnixNs};

    /// Leases follow a simulated fault of the clock: they do not read the system's clock.
    #[test]
    fn leases_go_by_the_clock_of_the_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Reading { boot: BootNs(5), wall: UnixNs(4_000_000_000_000_000_000) };
        let pool = Pool { v4: Some("10.9.0.0/24".parse().unwrap()), v6: None };
        let mut registrar = Registrar::of_folder(folder.path(), pool, Arc::new(clock));
        registrar.add("laptop", SecretKey::generate().unwrap().public()).unwrap();
        registrar.remove("laptop").unwrap();
        let leases = std::fs::read_to_string(folder.path().join("leases")).unwrap();
        assert!(leases.contains("4000000000"), "{leases}");
    }
}
