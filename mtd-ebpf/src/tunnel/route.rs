//! Sending: where a packet from the tunnel device goes, and from which slot.

use mtd_common::abi::FLAG_ANYBODY;
use mtd_common::packet::ETHERNET;
use mtd_common::packet::inner::is_controllers;
use mtd_common::{DropReason, aead, slot};

use super::{heard, maps};
use crate::frame::SkbFrame;
use crate::job::Job;
use crate::{clock, inner, lookup, session, settings};

/// Finds the packet's destination: notes session, slot and length in the job. A function of its own in the program, too: all
/// variables together do not fit on one stack.
#[inline(never)]
pub(crate) fn choose(frame: &SkbFrame, job: &mut Job) -> Result<(), DropReason> {
    let dataplane = settings::dataplane().ok_or(DropReason::SendFailed)?;
    if frame.gso_size() != 0 {
        return Err(DropReason::SendOffload);
    }
    let length = frame.len() - ETHERNET;
    if length > dataplane.inner_mtu as usize || length > aead::MAX_TEXT {
        return Err(DropReason::SendTooBig);
    }
    let facts = inner::read(frame, length)?;
    // Nobody else has this mark: it was sealed already, and the routes lead it back.
    if dataplane.fwmark != 0 && frame.mark() == dataplane.fwmark && facts.is_udp6() {
        return Err(DropReason::SendLoop);
    }
    let mark = if facts.is_control() { Some(frame.mark()) } else { None };
    if mark.is_some_and(|mark| !is_controllers(mark)) {
        return Err(DropReason::SendControl);
    }
    let route = maps::route(facts.version, &facts.destination).ok_or(DropReason::SendNoPeer)?;
    let session = session::session(route.session, route.generation).ok_or(DropReason::SendNoPeer)?;
    if session.period == 0 {
        return Err(DropReason::SendNoPeer);
    }
    job.now = clock::boot_time();
    let time = job.now.wrapping_add(session.clock_offset);
    let state = session::state(route.session).ok_or(DropReason::SendNoPeer)?;
    let present = slot::number(time, session.phase, session.period);
    let (number, is_heard) = heard::choose(session, state, present, mark, job);
    // Its own addresses are not those that packets reach it by.
    if !is_heard && session.flags & FLAG_ANYBODY != 0 {
        return Err(DropReason::SendUnheard);
    }
    let place = slot::place(route.session, number, dataplane.ring_bits);
    let found = lookup::slot(place).ok_or(DropReason::SendNoSlot)?;
    if found.slot != number || found.generation != route.generation {
        return Err(DropReason::SendNoSlot);
    }
    if !is_heard {
        job.remote = [session.peer_high, found.peer_low];
        job.remote_port = found.peer_port;
    }
    job.session = route.session;
    job.generation = route.generation;
    job.place = place;
    job.nonce[0] = number as u32;
    job.length = length;
    job.ecn = facts.ecn;
    job.control = facts.is_control();
    job.version = facts.version;
    Ok(())
}
