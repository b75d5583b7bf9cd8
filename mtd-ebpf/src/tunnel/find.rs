//! Receiving: whose packet it is, by its outer addresses and ports, and what its headers say.

use mtd_common::DropReason;
use mtd_common::abi::{Dataplane, Session, Slot};
use mtd_common::packet::{ETHERNET, IPV6, MTD, UDP, outer};
use mtd_common::slot;
use mtd_common::table::Hash;

use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{IP, MTD_HEADER, PAYLOAD};
use crate::session::{self, State};
use crate::{clock, lookup};

/// The session and slot that a packet belongs to.
pub(crate) struct Found {
    /// Index of the session.
    pub(crate) index: u32,
    pub(crate) session: &'static Session,
    pub(crate) slot: &'static Slot,
    pub(crate) state: State,
}

/// What the headers of a packet say of what is sealed in it.
pub(crate) struct Header {
    /// Length of the inner packet in bytes.
    pub(crate) length: usize,
    pub(crate) sequence: u64,
    pub(crate) tag: [u64; 2],
}

/// Looks for the session and slot of a UDP packet towards a protected prefix. `None`: it is none of ours, since some ordinary
/// host may have the address.
#[inline(always)]
pub(crate) fn find(
    frame: &XdpFrame<'_>,
    dataplane: &Dataplane,
    job: &mut Job,
) -> Result<Option<Found>, DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let hash = lookup::hash(dataplane, outer::destination(ip));
    // For strangers somebody nearly never may have the address, and this is all that they cost.
    if !lookup::may_be_ours(hash.mark()) {
        return if dataplane.is_shared() { Ok(None) } else { Err(DropReason::UnknownAddress) };
    }
    match search(frame, dataplane, &hash, job) {
        Ok(()) => {}
        Err(reason) if lookup::is_dead(reason) && dataplane.is_shared() => return Ok(None),
        Err(reason) => return Err(reason),
    }
    let slot = lookup::slot(job.place).ok_or(DropReason::UnknownAddress)?;
    let index = slot::session(job.place, dataplane.ring_bits);
    let session = session::session(index, slot.generation).ok_or(DropReason::SessionEnded)?;
    let state = session::state(index).ok_or(DropReason::SessionEnded)?;
    Ok(Some(Found { index, session, slot, state }))
}

/// [`lookup::find`] for the packet in a frame; the place goes into the job. A function of its own in the program too, as the
/// one below: all variables together do not fit on one stack of 512 bytes, nor into what the compiler allots.
#[inline(never)]
fn search(frame: &XdpFrame<'_>, dataplane: &Dataplane, hash: &Hash, job: &mut Job) -> Result<(), DropReason> {
    lookup::find(*hash, |place| suits(dataplane, place, frame, job))
}

/// Whether a place has the destination of the packet in a frame, and the packet comes from the place's peer. Then it goes
/// into the job.
#[inline(never)]
fn suits(dataplane: &Dataplane, place: u32, frame: &XdpFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let (session, slot) = lookup::at(dataplane, place, outer::destination(ip))?;
    outer::require_peer(session, slot, ip, udp)?;
    job.place = place;
    Ok(())
}

/// Reads the headers of a packet that belongs to a session.
#[inline(always)]
pub(crate) fn header(
    frame: &XdpFrame<'_>,
    dataplane: &Dataplane,
    session: &Session,
) -> Result<Header, DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let length = outer::inner_length(ip, udp, frame.len() - ETHERNET, dataplane.inner_mtu)?;
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    let sequence = outer::sequence(header, &session.rx.mask);
    Ok(Header { length, sequence, tag: outer::tag(header) })
}

impl Found {
    /// Whether the sequence number is one that the peer can have reached; strangers' numbers hardly ever are.
    #[inline(always)]
    pub(crate) fn require_possible(&self, sequence: u64) -> Result<(), DropReason> {
        let time = clock::tick().wrapping_add(self.session.clock_offset);
        if slot::sequence_possible(sequence, time) { Ok(()) } else { Err(DropReason::InvalidSequence) }
    }

    /// The exact boot time in ns, if the slot is live at it: nothing is accepted after its time.
    #[inline(always)]
    pub(crate) fn require_live(&self) -> Result<u64, DropReason> {
        let now = clock::boot_time();
        if lookup::is_within(self.session, self.slot, now) { Ok(now) } else { Err(DropReason::StaleSlot) }
    }
}
