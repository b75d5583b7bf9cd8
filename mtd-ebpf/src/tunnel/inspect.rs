//! Receiving: the checks that come after authentication.

use mtd_common::DropReason;
use mtd_common::abi::Session;
use mtd_common::packet::inner::{self, Inner};
use mtd_common::packet::{IPV6, MTD, UDP, outer};

use super::{control, maps};
use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{INNER, IP, MTD_HEADER, PAYLOAD};
use crate::once::once;

once! {
    /// Checks an opened packet of a session, and notes in the job whether it is a control message.
    pub(crate) fn inspect = tunnel_inspect(
        frame: &mut XdpFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let facts = require_well_formed(frame, job)?;
        if job.control {
            control::require_fitting_or_probe(frame)?;
        }
        if is_allowed(&facts, session) { Ok(()) } else { Err(DropReason::InnerSource) }
    }
}

/// Checks the UDP checksum and the header of an opened packet, and carries a congestion mark over to it. Notes in the job
/// whether it is a control message.
#[inline(always)]
pub(crate) fn require_well_formed(frame: &mut XdpFrame, job: &mut Job) -> Result<Inner, DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    if !outer::checksum_valid(ip, udp, header, job.sums.checksum) {
        return Err(DropReason::BadChecksum);
    }
    let facts = read(frame, outer::ecn(ip))?;
    job.control = facts.is_control();
    Ok(facts)
}

/// Reads the header of the inner packet, and marks congestion in it if the outer one was marked.
#[inline(always)]
fn read(frame: &mut XdpFrame, outer_ecn: u8) -> Result<Inner, DropReason> {
    let length = frame.len() - INNER;
    let first = frame.get::<[u8; 1]>(INNER).ok_or(DropReason::MalformedInner)?[0];
    if inner::version(first) == 4 {
        let header = frame.get_mut::<[u8; inner::IPV4]>(INNER).ok_or(DropReason::MalformedInner)?;
        let facts = inner::ipv4(header, length)?;
        let ecn = inner::decapsulated_ecn(facts.ecn, outer_ecn)?;
        if ecn != facts.ecn {
            inner::set_ipv4_ecn(header, ecn);
        }
        Ok(facts)
    } else {
        let header = frame.get_mut::<[u8; IPV6]>(INNER).ok_or(DropReason::MalformedInner)?;
        let facts = inner::ipv6(header, length)?;
        let ecn = inner::decapsulated_ecn(facts.ecn, outer_ecn)?;
        if ecn != facts.ecn {
            inner::set_ipv6_ecn(header, ecn);
        }
        Ok(facts)
    }
}

/// Whether an inner source address belongs to the session's peer.
#[inline(always)]
fn is_allowed(facts: &Inner, session: &Session) -> bool {
    let source = facts.source;
    if source == [0; 16] {
        return false;
    }
    if source == session.peer_tunnel[0] || source == session.peer_tunnel[1] {
        return true;
    }
    session.peer != 0 && maps::route(facts.version, &source).is_some_and(|route| route.peer == session.peer)
}
