//! Receiving: finding the session of a packet by its outer addresses and ports, and reading its headers.

use mtd_common::DropReason;
use mtd_common::abi::{Dataplane, Session, Slot};
use mtd_common::bytes::part;
use mtd_common::keystream::Direction;
use mtd_common::packet::{ETHERNET, IPV6, MTD, UDP, outer};
use mtd_common::slot;
use mtd_common::table::Hash;

use crate::frame::{Memory, XdpFrame};
use crate::job::{self, Job};
use crate::layout::{IP, MTD_HEADER, PAYLOAD};
use crate::once::once;
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

/// The data in the headers of a sealed packet.
pub(crate) struct Header {
    /// Length of the inner packet in bytes.
    pub(crate) length: usize,
    pub(crate) sequence: u64,
    pub(crate) tag: [u64; 2],
}

/// Looks for the session and slot of a UDP packet towards a protected prefix. `None`: the packet does not belong to mtd,
/// since an ordinary host may have the address.
#[inline(always)]
pub(crate) fn find(
    frame: &XdpFrame,
    dataplane: &Dataplane,
) -> Result<Option<(Found, &'static mut Job)>, DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let hash = lookup::hash(dataplane, outer::destination(ip), *part::<2, 2, UDP>(udp));
    // Packets of strangers nearly always end here, so that this check is all that they cost.
    if !lookup::may_be_ours(hash.mark()) {
        return if dataplane.is_shared() { Ok(None) } else { Err(DropReason::UnknownAddress) };
    }
    let job = job::job(Direction::Receive).ok_or(DropReason::ReceiveFailed)?;
    match search(frame, dataplane, &hash, job) {
        Ok(()) => {}
        Err(reason) if lookup::may_be_anothers(dataplane, reason) => return Ok(None),
        Err(reason) => return Err(reason),
    }
    let slot = lookup::slot(job.place).ok_or(DropReason::UnknownAddress)?;
    let index = slot::session(job.place, dataplane.ring_bits);
    let session = session::session(index, slot.generation).ok_or(DropReason::SessionEnded)?;
    let state = session::state(index).ok_or(DropReason::SessionEnded)?;
    Ok(Some((Found { index, session, slot, state }, job)))
}

once! {
    /// [`lookup::find`] for the packet in a frame; notes the place in the job.
    fn search = tunnel_search(
        frame: &XdpFrame,
        dataplane: &Dataplane,
        hash: &Hash,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        lookup::find(*hash, |place| suits(frame, dataplane, place, job))
    }
}

once! {
    /// Checks that a place has the packet's destination, and that the packet comes from the place's peer. Then notes the
    /// place in the job.
    fn suits = tunnel_suits(
        frame: &XdpFrame,
        dataplane: &Dataplane,
        place: u32,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
        let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
        let (session, slot) = lookup::at(dataplane, place, outer::destination(ip))?;
        outer::require_peer(session, slot, ip, udp)?;
        job.place = place;
        Ok(())
    }
}

/// Reads the headers of a packet that belongs to a session.
#[inline(always)]
pub(crate) fn header(
    frame: &XdpFrame,
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
    /// Checks that the peer can have reached the sequence number; numbers of strangers hardly ever pass.
    #[inline(always)]
    pub(crate) fn require_possible(&self, sequence: u64) -> Result<(), DropReason> {
        let time = clock::tick().wrapping_add(self.session.clock_offset);
        if slot::sequence_possible(sequence, time) { Ok(()) } else { Err(DropReason::InvalidSequence) }
    }

    /// The exact boot time in ns, if the slot is live then: nothing is accepted after its time.
    #[inline(always)]
    pub(crate) fn require_live(&self) -> Result<u64, DropReason> {
        let now = clock::boot_time();
        if lookup::is_within(self.session, self.slot, now) { Ok(now) } else { Err(DropReason::StaleSlot) }
    }
}
