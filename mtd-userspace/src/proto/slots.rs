//! Loading the slots of a session ahead of time, and unloading them once they are over.

use std::ops::Range;

use mtd_common::abi::{RxKey, RxSlot, TxSlot};
use mtd_common::slot;

use super::session::Session;

/// Where slots are loaded: the maps of a data plane, or a model of them.
pub trait SlotMaps {
    /// What may go wrong.
    type Error;

    /// Makes an own address receive for `slot`'s session; the chain of `key` is chosen here. Loading the same slot
    /// twice is one loading.
    ///
    /// # Errors
    /// When the map is full, [`mtd_common::abi::MAX_CHAIN`] sessions have the address, or the kernel refuses.
    fn load_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), Self::Error>;

    /// Takes the address from `slot`'s session again. What is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn unload_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), Self::Error>;

    /// Sets the element for `slot.slot` of a session's send ring.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn load_tx(&mut self, session: u32, slot: &TxSlot) -> Result<(), Self::Error>;
}

/// Where a session is in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into `SESSIONS`.
    pub index: u32,
    /// Generation of that element.
    pub generation: u32,
    /// Index of the own prefix.
    pub prefix: u16,
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

    /// Brings the maps to session time `now`: loads from the previous slot up to `horizon` ns ahead, unloads what is
    /// over. To be called about once a slot; often enough costs nothing.
    ///
    /// # Errors
    /// One of the maps. What was done stays, the rest is tried again at the next call.
    pub fn advance<M: SlotMaps>(
        &mut self,
        session: &Session,
        now: u64,
        horizon: u64,
        maps: &mut M,
    ) -> Result<(), M::Error> {
        let (phase, period) = (session.phase, session.period);
        let current = slot::number(now, phase, period);
        let first = current.saturating_sub(1).max(self.not_before);
        let ahead = now.saturating_add(horizon).min(session.until);
        let end = (slot::number(ahead, phase, period) + 1).max(first);
        // Time went on past everything loaded, or back: what is loaded is of no use, or not enough.
        if self.loaded.is_empty() || self.loaded.start > first || self.loaded.end < first {
            self.unload(session, maps)?;
            self.missing.clear();
            self.loaded = first..first;
        }
        // What is over goes first, so that a full map has room for what comes. The slot before the previous one may
        // still have packets in flight when the clocks differ: it ends by itself, and is unloaded a slot later.
        while self.loaded.start + 1 < first.min(self.loaded.end) {
            let (key, rx, _) = entries(self.place, session, self.loaded.start);
            maps.unload_rx(key, &rx)?;
            self.loaded.start += 1;
        }
        // An address that cannot be had now must not keep the slots behind it from being loaded.
        let mut failure = None;
        self.missing.retain(|number| {
            let (key, rx, _) = entries(self.place, session, *number);
            *number >= first && maps.load_rx(key, &rx).map_err(|error| failure = Some(error)).is_err()
        });
        while self.loaded.end < end {
            let number = self.loaded.end;
            let (key, rx, tx) = entries(self.place, session, number);
            maps.load_tx(self.place.index, &tx)?;
            if let Err(error) = maps.load_rx(key, &rx) {
                failure = Some(error);
                self.missing.push(number);
            }
            self.loaded.end += 1;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Unloads everything for reception. (The send ring goes with the session's generation.)
    ///
    /// # Errors
    /// The first one of the maps.
    pub fn unload<M: SlotMaps>(&mut self, session: &Session, maps: &mut M) -> Result<(), M::Error> {
        while !self.loaded.is_empty() {
            let (key, rx, _) = entries(self.place, session, self.loaded.start);
            maps.unload_rx(key, &rx)?;
            self.loaded.start += 1;
        }
        Ok(())
    }
}

fn entries(place: Place, session: &Session, number: u64) -> (RxKey, RxSlot, TxSlot) {
    let (local, remote) = session.endpoints(number);
    let (live_from, live_until) = slot::live(number, session.phase, session.period);
    let mut key = RxKey { low: [0; 8], prefix: place.prefix, chain: 0 };
    key.low.copy_from_slice(&local.address[8..]);
    let rx = RxSlot {
        live_from,
        live_until: live_until.min(session.until),
        session: place.index,
        generation: place.generation,
        slot: number as u32,
        local_port: local.port.to_be_bytes(),
        peer_port: remote.port.to_be_bytes(),
        peer_address: remote.address,
    };
    let tx = TxSlot {
        slot: number,
        generation: place.generation,
        local_port: local.port.to_be_bytes(),
        peer_port: remote.port.to_be_bytes(),
        local_address: local.address,
        peer_address: remote.address,
    };
    (key, rx, tx)
}

/// How many elements the send ring needs for slots of `period` ns loaded `horizon` ns ahead: a power of two.
pub fn ring_size(horizon: u64, period: u64) -> u32 {
    let slots = horizon / period.max(1) + 5;
    u32::try_from(slots).unwrap_or(u32::MAX / 2).next_power_of_two()
}

#[cfg(test)]
mod tests;
