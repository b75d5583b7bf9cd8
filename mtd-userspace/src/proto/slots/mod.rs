//! Loading the slots of a session ahead of time, and unloading them once they are over.

use std::ops::Range;

use mtd_common::abi::Slot;
use mtd_common::bytes::part;
use mtd_common::slot;

use super::session::Session;
use crate::model::{SessionIndex, SessionNs};

/// Where slots are loaded: the maps of a data plane, or a model of them.
pub trait SlotMaps {
    /// The error of an operation.
    type Error;

    /// Makes the addresses of a slot those that a session sends from and receives at, while the slot is live. Loading the
    /// same slot twice is one loading.
    ///
    /// # Errors
    /// When the own address cannot be had: the table is full, or [`mtd_common::abi::MAX_SHARED`] sessions have it. Sending
    /// works all the same.
    fn load(&mut self, session: SessionIndex, slot: &Slot) -> Result<(), Self::Error>;

    /// Takes a slot's own address from a session again, if it was loaded for this generation. What is not there is no
    /// error.
    fn unload(&mut self, session: SessionIndex, generation: u32, slot: u64);
}

/// Where a session is in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its element of the session table.
    pub index: SessionIndex,
    /// Generation of that element.
    pub generation: u32,
}

/// Which slots of a session are loaded.
#[derive(Debug)]
pub struct Loader {
    place: Place,
    loaded: Range<u64>,
    /// Slots before this one are never loaded.
    not_before: u64,
    /// Slots among the loaded ones whose address could not be had.
    missing: Vec<u64>,
}

impl Loader {
    /// Nothing loaded yet. Slots before `not_before` never will be: their packets may have been received by an
    /// earlier controller whose memory of them is lost.
    pub const fn new(place: Place, not_before: u64) -> Self {
        Self { place, loaded: not_before..not_before, not_before, missing: Vec::new() }
    }

    /// Where the session is in the maps.
    pub const fn place(&self) -> Place {
        self.place
    }

    /// The slot before which none is ever loaded.
    pub const fn not_before(&self) -> u64 {
        self.not_before
    }

    /// The slots that are loaded.
    pub fn loaded(&self) -> Range<u64> {
        self.loaded.clone()
    }

    /// How many of them have an own address that could not be had.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Brings the maps to session time `now`: loads from the previous slot up to `horizon` ns ahead, unloads what is
    /// over. To be called about once a slot; often enough costs nothing.
    ///
    /// # Errors
    /// One of the maps. What was done stays, the rest is tried again at the next call.
    pub fn advance<M: SlotMaps>(
        &mut self,
        session: &Session,
        now: SessionNs,
        horizon: u64,
        maps: &mut M,
    ) -> Result<(), M::Error> {
        let (phase, period) = (session.phase, session.period);
        let current = slot::number(now.0, phase, period);
        let first = current.saturating_sub(1).max(self.not_before);
        let ahead = (now + horizon).min(session.until);
        let end = (slot::number(ahead.0, phase, period) + 1).max(first);
        // Time went on past all loaded slots, or went back: the loaded slots are useless, or not enough.
        if self.loaded.is_empty() || self.loaded.start > first || self.loaded.end < first {
            self.unload(maps);
            self.missing.clear();
            self.loaded = first..first;
        }
        // What is over goes first, so that a full table has room for what comes. The slot before the previous one may
        // still have packets in flight when the clocks differ: it ends by itself, and is unloaded a slot later.
        while self.loaded.start + 1 < first.min(self.loaded.end) {
            self.unload_first(maps);
        }
        // An address that cannot be had now must not keep the slots behind it from being loaded.
        let (place, mut failure) = (self.place, None);
        let mut load = |number| {
            let element = element(place, session, number);
            maps.load(place.index, &element).map_err(|error| failure = Some(error)).is_ok()
        };
        self.missing.retain(|&number| number >= first && !load(number));
        for number in self.loaded.end..end {
            if !load(number) {
                self.missing.push(number);
            }
        }
        self.loaded.end = end.max(self.loaded.end);
        failure.map_or(Ok(()), Err)
    }

    /// Unloads everything for reception. (Sending ends with the session's generation.)
    pub fn unload<M: SlotMaps>(&mut self, maps: &mut M) {
        while !self.loaded.is_empty() {
            self.unload_first(maps);
        }
    }

    fn unload_first<M: SlotMaps>(&mut self, maps: &mut M) {
        maps.unload(self.place.index, self.place.generation, self.loaded.start);
        self.loaded.start += 1;
    }
}

/// A slot in the maps.
fn element(place: Place, session: &Session, number: u64) -> Slot {
    let (local, remote) = session.endpoints(number);
    let low = |address: [u8; 16]| *part::<8, 8, 16>(&address);
    Slot {
        slot: number,
        local_low: low(local.address),
        peer_low: low(remote.address),
        local_port: local.port.to_be_bytes(),
        peer_port: remote.port.to_be_bytes(),
        generation: place.generation,
    }
}

/// Whether what the maps hold of a slot is what this session has there, and still of use at session time `now`.
pub fn is_of(place: Place, session: &Session, loaded: &Slot, now: SessionNs) -> bool {
    let (_, end) = slot::live(loaded.slot, session.phase, session.period);
    end > now.0 && element(place, session, loaded.slot) == *loaded
}

/// Most slots of `period` ns that are loaded at a time for one session, `horizon` ns ahead: those, the one that has begun
/// in between, the present one, and two before.
pub fn most_loaded(horizon: u64, period: u64) -> u32 {
    u32::try_from(horizon / period.max(1) + 4).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
