//! From an address to the session and slot that own it: see [`mtd_common::table`].

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mtd_common::abi::{Dataplane, Session, Slot};
use mtd_common::bytes::part;
use mtd_common::table::{self, BUCKET, Bucket, Hash, Mark};
use mtd_common::{DropReason, slot};

use crate::clock;
use crate::once::once;
use crate::session::{self, MMAPABLE};

#[map]
static FILTER: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ADDRESSES: Array<Bucket> = Array::with_max_entries(2, MMAPABLE);
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(8, MMAPABLE);

/// Whether an address with this mark may be ours.
#[inline(always)]
pub(crate) fn may_be_ours(mark: Mark) -> bool {
    let Some(word) = FILTER.get_ptr(mark.word) else { return false };
    // SAFETY: an element of the map, aligned; volatile, since the controller writes it meanwhile.
    let word = unsafe { word.read_volatile() };
    word & mark.mask == mark.mask
}

/// A bucket of the table of addresses.
#[derive(Clone, Copy)]
pub(crate) struct Entries(*const u64);

/// The bucket of this index; `None` never happens, since hashes are made for the number of buckets.
#[inline(always)]
pub(crate) fn bucket(index: u32) -> Option<Entries> {
    ADDRESSES.get_ptr(index).map(|bucket| Entries(bucket.cast()))
}

impl Entries {
    /// An entry; `index` must be below [`BUCKET`].
    #[inline(always)]
    pub(crate) fn entry(self, index: usize) -> u64 {
        // SAFETY: inside the element (masked), aligned; volatile, since the controller writes it meanwhile.
        unsafe { self.0.add(index & (BUCKET - 1)).read_volatile() }
    }
}

/// An element of `SLOTS`.
#[inline(always)]
pub(crate) fn slot(place: u32) -> Option<&'static Slot> {
    SLOTS.get(place)
}

/// The hash of an address in a protected prefix.
#[inline(always)]
fn hash_of_address(dataplane: &Dataplane, address: &[u8; 16]) -> Hash {
    dataplane.table.hash(part::<8, 8, 16>(address))
}

/// The hash of an address and a port (network order) in a protected prefix.
#[inline(always)]
pub(crate) fn hash(dataplane: &Dataplane, address: &[u8; 16], port: [u8; 2]) -> Hash {
    if dataplane.has_single_addresses() {
        dataplane.table.hash(&table::with_port(part::<8, 8, 16>(address), port))
    } else {
        hash_of_address(dataplane, address)
    }
}

/// Finds the place in `SLOTS` of a session that has the address of this hash and `suits`. If several sessions have the
/// address and none suits, the reason of the closest one is returned.
#[inline(always)]
pub(crate) fn find(
    hash: Hash,
    mut suits: impl FnMut(u32) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let mut closest = DropReason::UnknownAddress;
    let mut nth = 0;
    while nth < 2 {
        let Some(bucket) = bucket(if nth == 0 { hash.first() } else { hash.second() }) else { break };
        nth += 1;
        let mut index = 0;
        while index < BUCKET {
            let entry = bucket.entry(index);
            index += 1;
            let Some(place) = table::place(entry, hash.fingerprint()) else { continue };
            match suits(place) {
                Ok(()) => return Ok(()),
                // The fingerprint belongs to another address.
                Err(DropReason::UnknownAddress) => {}
                Err(reason) if is_as_close(reason, closest) => closest = reason,
                Err(_) => {}
            }
        }
    }
    Err(closest)
}

/// The session and slot at a place, if they have the address now, by [`clock::tick`].
#[inline(always)]
pub(crate) fn at(
    dataplane: &Dataplane,
    place: u32,
    address: &[u8; 16],
) -> Result<(&'static Session, &'static Slot), DropReason> {
    let slot = slot(place).ok_or(DropReason::UnknownAddress)?;
    if slot.local_low != *part::<8, 8, 16>(address) {
        return Err(DropReason::UnknownAddress);
    }
    let session = slot::session(place, dataplane.ring_bits);
    let session = session::session(session, slot.generation).ok_or(DropReason::SessionEnded)?;
    if session.local_high != *part::<0, 8, 16>(address) {
        return Err(DropReason::UnknownAddress);
    }
    if is_within(session, slot, clock::tick()) { Ok((session, slot)) } else { Err(DropReason::StaleSlot) }
}

/// Whether a slot of a session is live at this boot time in ns.
#[inline(always)]
pub(crate) fn is_within(session: &Session, slot: &Slot, now: u64) -> bool {
    let time = now.wrapping_add(session.clock_offset);
    slot::is_live(slot.slot, time, session.phase, session.period, session.until)
}

once! {
    /// Whether a packet refused for `reason` came as close to a session as one refused for `other`.
    fn is_as_close = lookup_is_as_close(reason: DropReason, other: DropReason) -> bool {
        reason.closeness() >= other.closeness()
    }
}

once! {
    /// Whether a place has this address.
    fn suits = lookup_suits(dataplane: &Dataplane, place: u32, address: &[u8; 16]) -> Result<(), DropReason> {
        at(dataplane, place, address).map(|_| ())
    }
}

/// Finds a session that has this address, whatever the port.
#[inline(always)]
fn find_address(dataplane: &Dataplane, address: &[u8; 16]) -> Result<(), DropReason> {
    let hash = hash_of_address(dataplane, address);
    if dataplane.has_single_addresses() || !may_be_ours(hash.mark()) {
        return Err(DropReason::UnknownAddress);
    }
    find(hash, |place| suits(dataplane, place, address))
}

once! {
    /// Whether some session has this address now; never where ports alone move.
    pub(crate) fn is_live = lookup_is_live(dataplane: &Dataplane, address: &[u8; 16]) -> bool {
        find_address(dataplane, address).is_ok()
    }
}

once! {
    /// Whether some session has this address now, had it lately, or will have it soon; never where ports alone move.
    pub(crate) fn is_loaded = lookup_is_loaded(dataplane: &Dataplane, address: &[u8; 16]) -> bool {
        matches!(find_address(dataplane, address), Ok(()) | Err(DropReason::StaleSlot))
    }
}

/// Whether [`find`] returns this reason if no session has the address now.
#[inline(always)]
pub(crate) const fn is_dead(reason: DropReason) -> bool {
    matches!(reason, DropReason::UnknownAddress | DropReason::StaleSlot | DropReason::SessionEnded)
}

/// Whether a packet for which [`find`] returns this reason may belong to somebody else: an ordinary host in a shared prefix,
/// or a socket of this host where ports alone move.
#[inline(always)]
pub(crate) const fn may_be_anothers(dataplane: &Dataplane, reason: DropReason) -> bool {
    dataplane.is_shared() && (is_dead(reason) || dataplane.has_single_addresses())
}
