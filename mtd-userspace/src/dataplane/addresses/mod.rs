//! The writer of the table of addresses ([`mtd_common::table`]), its filter and the slots.

use std::sync::atomic::{AtomicU64, Ordering};

use mtd_common::abi::{MAX_SHARED, Slot};
use mtd_common::slot;
use mtd_common::table::{self, BUCKET, Bucket, Hash, Layout, Mark};

use super::error::Error;
use super::shared::Shared;
use crate::model::SessionIndex;
use crate::proto::slots::SlotMaps;

/// Table, filter and slots. There is one writer at a time.
pub(super) struct Addresses {
    layout: Layout,
    ring_bits: u32,
    /// Whether own ports tell the entries apart, since the own address is always the same.
    by_port: bool,
    slots: Shared<Slot>,
    buckets: Shared<Bucket>,
    filter: Shared<u64>,
    /// How many addresses set each bit of the filter; one that has reached the highest number stays set.
    counts: Box<[u8]>,
}

impl Addresses {
    /// The writer of these maps, which are empty or still to be cleaned up by [`Addresses::retain`].
    pub(super) fn new(
        layout: Layout,
        ring_bits: u32,
        slots: Shared<Slot>,
        buckets: Shared<Bucket>,
        filter: Shared<u64>,
    ) -> Self {
        let counts = vec![0; filter.len() * 64].into();
        Self { layout, ring_bits, by_port: false, slots, buckets, filter, counts }
    }

    /// Size and key of the table.
    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }

    /// From now on, addresses are loaded under their own ports, or not. What is loaded already stays as it is.
    pub(super) const fn load_by_port(&mut self, by_port: bool) {
        self.by_port = by_port;
    }

    /// The hashes under which the address of a slot may have been loaded.
    fn hashes(&self, slot: &Slot) -> [Hash; 2] {
        let with_port = table::with_port(&slot.local_low, slot.local_port);
        [self.layout.hash(&slot.local_low), self.layout.hash(&with_port)]
    }

    /// Removes the addresses for which `keep` (index of the session, slot) is false, and repairs what an interrupted writer
    /// left.
    pub(super) fn retain(&mut self, keep: impl Fn(u32, &Slot) -> bool) {
        self.counts.fill(0);
        for (index, entry) in self.buckets.words().iter().enumerate() {
            let place = entry.load(Ordering::Relaxed) as u32;
            let kept = self.slots.read(place).and_then(|slot| {
                let bucket = (index / BUCKET) as u32;
                let is_sound = |hash: &Hash| {
                    entry.load(Ordering::Relaxed) == hash.entry(place)
                        && [hash.first(), hash.second()].contains(&bucket)
                };
                let hash = self.hashes(&slot).into_iter().find(is_sound)?;
                keep(slot::session(place, self.ring_bits), &slot).then_some(hash)
            });
            match kept {
                Some(hash) => marks(hash).for_each(|at| self.counts[at] = self.counts[at].saturating_add(1)),
                None => entry.store(0, Ordering::Relaxed),
            }
        }
        for (word, counts) in self.filter.words().iter().zip(self.counts.chunks(64)) {
            let set = counts.iter().enumerate().fold(0, |word, (bit, &n)| word | u64::from(n > 0) << bit);
            word.store(set, Ordering::Relaxed);
        }
    }

    /// The entries of a bucket.
    fn bucket(&self, index: u32) -> &[AtomicU64] {
        let from = index as usize * BUCKET;
        // Hashes are made for this number of buckets.
        self.buckets.words().get(from..from + BUCKET).unwrap_or_default()
    }

    /// The entries that an address may have.
    fn entries(&self, hash: Hash) -> impl Iterator<Item = &AtomicU64> {
        let second = (hash.second() != hash.first()).then(|| self.bucket(hash.second()));
        self.bucket(hash.first()).iter().chain(second.into_iter().flatten())
    }

    fn insert(&mut self, place: u32, slot: &Slot) -> Result<(), Error> {
        let [by_address, by_port] = self.hashes(slot);
        let hash = if self.by_port { by_port } else { by_address };
        let has_same = |other: Slot| {
            other.local_low == slot.local_low && (!self.by_port || other.local_port == slot.local_port)
        };
        let mut sharing = 0;
        for entry in self.entries(hash) {
            match table::place(entry.load(Ordering::Relaxed), hash.fingerprint()) {
                Some(found) if found == place => return Ok(()),
                Some(other) => {
                    sharing += usize::from(self.slots.read(other).is_some_and(has_same));
                }
                None => {}
            }
        }
        if sharing >= MAX_SHARED {
            return Err(Error::Crowded);
        }
        let free = |bucket: u32| {
            self.bucket(bucket).iter().filter(|entry| entry.load(Ordering::Relaxed) == 0).count()
        };
        let (first, second) = (hash.first(), hash.second());
        let emptier = if free(first) >= free(second) { first } else { second };
        let vacant = self.bucket(emptier).iter().find(|entry| entry.load(Ordering::Relaxed) == 0);
        let vacant = vacant.ok_or(Error::Full(self.buckets.len() * BUCKET))?;
        // Written after the element of `SLOTS` that it leads to.
        vacant.store(hash.entry(place), Ordering::Release);
        for at in marks(hash) {
            self.counts[at] = self.counts[at].saturating_add(1);
            self.filter.words()[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
        }
        Ok(())
    }

    fn remove(&mut self, place: u32, slot: &Slot) {
        let entry_of = |hash: Hash| {
            let ours = hash.entry(place);
            Some((self.entries(hash).find(|entry| entry.load(Ordering::Relaxed) == ours)?, hash))
        };
        let Some((entry, hash)) = self.hashes(slot).into_iter().find_map(entry_of) else { return };
        entry.store(0, Ordering::Relaxed);
        for at in marks(hash) {
            if self.counts[at] < u8::MAX {
                self.counts[at] -= 1;
            }
            if self.counts[at] == 0 {
                self.filter.words()[at / 64].fetch_and(!(1 << (at % 64)), Ordering::Relaxed);
            }
        }
    }
}

/// The bits of the filter that an address sets, each once.
fn marks(hash: Hash) -> impl Iterator<Item = usize> {
    let Mark { word, mut mask } = hash.mark();
    std::iter::from_fn(move || {
        let bit = (mask != 0).then_some(mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(word as usize * 64 + bit as usize)
    })
}

impl SlotMaps for Addresses {
    type Error = Error;

    fn load(&mut self, session: SessionIndex, slot: &Slot) -> Result<(), Error> {
        let place = slot::place(session.0, slot.slot, self.ring_bits);
        if !self.slots.write(place, *slot) {
            return Err(Error::Full(self.slots.len()));
        }
        self.insert(place, slot)
    }

    fn unload(&mut self, session: SessionIndex, generation: u32, slot: u64) {
        let place = slot::place(session.0, slot, self.ring_bits);
        let loaded =
            self.slots.read(place).filter(|found| (found.slot, found.generation) == (slot, generation));
        if let Some(found) = loaded {
            self.remove(place, &found);
        }
    }
}

#[cfg(test)]
mod tests;
