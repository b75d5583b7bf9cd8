//! Sending: from the inner packet to the frame on the underlay.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_REDIRECT};
use aya_ebpf::helpers::generated::{
    bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_pull_data,
};
use mtd_common::abi::{Counter, MODE_AUTHENTICATE, MODE_ENCRYPT, Session};
use mtd_common::aead::{self, Operation};
use mtd_common::keystream::Direction;
use mtd_common::packet::inner::{self, CONTROL_MARK, Inner};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6, OVERHEAD, outer};
use mtd_common::{DropReason, opaque, slot};

use crate::ahead::{self, Failure};
use crate::frame::{Memory, SkbFrame, Unsealed};
use crate::ingress;
use crate::maps::{self, Job};

/// `BPF_ADJ_ROOM_MAC`: make room between the link-layer and the network header.
const ADJUST_AT_MAC: u32 = 1;

/// Seals a packet from the tunnel device and sends it; returns the TC action.
#[inline(always)]
pub(crate) fn send(frame: &mut SkbFrame<'_>) -> Result<i32, DropReason> {
    let job = maps::job(Direction::Send).ok_or(DropReason::SendFailed)?;
    choose(frame, job)?;
    make_room(frame, job.version)?;
    let session = maps::session(job.session, job.generation).ok_or(DropReason::SendNoPeer)?;
    let state = maps::session_state(job.session).ok_or(DropReason::SendNoPeer)?;
    let sequence = state.next_sequence();
    job.nonce = aead::nonce(job.nonce[0], sequence);
    match session.mode {
        MODE_ENCRYPT if ahead::find(state.lane(Direction::Send), Direction::Send, job) => {
            encrypt_ahead(frame, job)?;
        }
        MODE_ENCRYPT => encrypt(frame, &session.tx.seal, job)?,
        MODE_AUTHENTICATE => authenticate(frame, &session.tx.seal, job)?,
        _ => return Err(DropReason::SendNoPeer),
    }
    write_headers(frame, session, job, sequence)?;
    if state.count_sent(job.length, job.now) && opaque::reference(session).mode == MODE_ENCRYPT {
        ahead::want(job, Direction::Send);
    }
    maps::count(Counter::Sent);
    transmit()
}

/// Finds out where the packet goes: session, slot, length go into the job. A function of its own in the program
/// too, as the ones below: all variables together do not fit on one stack.
#[inline(never)]
fn choose(frame: &SkbFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    let dataplane = maps::dataplane().ok_or(DropReason::SendFailed)?;
    if gso_size(frame) != 0 {
        return Err(DropReason::SendOffload);
    }
    let length = frame.len() - ETHERNET;
    if length > dataplane.inner_mtu as usize || length > aead::MAX_TEXT {
        return Err(DropReason::SendTooBig);
    }
    let facts = inner_packet(frame, length)?;
    if facts.is_control() && mark(frame) != CONTROL_MARK {
        return Err(DropReason::SendControl);
    }
    let route = maps::route(facts.version, &facts.destination).ok_or(DropReason::SendNoPeer)?;
    let session = maps::session(route.session, route.generation).ok_or(DropReason::SendNoPeer)?;
    if session.period == 0 {
        return Err(DropReason::SendNoPeer);
    }
    job.now = ingress::boot_time();
    let time = job.now.wrapping_add(session.clock_offset);
    let number = slot::number(time, session.phase, session.period);
    let place = slot::place(route.session, number, dataplane.ring_bits);
    let found = maps::slot(place).ok_or(DropReason::SendNoSlot)?;
    if found.slot != number || found.generation != route.generation {
        return Err(DropReason::SendNoSlot);
    }
    job.session = route.session;
    job.generation = route.generation;
    job.place = place;
    job.nonce[0] = number as u32;
    job.length = length;
    job.ecn = facts.ecn;
    job.version = facts.version;
    Ok(())
}

#[inline(never)]
fn write_headers(
    frame: &mut SkbFrame<'_>,
    session: &Session,
    job: &Job,
    sequence: u64,
) -> Result<(), DropReason> {
    let slot = maps::slot(job.place).ok_or(DropReason::SendNoSlot)?;
    let headers = frame.get_mut::<[u8; OVERHEAD]>(ETHERNET).ok_or(DropReason::SendFailed)?;
    outer::Send {
        local: [&session.local_high, &slot.local_low],
        peer: [&session.peer_high, &slot.peer_low],
        local_port: slot.local_port,
        peer_port: slot.peer_port,
        mask: &session.tx.mask,
        sequence,
        tag: job.sums.tag,
        checksum: job.sums.checksum,
        inner: job.length as u16,
        ecn: job.ecn,
    }
    .write(headers);
    Ok(())
}

