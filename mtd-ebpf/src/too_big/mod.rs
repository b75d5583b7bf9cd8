//! Packet Too Big (ICMPv6): reports of routers on the outer path that packets were too long. The controller then lowers the
//! MTU; the kernel, which has not sent our packets itself, never sees the message.

use mtd_common::DropReason;
use mtd_common::abi::{Counter, Dataplane};
use mtd_common::aead::BLOCK;
use mtd_common::bytes::{ne64, part_mut};
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
use crate::once::once;
use crate::verdict::Action;
use crate::{clock, count, lookup, record};

mod maps;

/// Handles a Packet Too Big for a live address; `None`: the frame is something else.
#[inline(always)]
pub(crate) fn received(frame: &XdpFrame, dataplane: &Dataplane) -> Option<Result<Action, DropReason>> {
    let ip = frame.get::<[u8; IPV6]>(IP)?;
    let icmp = frame.get::<[u8; HEADER]>(PAYLOAD)?;
    if !too_big::is_too_big(ip, icmp) {
        return None;
    }
    // The port that the packet was sent from, which is the session's own.
    let port = frame.get::<[u8; 2]>(PAYLOAD + HEADER + IPV6).copied().unwrap_or_default();
    let hash = lookup::hash(dataplane, outer::destination(ip), port);
    if !lookup::may_be_ours(hash.mark()) {
        return None;
    }
    let job = job::job(Direction::Receive)?;
    match find(frame, dataplane, &hash, job) {
        Ok(()) => Some(hand_over(frame, job).map(|()| Action::Consume)),
        // As any other frame for this address, which may belong to an ordinary host.
        Err(reason) if lookup::is_dead(reason) || lookup::may_be_anothers(dataplane, reason) => None,
        Err(reason) => Some(Err(reason)),
    }
}

once! {
    /// Finds the session whose packet the message is about, and notes it in the job.
    fn find = too_big_find(
        frame: &XdpFrame,
        dataplane: &Dataplane,
        hash: &Hash,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        lookup::find(*hash, |place| suits(frame, dataplane, place, job))
    }
}

once! {
    fn suits = too_big_suits(
        frame: &XdpFrame,
        dataplane: &Dataplane,
        place: u32,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::TooBigInvalid)?;
        let (session, slot) = lookup::at(dataplane, place, outer::destination(ip))?;
        let message = frame.get::<[u8; QUOTE]>(PAYLOAD).ok_or(DropReason::TooBigInvalid)?;
        too_big::require_sent(session, slot, ip, message)?;
        job.session = slot::session(place, dataplane.ring_bits);
        job.generation = session.generation;
        Ok(())
    }
}

once! {
    /// Reports the MTU to the controller.
    fn hand_over = too_big_hand_over(frame: &XdpFrame, job: &Job) -> Result<(), DropReason> {
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
}

once! {
    /// Whether the checksum of a message of this length (bytes) is right.
    fn checksum_valid = too_big_checksum(frame: &XdpFrame, length: usize) -> bool {
        let Some(ip) = frame.get::<[u8; IPV6]>(IP) else { return false };
        let mut sum = checksum::icmpv6_header(outer::source(ip), outer::destination(ip), length as u16);
        // The bytes behind the last whole word come first: otherwise the verifier would walk them once for each number of
        // words.
        let rest = length % 8;
        if rest > 0 {
            let mut last = [0; BLOCK];
            if frame.load(PAYLOAD + length - rest, rest, &mut last).is_none() {
                return false;
            }
            sum = checksum::add64(sum, ne64::<0, BLOCK>(&last));
        }
        let mut at = 0;
        while at < LONGEST {
            if at + 8 > length {
                break;
            }
            let Some(word) = frame.get::<[u8; 8]>(PAYLOAD + at) else { return false };
            sum = checksum::add64(sum, u64::from_ne_bytes(*word));
            at += 8;
        }
        checksum::fold(sum) == 0xffff
    }
}
