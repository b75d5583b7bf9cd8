//! Receipt: from the underlay's frame to the inner packet, cheapest checks first. This file has the order of the stages; the
//! stages are elsewhere.

use mtd_common::abi::{Counter, Dataplane, MODE_ENCRYPT, MODE_INTRODUCTION};
use mtd_common::keystream::Direction;
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, UDP, outer};
use mtd_common::{DropReason, opaque};

use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{IP, PAYLOAD};
use crate::steer::{self, Stage, Turn};
use crate::tunnel::find::{self, Found, Header};
use crate::tunnel::{control, deliver, heard, inspect, open, replay};
use crate::verdict::{Action, pass};
use crate::{ahead, count, filter, introduction, lookup, neighbour, settings, stages, too_big, vlan};

/// Handles a frame from the underlay.
#[inline(always)]
pub(crate) fn receive(frame: &mut XdpFrame) -> Result<Action, DropReason> {
    let Some(ethernet) = frame.get::<[u8; ETHERNET]>(0) else { return Ok(pass()) };
    let ethertype = packet::ethertype(ethernet);
    let Some(dataplane) = settings::dataplane() else { return Ok(pass()) };
    if ethertype != ETHERTYPE_IPV6 {
        if packet::is_vlan(ethertype) && !dataplane.is_shared() {
            vlan::require_not_ours(frame, dataplane)?;
        }
        return Ok(pass());
    }
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    if !packet::is_protected(dataplane, outer::destination(ip)) {
        return neighbour::solicited(frame, dataplane).unwrap_or_else(|| Ok(pass()));
    }
    if let Err(reason) = outer::require_udp(ip) {
        // A router that checks whether its neighbour is still reachable asks the live address itself.
        return neighbour::solicited(frame, dataplane)
            .or_else(|| neighbour::replied(frame, dataplane))
            .or_else(|| too_big::received(frame, dataplane))
            .unwrap_or_else(|| refuse(frame, dataplane, reason));
    }
    find(frame, Stage::Arrived, dataplane)
}

/// Handles a frame that another CPU has handed over. All checks are made again: time has passed.
#[inline(always)]
pub(crate) fn take(frame: &mut XdpFrame) -> Result<Action, DropReason> {
    let Some(dataplane) = settings::dataplane() else { return Ok(pass()) };
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    if !packet::is_protected(dataplane, outer::destination(ip)) {
        return Ok(pass());
    }
    find(frame, Stage::Handed, dataplane)
}

/// Handles a packet towards a protected prefix that was refused for this reason: in a shared prefix it may belong to an
/// ordinary host, if its address is not live.
#[inline(always)]
fn refuse(frame: &XdpFrame, dataplane: &Dataplane, reason: DropReason) -> Result<Action, DropReason> {
    if !dataplane.is_shared() {
        return Err(reason);
    }
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(reason)?;
    if lookup::is_live(dataplane, outer::destination(ip)) { Err(reason) } else { Ok(pass()) }
}

/// Finds the session of a UDP packet towards a protected prefix, and handles the packet.
#[inline(always)]
fn find(frame: &mut XdpFrame, stage: Stage, dataplane: &Dataplane) -> Result<Action, DropReason> {
    if frame.get::<[u8; UDP]>(PAYLOAD).is_none() {
        return refuse(frame, dataplane, DropReason::Truncated);
    }
    let Some((found, job)) = find::find(frame, dataplane)? else { return Ok(pass()) };
    steer::arrived(stage, found.state);
    let header = find::header(frame, dataplane, found.session)?;
    if found.session.mode == MODE_INTRODUCTION {
        introduce(frame, &found, &header, job)
    } else {
        open(frame, stage, &found, &header, job)
    }
}

/// Opens the packet of an ordinary session, and hands it to the tunnel device or to the controller.
#[inline(always)]
fn open(
    frame: &mut XdpFrame,
    stage: Stage,
    found: &Found,
    header: &Header,
    job: &mut Job,
) -> Result<Action, DropReason> {
    let state = found.state;
    found.require_possible(header.sequence)?;
    let now = found.require_live()?;
    let mark = replay::require_new(state, header.sequence)?;
    match steer::turn(stage, state, found.index, header.length, now) {
        Turn::Here => {}
        Turn::Handed => return Ok(Action::Redirect),
        Turn::Full => return Err(DropReason::SteeringFull),
    }
    open::prepare(found, header, job);
    open::open(frame, found, header.tag, job)?;
    inspect::inspect(frame, found.session, job)?;
    mark.set(state)?;
    heard::note(frame, state, found.slot.slot, header.sequence);
    if job.control {
        state.count_received(header.length, now);
        control::divert(frame, state, job, now)?;
        return Ok(Action::Consume);
    }
    if filter::has_filter(found.session) {
        job.now = now;
        stages::filter_received(frame, stage);
        return Err(DropReason::FilterMissing);
    }
    deliver::deliver(frame)?;
    // Only for opened packets: a forged one must not say how far the session is. The mode is read again: otherwise the
    // verifier would walk the cipher once for each value that it remembers.
    if state.count_received(header.length, now) && opaque::reference(found.session).mode == MODE_ENCRYPT {
        ahead::want(job, Direction::Receive);
    }
    count::one(Counter::Accepted);
    Ok(Action::Redirect)
}

/// Opens an introduction, and hands it to the controller.
#[inline(always)]
fn introduce(
    frame: &mut XdpFrame,
    found: &Found,
    header: &Header,
    job: &mut Job,
) -> Result<Action, DropReason> {
    let now = found.require_live()?;
    introduction::require_new(frame)?;
    open::prepare(found, header, job);
    open::decrypt(frame, found.session, job)?;
    open::require_tag(job, header.tag)?;
    introduction::inspect(frame, found.session, job)?;
    introduction::remember(frame, job, now)?;
    found.state.count_received(header.length, now);
    introduction::hand_over(frame, job, now)?;
    Ok(Action::Consume)
}
