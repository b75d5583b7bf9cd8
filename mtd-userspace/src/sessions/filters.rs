//! The filters of the configuration, and their change by `mtd reload`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::table::Whose;
use super::{Maps, Sessions};
use crate::config::Config;
use crate::model::{Filter, PeerNumber, Reject, Rule};

/// Those whom a configuration names, each with the rules for them, if there are any.
pub(super) fn named<K>(
    config: &Config<K>,
    number: impl Fn(&str) -> Option<PeerNumber>,
) -> Vec<(String, Whose, Option<Arc<Filter>>)> {
    let filter = |rules: &Option<Vec<Rule>>, reject: Reject| {
        rules.clone().map(|rules| Arc::new(Filter { rules, reject }))
    };
    let reject = config.filter_reject;
    let peers = config.peers.iter().filter_map(|peer| {
        let whose = Whose::Configured(number(&peer.name)?);
        Some((peer.name.clone(), whose, filter(&peer.filter, reject)))
    });
    let servers = config.servers.iter().map(|server| {
        (server.name.clone(), Whose::Negotiated(server.public_key), filter(&server.filter, reject))
    });
    let clients = config.listen.iter().flat_map(|listen| &listen.clients).map(|client| {
        (client.name.clone(), Whose::Negotiated(client.public_key), filter(&client.filter, reject))
    });
    peers.chain(servers).chain(clients).collect()
}

impl<M: Maps> Sessions<M> {
    /// Puts the filters of a configuration into force, for sessions that run and those to come. Returns the names of those whose
    /// filter is another one now. Whoever the configuration does not name any more keeps the filter until the session ends.
    ///
    /// # Errors
    /// When the maps have no room; then nothing is changed.
    pub(crate) fn set_filters(&mut self, config: &Config<()>) -> anyhow::Result<Vec<String>> {
        let peers = self.origins.configured.numbers();
        let named = named(config, |name| peers.get(name).copied());
        let listed: HashSet<Whose> = named.iter().map(|(_, whose, _)| *whose).collect();
        let before = self.table.filters();
        let changed = named.iter().filter(|(_, whose, filter)| before.get(whose) != filter.as_ref());
        let changed = changed.map(|(name, ..)| name.clone()).collect();
        let kept = before.iter().filter(|(whose, _)| !listed.contains(whose));
        let mut wanted: HashMap<_, _> = kept.map(|(whose, filter)| (*whose, Arc::clone(filter))).collect();
        wanted.extend(named.into_iter().filter_map(|(_, whose, filter)| Some((whose, filter?))));
        self.table.set_filters(wanted, self.clock.read().boot)?;
        Ok(changed)
    }
}
