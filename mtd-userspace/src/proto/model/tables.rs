//! The maps and programs of a host, simulated in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mtd_common::address::Endpoint;
use mtd_common::{DropReason, abi, slot};

use crate::keys::PublicKey;
use crate::model::{BootNs, ClockOffset};
use crate::proto::exchange::{Adopted, Install, SendSlot, SessionId};
use crate::proto::messages::Tunnel;
use crate::proto::packet::{self, Path};
use crate::proto::session::Session;

/// A session in the tables.
pub(in crate::proto) struct Entry {
    pub(super) session: Arc<Session>,
    pub(in crate::proto) offset: ClockOffset,
    pub(super) sequence: u64,
    pub(super) used: BTreeSet<u64>,
    pub(super) tags: BTreeSet<Vec<u8>>,
    pub(super) remote: Tunnel,
    pub(super) local: Tunnel,
    pub(super) last_valid: BootNs,
    /// The slots in which the peer was heard: the highest number in each, and where its packet came from.
    pub(super) heard: BTreeMap<u64, (u64, Endpoint)>,
    /// It is answered there.
    pub(in crate::proto) where_heard: bool,
    pub(super) peer: PublicKey,
    pub(super) started: BootNs,
    /// A router translates the peer's addresses.
    pub(super) translated: bool,
}

impl Entry {
    pub(super) fn adopted(&self) -> Adopted {
        Adopted {
            session: Arc::clone(&self.session),
            offset: self.offset,
            started: self.started,
            last_valid: self.last_valid,
            translated: self.translated,
            where_heard: self.where_heard,
        }
    }
}

/// The maps and programs of one host.
#[derive(Default)]
pub(in crate::proto) struct Tables {
    pub(in crate::proto) entries: BTreeMap<SessionId, Entry>,
    /// Session that traffic for this peer tunnel address goes through.
    pub(super) routes: HashMap<Tunnel, SessionId>,
    /// Packets dropped, by reason.
    pub(in crate::proto) drops: BTreeMap<DropReason, u64>,
    /// Key and nonce of every packet that was sealed.
    nonces: HashSet<([u8; 32], u64, u64)>,
}

impl Tables {
    pub(super) fn install(&mut self, install: Install, boot: u64) {
        let sequence = slot::sequence_seed(install.offset.session(BootNs(boot)).0);
        self.entries.insert(
            install.id,
            Entry {
                session: install.session,
                offset: install.offset,
                sequence,
                used: BTreeSet::new(),
                tags: BTreeSet::new(),
                remote: install.remote,
                local: install.local,
                last_valid: BootNs::NEVER,
                heard: BTreeMap::new(),
                where_heard: false,
                peer: install.peer,
                started: install.started,
                translated: install.translated,
            },
        );
    }

    /// The numbers of all sessions and introductions.
    pub(in crate::proto) fn ids(&self) -> BTreeSet<SessionId> {
        self.entries.keys().copied().collect()
    }

    /// Seals an inner packet as the send program does.
    pub(super) fn seal(
        &mut self,
        id: SessionId,
        chosen: Option<SendSlot>,
        inner: &[u8],
        boot: u64,
    ) -> Option<Vec<u8>> {
        let entry = self.entries.get_mut(&id)?;
        let time = entry.offset.session(BootNs(boot)).0;
        let present = slot::number(time, entry.session.phase, entry.session.period);
        let number = match chosen {
            Some(SendSlot::Present) if !entry.translated => present,
            Some(SendSlot::Next) if !entry.translated => present + 1,
            _ if !(entry.where_heard || entry.translated) || entry.heard.contains_key(&present) => present,
            _ if entry.heard.contains_key(&(present - 1)) => present - 1,
            _ => present,
        };
        let (local, remote) = entry.session.endpoints(number);
        let remote = if entry.translated { entry.heard.get(&number)?.1 } else { remote };
        entry.sequence += 1;
        let nonce = (entry.session.tx.0.seal, number, entry.sequence);
        assert!(self.nonces.insert(nonce), "a nonce is used twice");
        packet::seal(&entry.session, &Path { slot: number, local, remote }, entry.sequence, inner)
    }

    /// Takes a packet as the receive program does: returns the session, slot and inner packet.
    pub(super) fn receive(
        &mut self,
        packet: &[u8],
        boot: u64,
    ) -> Result<(SessionId, u32, Vec<u8>), DropReason> {
        let end = |at: usize, port: usize| Endpoint {
            address: packet[at..at + 16].try_into().unwrap(),
            port: u16::from_be_bytes([packet[port], packet[port + 1]]),
        };
        let (source, destination) = (end(8, 40), end(24, 42));
        let mut reason = DropReason::UnknownAddress;
        for (id, entry) in &mut self.entries {
            let time = entry.offset.session(BootNs(boot)).0;
            let (phase, period) = (entry.session.phase, entry.session.period);
            let current = slot::number(time, phase, period);
            for number in current.saturating_sub(1)..=current + 1 {
                let (local, remote) = entry.session.endpoints(number);
                let anybody = remote.address == [0; 16] || entry.translated;
                if local != destination || !(anybody || remote == source) || time >= entry.session.until.0 {
                    continue;
                }
                match packet::open(&entry.session, number as u32, packet) {
                    Ok((sequence, inner)) => {
                        let fresh = if entry.session.mode == abi::MODE_INTRODUCTION {
                            let mut tag = packet[56..72].to_vec();
                            if source.address != inner[8..24] {
                                tag.push(1);
                            }
                            entry.tags.insert(tag)
                        } else {
                            entry.used.insert(sequence)
                        };
                        if !fresh {
                            return Err(DropReason::Replayed);
                        }
                        entry.last_valid = BootNs(boot);
                        let newest = entry.heard.get(&number).is_none_or(|(highest, _)| *highest < sequence);
                        if newest {
                            entry.heard.insert(number, (sequence, source));
                        }
                        return Ok((*id, number as u32, inner));
                    }
                    Err(why) => reason = why,
                }
            }
        }
        Err(reason)
    }
}
