//! Sessions that are over, or out of use for a while. A program may still be at work with a session for a moment: so it is
//! taken out of use first, and its elements are changed only at a later tick. Nobody waits for that.

use mtd_common::abi::{self, SessionState};
use mtd_common::session_note::SessionNote;
use tracing::warn;

use super::{GRACE, Maps, Table, add};
use crate::dataplane::Error;
use crate::model::{BootNs, ClockOffset, SessionIndex};
use crate::proto::clock::Reading;
use crate::proto::slots::{Loader, Place};
use crate::sessions::generation;
use crate::sessions::installed::Key;

impl<M: Maps> Table<M> {
    /// Ends a session: no new packet passes. Its keys are wiped from the maps once no program can be at work with them any
    /// more.
    pub(crate) fn remove(&mut self, key: Key, now: Reading) {
        let Some(mut installed) = self.forget(key) else { return };
        installed.resting = true;
        let done = self.revoke(installed.index(), installed.element(), now.boot);
        installed.loader.unload(self.maps.slots());
        if let Err(error) = done.and_then(|()| self.unroute(&installed)) {
            warn!("ending a session: {error}");
        }
    }

    /// Ends all sessions. Their keys are still in the maps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn remove_all(&mut self, now: Reading) -> Result<(), Error> {
        self.set_only(Vec::new())?;
        let keys: Vec<_> = self.iter().map(|installed| installed.key).collect();
        for key in keys {
            self.remove(key, now);
        }
        Ok(())
    }

    /// Ends the session in an element of the session table. The keys stay for a while: a program that is at work with them
    /// would otherwise go on with zeros.
    pub(super) fn revoke(
        &mut self,
        index: SessionIndex,
        element: abi::Session,
        now: BootNs,
    ) -> Result<(), Error> {
        self.maps.set_session(index, abi::Session { generation: 0, ..element })?;
        self.ended.push((index, now));
        Ok(())
    }

    /// Wipes the keys of ended sessions once no program can be at work with them any more; their elements can then be used
    /// again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn wipe(&mut self, now: BootNs) -> Result<(), Error> {
        for (index, _) in self.ended.extract_if(.., |(_, since)| now.since(*since) >= GRACE) {
            self.maps.set_session(index, abi::Session::default())?;
            add(&mut self.wiped, &self.maps.traffic(index));
            self.maps.set_state(index, SessionState::default())?;
            self.maps.set_note(index, &SessionNote::default())?;
            self.indexes.free(index);
        }
        self.wipe_policies(now)
    }

    /// Takes a session out of use: no packet passes until [`Table::resume`]. [`Table::rested`] reports when no program works
    /// with it any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rest(&mut self, key: Key, now: Reading) -> Result<(), Error> {
        let Some(index) = self.index(key) else { return Ok(()) };
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        installed.resting = true;
        self.maps.set_session(index, installed.element())?;
        installed.loader.unload(self.maps.slots());
        self.resting.push((key, now.boot));
        Ok(())
    }

    /// The sessions that were taken out of use and that no program works with any more, each reported once, with the state
    /// that the programs have left.
    pub(crate) fn rested(&mut self, now: BootNs) -> Vec<(Key, SessionState)> {
        let rested: Vec<_> = self
            .resting
            .extract_if(.., |(_, since)| now.since(*since) >= GRACE)
            .map(|(key, _)| key)
            .collect();
        let state = |key| Some((key, self.maps.state(self.index(key)?).ok()?));
        rested.into_iter().filter_map(state).collect()
    }

    /// Resumes a session that was taken out of use: with a new generation and this clock, sending from `sequence` on, and
    /// without slots before `not_before`. What it has received is remembered.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn resume(
        &mut self,
        key: Key,
        offset: ClockOffset,
        (sequence, not_before): (u64, u64),
        now: Reading,
    ) -> anyhow::Result<()> {
        let Some(index) = self.index(key) else { return Ok(()) };
        let mut state = self.maps.state(index)?;
        state.tx_sequence = sequence;
        state.rx_not_before = state.rx_not_before.max(not_before);
        let not_before = state.rx_not_before;
        self.maps.set_state(index, state)?;
        let mut note = self.maps.note(index)?;
        let place = Place { index, generation: generation()? };
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        if installed.role.is_some() {
            note.generation = place.generation;
            self.maps.set_note(index, &note)?;
        }
        installed.loader = Loader::new(place, not_before.max(installed.loader.not_before()));
        installed.offset = offset;
        installed.resting = false;
        self.maps.set_session(index, installed.element())?;
        self.load(index, now)?;
        Ok(self.route(key)?)
    }
}