#[inline(always)]
fn mark(frame: &SkbFrame<'_>) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { (*frame.ctx.skb.skb).mark }
}

#[inline(always)]
fn gso_size(frame: &SkbFrame<'_>) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { (*frame.ctx.skb.skb).gso_size }
}

/// Reads the inner header; makes it readable first.
#[inline(always)]
pub(crate) fn inner_packet(frame: &SkbFrame<'_>, length: usize) -> Result<Inner, DropReason> {
    let ethernet = frame.get::<[u8; ETHERNET]>(0).ok_or(DropReason::SendMalformed)?;
    let facts = match packet::ethertype(ethernet) {
        ETHERTYPE_IPV4 => inner::ipv4(frame.get(ETHERNET).ok_or(DropReason::SendMalformed)?, length),
        ETHERTYPE_IPV6 => {
            inner::ipv6(frame.get::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::SendMalformed)?, length)
        }
        _ => Err(DropReason::SendMalformed),
    };
    facts.map_err(|_| DropReason::SendMalformed)
}

/// Makes room for the outer headers, and the whole packet writable in one piece.
#[inline(always)]
fn make_room(frame: &mut SkbFrame<'_>, version: u8) -> Result<(), DropReason> {
    let skb = frame.ctx.as_ptr().cast();
    // The helper's own flags for tunnels would do this too, but refuse packets that another tunnel has wrapped before.
    let room = if version == 4 {
        // SAFETY: as below. Turns the packet into an IPv6 one for the kernel, and adds the 20 bytes between the
        // lengths of the two headers.
        if unsafe { bpf_skb_change_proto(skb, ETHERTYPE_IPV6.to_be(), 0) } != 0 {
            return Err(DropReason::SendFailed);
        }
        OVERHEAD - (IPV6 - inner::IPV4)
    } else {
        OVERHEAD
    };
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
    let made = unsafe { bpf_skb_adjust_room(skb, (room as u16).into(), ADJUST_AT_MAC, flags) };
    // SAFETY: as above. A length of 0 means the whole packet.
    if made != 0 || unsafe { bpf_skb_pull_data(skb, frame.ctx.len()) } != 0 {
        return Err(DropReason::SendFailed);
    }
    Ok(())
}

/// Encrypts and authenticates the inner packet in place.
#[inline(never)]
fn encrypt(frame: &mut SkbFrame<'_>, key: &[u8; 32], job: &mut Job) -> Result<(), DropReason> {
    let (nonce, length) = (job.nonce, job.length);
    let sums = aead::pass(Operation::Seal, key, nonce, &mut Unsealed(frame), length, &mut job.pass);
    job.sums = sums.ok_or(DropReason::SendFailed)?;
    Ok(())
}

/// The same with key stream that was made ahead.
#[inline(never)]
fn encrypt_ahead(frame: &mut SkbFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    ahead::pass(Operation::Seal, &mut Unsealed(frame), job).map_err(|failure| match failure {
        Failure::Text => DropReason::SendFailed,
        Failure::Changed => DropReason::SendStreamChanged,
    })
}

/// Authenticates the inner packet.
#[inline(never)]
fn authenticate(frame: &mut SkbFrame<'_>, key: &[u8; 32], job: &mut Job) -> Result<(), DropReason> {
    let (nonce, length) = (job.nonce, job.length);
    let sums = aead::pass(Operation::Authenticate, key, nonce, &mut Unsealed(frame), length, &mut job.pass);
    job.sums = sums.ok_or(DropReason::SendFailed)?;
    Ok(())
}

/// Lets the kernel find next hop and link-layer address for the outer destination.
#[inline(always)]
fn transmit() -> Result<i32, DropReason> {
    let dataplane = maps::dataplane().ok_or(DropReason::SendFailed)?;
    // SAFETY: no parameters are handed over: the kernel looks the next hop up by the packet's own destination.
    let action = unsafe { bpf_redirect_neigh(dataplane.underlay_ifindex, core::ptr::null_mut(), 0, 0) };
    if action == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::SendFailed) }
}
