//! Sessions at the start of a controller: those that an earlier one left go on, the others begin.

use std::collections::HashMap;

use anyhow::Context as _;
use mtd_common::abi::{Session as Element, SessionState};
use mtd_common::slot::{self, sequence_seed};
use tracing::info;

use super::peer::Peer;
use super::{Sessions, generation};
use crate::config;
use crate::proto::clock::Reading;
use crate::proto::session::Session;
use crate::proto::slots::{Loader, Place, is_of};
use crate::state::Past;

impl Sessions {
    /// Gives every peer a session, in the tables but not reachable yet.
    pub(super) fn install(&mut self, pasts: Vec<Past>) -> anyhow::Result<()> {
        let now = self.clock.read();
        let mut left = self.take_over()?;
        let mut found = Vec::new();
        for peer in &self.config.peers {
            let session = Session::new(peer);
            let position = left.iter().position(|(_, found)| {
                (found.rx == session.rx.0) && (found.tx == session.tx.0) && found.mode == session.mode
            });
            found.push((session, position.map(|position| left.remove(position))));
        }
        let ours = found.iter().filter_map(|(_, found)| found.map(|(index, _)| index));
        ours.for_each(|index| self.tables.indexes.mark(index));
        // Those that are nobody's make room first.
        for (index, element) in left {
            self.tables.indexes.mark(index);
            if !self.negotiated.adopt(index, &element, now, &mut self.tables)? {
                self.tables.revoke(index, element)?;
            }
        }
        self.tables.wipe_revoked()?;
        let peers = self.config.peers.clone();
        for (((number, peer), past), (session, found)) in (1..).zip(peers).zip(pasts).zip(found) {
            let peer = match found {
                Some((index, element)) => self.go_on((number, peer), session, index, &element, now)?,
                None => self.begin((number, peer), session, past, now)?,
            };
            self.peers.push(peer);
        }
        self.drop_strangers(now);
        Ok(())
    }

    /// The sessions that are in the maps already.
    fn take_over(&self) -> anyhow::Result<Vec<(u32, Element)>> {
        if !self.tables.plane.adopted() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for index in 0..self.tables.plane.capacity().sessions {
            let element = self.tables.plane.session(index)?;
            if element.generation != 0 {
                found.push((index, element));
            }
        }
        Ok(found)
    }

    /// A session that an earlier controller left.
    fn go_on(
        &self,
        (number, peer): (u32, config::Peer),
        session: Session,
        index: u32,
        found: &Element,
        now: Reading,
    ) -> anyhow::Result<Peer> {
        info!("session with {} goes on", peer.name);
        let place = Place { index, generation: found.generation };
        let state = self.tables.plane.session_state(index)?;
        // Slots that the earlier controller loaded are loaded again, which changes nothing.
        let loader = Loader::new(place, state.rx_not_before);
        Ok(Peer::new(peer, number, session, loader, found.clock_offset, state.tx_sequence, now))
    }

    /// A session that starts now, with what is remembered of it.
    fn begin(
        &mut self,
        (number, peer): (u32, config::Peer),
        session: Session,
        past: Past,
        now: Reading,
    ) -> anyhow::Result<Peer> {
        let offset = now.offset();
        let time = now.boot.wrapping_add(offset);
        let seed = sequence_seed(time);
        let state = match past {
            Past::None => SessionState { tx_sequence: seed, ..SessionState::default() },
            Past::Known(state) => SessionState { tx_sequence: state.tx_sequence.max(seed), ..*state },
            Past::Lost { reserved } => {
                // Live then can have been this slot and the next one; packets for later ones nobody has accepted.
                let first = slot::number(time, session.phase, session.period) + 2;
                info!("the last stop was not clean: {} can be reached from slot {first} on", peer.name);
                SessionState {
                    tx_sequence: seed.max(reserved),
                    rx_not_before: first,
                    ..SessionState::default()
                }
            }
        };
        let index = self.free_index()?;
        let place = Place { index, generation: generation()? };
        self.tables.plane.set_session_state(index, state)?;
        info!("session with {} starts", peer.name);
        let loader = Loader::new(place, state.rx_not_before);
        Ok(Peer::new(peer, number, session, loader, offset, state.tx_sequence, now))
    }

    fn free_index(&mut self) -> anyhow::Result<u32> {
        self.tables
            .indexes
            .take()
            .context("no room for another session; raise max_sessions in the configuration")
    }

    /// Takes away the addresses of sessions that are none of ours, of slots that are over, and of ends that a session no
    /// longer has.
    fn drop_strangers(&mut self, now: Reading) {
        let ours: HashMap<Place, &Peer> = self.peers.iter().map(|peer| (peer.place, peer)).collect();
        let negotiated = &self.negotiated;
        self.tables.plane.retain_slots(|index, slot| {
            let place = Place { index, generation: slot.generation };
            match ours.get(&place) {
                Some(peer) => is_of(place, &peer.session, slot, peer.time(now)),
                None => negotiated.has(place, slot, now),
            }
        });
    }
}
