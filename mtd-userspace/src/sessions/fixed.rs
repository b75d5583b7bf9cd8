//! Statically configured sessions: their slots, clocks and sequence numbers.

use mtd_common::slot::sequence_seed;
use tracing::info;

use super::{GRACE, Sessions, generation, revoked};
use crate::proto::clock::{self, Reading};
use crate::state::State;

impl Sessions {
    /// Loads and unloads slots of a peer; returns another clock where it needs one.
    pub(super) fn tick_peer(&mut self, index: usize, now: Reading) -> anyhow::Result<Option<u64>> {
        let peer = &mut self.peers[index];
        let state = self.tables.plane.session_state(peer.place.index)?;
        peer.note_sent(state.tx_sequence);
        let last_valid = state.rx_last_valid.max(peer.since);
        let offset = clock::adjust(peer.offset, last_valid, peer.session.period, now);
        if offset.is_none() {
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.tables.horizon, self.tables.plane.slots())?;
        }
        Ok(offset)
    }

    /// Moves silent sessions to another clock: under a new generation, with the windows that they have.
    pub(super) fn set_clocks(&mut self, strays: &[(usize, u64)], now: Reading) -> anyhow::Result<()> {
        if strays.is_empty() {
            return Ok(());
        }
        self.routes_due = true;
        for &(index, _) in strays {
            let peer = &mut self.peers[index];
            let seconds = clock::difference(peer.offset, now) as f64 / 1e9;
            info!(
                "{}: no valid packet, and the wall clock was set by {:.3} s: following it",
                peer.config.name, -seconds
            );
            self.tables.plane.set_session(peer.place.index, revoked(peer.element()))?;
            peer.loader.unload(self.tables.plane.slots());
        }
        std::thread::sleep(GRACE);
        for &(index, offset) in strays {
            let peer = &mut self.peers[index];
            let mut state = self.tables.plane.session_state(peer.place.index)?;
            peer.note_sent(state.tx_sequence);
            // So that numbers are possible ones again, whichever way the clock went; none that was used before.
            state.tx_sequence = peer.unused_from(sequence_seed(now.boot.wrapping_add(offset)));
            self.tables.plane.set_session_state(peer.place.index, state)?;
            peer.restart(generation()?, offset, state.tx_sequence, now);
            self.tables.plane.set_session(peer.place.index, peer.element())?;
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.tables.horizon, self.tables.plane.slots())?;
        }
        Ok(())
    }

    /// Notes in the state file which sequence numbers may be used from now on.
    pub(super) fn reserve(&mut self) -> anyhow::Result<()> {
        let mut state = State::read(&self.facts.state)?.unwrap_or_default();
        for peer in &mut self.peers {
            peer.reserve();
            state.begin(peer.session.fingerprint(), peer.reserved);
        }
        state.write(&self.facts.state)?;
        Ok(())
    }
}
