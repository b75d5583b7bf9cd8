//! Who may come, and with which tunnel addresses: registry and leases, and what the sessions must know of them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tracing::{info, warn};

use crate::config::Config;
use crate::control::{Reason, Refusal};
use crate::keys::PublicKey;
use crate::leases::Leases;
use crate::model::TunnelAddresses;
use crate::registry::{Entry, Registry, Sources};
use crate::status;

/// See the module's documentation.
pub(super) struct Registrar {
    registry: Registry,
    sources: Sources,
    leases: Leases,
    leases_path: PathBuf,
    /// Where the configuration is read again.
    config_file: Option<PathBuf>,
    own_key: PublicKey,
}

/// What a change means for the sessions.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    /// To be registered, or given other addresses.
    pub(super) register: Vec<(PublicKey, TunnelAddresses)>,
    /// To be removed.
    pub(super) remove: Vec<PublicKey>,
}

impl Registrar {
    /// Reads registry and leases. `None`: this host is no server.
    ///
    /// # Errors
    /// When they cannot be read, or the pool is exhausted.
    pub(super) fn load(
        config: &Config,
        config_file: Option<PathBuf>,
        leases_path: PathBuf,
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
            warn!("{} is not to be used ({why}): clients get new addresses", leases_path.display());
            Leases::new(listen.pool, config.reserved_networks())
        });
        let mut registrar = Self { registry, sources, leases, leases_path, config_file, own_key };
        registrar.bring_up_to_date();
        Ok(Some(registrar))
    }

    /// Every client with its addresses. Those for whom none is left are left out, with a warning.
    pub(super) fn all(&mut self) -> Vec<(PublicKey, TunnelAddresses)> {
        let entries: Vec<_> = self.registry.entries().cloned().collect();
        let all = entries.iter().filter_map(|entry| self.lease(entry)).collect();
        self.save();
        all
    }

    /// Number of clients.
    pub(super) fn count(&self) -> usize {
        self.registry.len()
    }

    /// The name of a client.
    pub(super) fn name_of(&self, key: &PublicKey) -> Option<&str> {
        self.registry.by_key(key).map(|entry| entry.name.as_str())
    }

    /// All clients, as the control socket tells them.
    pub(super) fn document(&self) -> status::Registered {
        let mut document = self.registry.document();
        for client in &mut document.peers {
            if let Ok(key) = client.public_key.parse() {
                client.addresses = self.leases.get(&key).iter().collect();
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
        Ok((document, Consequences { register: vec![(key, addresses)], remove: Vec::new() }))
    }

    /// Removes a client.
    pub(super) fn remove(&mut self, name: &str) -> Result<(status::Client, Consequences), Refusal> {
        let entry = self.registry.remove(name)?;
        info!("client {name} is removed");
        self.leases.release(&entry.public_key, unix_now());
        self.save();
        let remove = vec![entry.public_key];
        Ok((entry.document(), Consequences { register: Vec::new(), remove }))
    }

    /// Reads the registry again: the folder, and the clients of the configuration file.
    pub(super) fn reload(&mut self) -> Result<(status::Reload, Consequences), Refusal> {
        if let Some(path) = &self.config_file {
            let config = Config::read(path).map_err(anyhow::Error::from)?;
            let sources = config.client_sources().ok_or_else(Refusal::not_a_server)?;
            self.sources = sources.with_own_key(self.own_key);
        }
        let change = self.registry.reload(self.sources.clone())?;
        for warning in &change.warnings {
            warn!("{warning}");
        }
        let (added, removed) = (change.added.len(), change.removed.len());
        info!("registry read again: {added} clients added, {removed} removed");
        for entry in &change.removed {
            self.leases.release(&entry.public_key, unix_now());
        }
        let evicted = self.bring_up_to_date();
        let evicted = evicted.iter().filter_map(|key| self.registry.by_key(key).cloned());
        let entries: Vec<Entry> =
            change.added.iter().chain(&change.changed).cloned().chain(evicted).collect();
        let register = entries.iter().filter_map(|entry| self.lease(entry)).collect();
        self.save();
        let remove = change.removed.iter().map(|entry| entry.public_key).collect();
        Ok((change.document(), Consequences { register, remove }))
    }

    /// Makes the leases fit the registry; returns whose addresses are void.
    fn bring_up_to_date(&mut self) -> Vec<PublicKey> {
        let registry = &self.registry;
        let evicted =
            self.leases.set_fixed(registry.entries().map(|entry| (entry.public_key, entry.addresses)));
        self.leases.release_all_but(|key| registry.by_key(key).is_some(), unix_now());
        evicted
    }

    fn lease(&mut self, entry: &Entry) -> Option<(PublicKey, TunnelAddresses)> {
        match self.leases.lease(&entry.public_key) {
            Ok(addresses) => Some((entry.public_key, addresses)),
            Err(error) => {
                warn!("client {} cannot come: {error}", entry.name);
                None
            }
        }
    }

    /// Writes the leases. A failure is logged: they hold as long as this controller runs.
    fn save(&mut self) {
        if self.leases.is_changed()
            && let Err(error) = self.leases.write(&self.leases_path)
        {
            warn!("{error}");
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
