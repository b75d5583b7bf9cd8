//! Export of one session from a table and import into another: it goes on with its sequence numbers, window and counters.

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use mtd_common::abi::SessionState;
use mtd_common::slot::sequence_seed;

use super::{GRACE, Maps, Table};
use crate::keys::PublicKey;
use crate::model::{BootNs, PeerNumber};
use crate::proto::clock::{self, Reading};
use crate::proto::exchange::SessionId;
use crate::proto::session::Session;
use crate::sessions::OriginId;
use crate::sessions::installed::{Inner, Key, NewSession, Peer};

/// A session on its way from one table to another. Times are relative, since each host has its own boot time. The keys are
/// overwritten on drop, and a debug print does not show them.
pub struct Exported {
    session: Session,
    /// Session clock minus wall clock, in ns: as accurate as the wall clocks of both hosts agree.
    ahead: i64,
    /// Time in ns since it began.
    age: u64,
    /// Time in ns since the last valid packet; `None`: none has come.
    silent: Option<u64>,
    /// Next sequence number to send, window, counters.
    state: SessionState,
    peer: Peer,
    local: Inner,
    remote: Inner,
    networks: Option<Arc<[IpNet]>>,
    translated: bool,
    where_heard: bool,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").field("peer", &self.peer).field("age", &self.age).finish_non_exhaustive()
    }
}

impl<M: Maps> Table<M> {
    /// Removes a session from this table, for another one. It must have been out of use ([`Table::rest`]) for long enough
    /// that no program changes its sequence numbers or its window any more.
    ///
    /// # Errors
    /// When there is no such session, or it is still in use.
    pub fn export(&mut self, key: Key, now: Reading) -> anyhow::Result<Exported> {
        let installed = self.get(key).context("no such session")?;
        let since = self.resting.iter().find(|(resting, _)| *resting == key).map(|(_, since)| *since);
        let rested = since.is_none_or(|since| now.boot.since(since) >= GRACE);
        anyhow::ensure!(installed.resting && rested, "the session is still in use");
        let peer = match installed.role {
            Some(role) => Peer::Negotiated(role, self.owner(installed.peer).context("no such peer")?),
            None => Peer::Configured(installed.peer),
        };
        let state = self.maps.state(installed.index())?;
        let last_valid = BootNs(state.rx_last_valid);
        let exported = Exported {
            session: Session::clone(&installed.session),
            ahead: clock::difference(installed.offset, now),
            age: now.boot.since(installed.started),
            silent: last_valid.happened().then(|| now.boot.since(last_valid)),
            state,
            peer,
            local: installed.local,
            remote: installed.remote,
            networks: installed.networks.clone(),
            translated: installed.translated,
            where_heard: installed.where_heard,
        };
        self.resting.retain(|(resting, _)| *resting != key);
        self.remove(key, now);
        Ok(exported)
    }

    /// Puts a session from another table into this one: it goes on from now.
    ///
    /// # Errors
    /// As [`Table::install`].
    pub fn import(&mut self, key: Key, exported: Exported, now: Reading) -> anyhow::Result<()> {
        let (origin, id): (OriginId, SessionId) = key;
        let offset = now.offset().moved(exported.ahead);
        let started = BootNs(now.boot.0.saturating_sub(exported.age).max(1));
        let old = &exported.state;
        // State that depends on the other host's CPUs and clocks is left behind.
        let state = SessionState {
            // Numbers that the clock has reached must not look old to the peer.
            tx_sequence: old.tx_sequence.max(sequence_seed(offset.session(now.boot).0)),
            tx_packets: old.tx_packets,
            tx_bytes: old.tx_bytes,
            rx_packets: old.rx_packets,
            rx_bytes: old.rx_bytes,
            rx_last_valid: exported.silent.map_or(0, |ns| now.boot.0.saturating_sub(ns).max(1)),
            rx_not_before: old.rx_not_before,
            rx_highest: old.rx_highest,
            window: old.window,
            heard: old.heard,
            ..SessionState::default()
        };
        let new = NewSession {
            id,
            session: Arc::new(exported.session),
            offset,
            started,
            peer: exported.peer,
            local: exported.local,
            remote: exported.remote,
            networks: exported.networks,
            state: Some(Box::new(state)),
            translated: exported.translated,
            resting: false,
        };
        self.install(origin, new, None, now)?;
        self.answer(key, exported.where_heard)?;
        Ok(self.route(key)?)
    }

    fn owner(&self, number: PeerNumber) -> Option<PublicKey> {
        self.peers.iter().find(|(_, known)| **known == number).map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests;
