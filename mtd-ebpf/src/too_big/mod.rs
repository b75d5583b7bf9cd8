//! What routers on the outer path say of packets that were too long for them (ICMPv6 Packet Too Big). The controller makes
//! smaller packets of it; the kernel, which has sent none of ours, never sees it.

use mtd_common::DropReason;
use mtd_common::abi::{Counter, Dataplane};
use mtd_common::bytes::part_mut;
use mtd_common::checksum;
use mtd_common::control_record::{CONTROL_VERSION, KIND_TOO_BIG};
use mtd_common::keystream::Direction;
use mtd_common::packet::too_big::{self, HEADER, LONGEST, QUOTE};
use mtd_common::packet::{ETHERNET, IPV6, outer};
use mtd_common::slot;
use mtd_common::table::Hash;

use crate::frame::{Memory, XdpFrame};
use crate::job::{self, Job};
use crate::layout::{IP, PAYLOAD};
use crate::verdict::Action;
use crate::{clock, count, lookup, record};

mod maps;

/// Decides on a Packet Too Big for a live address; `None`: the frame is something else.
#[inline(always)]
pub(crate) fn received(frame: &XdpFrame<'_>, dataplane: &Dataplane) -> Option<Result<Action, DropReason>> {
    let ip = frame.get::<[u8; IPV6]>(IP)?;
    let icmp = frame.get::<[u8; HEADER]>(PAYLOAD)?;
    if !too_big::is_too_big(ip, icmp) {
        return None;
    }
    let hash = lookup::hash(dataplane, outer::destination(ip));
    if !lookup::may_be_ours(hash.mark()) {
        return None;
    }
    let job = job::job(Direction::Receive)?;
    match find(frame, dataplane, &hash, job) {
        Ok(()) => Some(hand_over(frame, job).map(|()| Action::Consume)),
        // As anything else for that address, which may be an ordinary host's.
        Err(reason) if lookup::is_dead(reason) => None,
        Err(reason) => Some(Err(reason)),
    }
}

/// Looks for the session that has sent what the message is about; it goes into the job. A function of its own in the program
/// too, as the ones below, for the sake of the stack.
#[inline(never)]
fn find(frame: &XdpFrame<'_>, dataplane: &Dataplane, hash: &Hash, job: &mut Job) -> Result<(), DropReason> {
    lookup::find(*hash, |place| suits(dataplane, place, frame, job))
}

#[inline(never)]
fn suits(dataplane: &Dataplane, place: u32, frame: &XdpFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::TooBigInvalid)?;
    let (session, slot) = lookup::at(dataplane, place, outer::destination(ip))?;
    let message = frame.get::<[u8; QUOTE]>(PAYLOAD).ok_or(DropReason::TooBigInvalid)?;
    too_big::require_sent(session, slot, ip, message)?;
    job.session = slot::session(place, dataplane.ring_bits);
    job.generation = session.generation;
    Ok(())
}

/// Tells the controller.
#[inline(never)]
fn hand_over(frame: &XdpFrame<'_>, job: &Job) -> Result<(), DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::TooBigInvalid)?;
    let length = too_big::length(ip, frame.len() - ETHERNET)?;
    if !checksum_valid(frame, length) {
        return Err(DropReason::TooBigInvalid);
    }
    let now = clock::boot_time();
    if !maps::may_report(now) {
        return Err(DropReason::TooBigLimited);
    }
    record::send(|record| {
        let message = frame.get::<[u8; QUOTE]>(PAYLOAD)?;
        record.time = now;
        record.session = job.session;
        record.generation = job.generation;
        record.version = CONTROL_VERSION;
        record.kind = KIND_TOO_BIG;
        record.length = 4;
        *part_mut::<0, 4, _>(&mut record.payload) = too_big::mtu(message).to_be_bytes();
        Some(())
    })
    .ok_or(DropReason::TooBigLimited)?;
    count::one(Counter::TooBig);
    Ok(())
}

/// Whether the checksum of a message of this length (bytes) is right.
#[inline(never)]
fn checksum_valid(frame: &XdpFrame<'_>, length: usize) -> bool {
    let Some(ip) = frame.get::<[u8; IPV6]>(IP) else { return false };
    let mut sum = checksum::icmpv6_header(outer::source(ip), outer::destination(ip), length as u16);
    let mut at = 0;
    while at < LONGEST {
        if at + 8 > length {
            break;
        }
        let Some(word) = frame.get::<[u8; 8]>(PAYLOAD + at) else { return false };
        sum = checksum::add64(sum, u64::from_ne_bytes(*word));
        at += 8;
    }
    let mut last = [0; 8];
    let mut index = 0;
    while index < 7 {
        if at + index >= length {
            break;
        }
        let Some([byte]) = frame.get::<[u8; 1]>(PAYLOAD + at + index) else { return false };
        last[index] = *byte;
        index += 1;
    }
    checksum::fold(checksum::add64(sum, u64::from_ne_bytes(last))) == 0xffff
}
