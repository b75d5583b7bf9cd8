//! Sending: inner IPv6 packets that are too long for the path to the peer, cut in two.
//!
//! IPv6 does not let the kernel use an MTU below 1,280 bytes, so a path of less than 1,352 bytes is made good for here, as RFC
//! 2473, section 7.1 asks of tunnels. The whole packet goes round once more, with a mark that says where the second part
//! begins; this run goes on with the first part, and the run that finds the mark with the second. So each run seals one packet.

use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data,
};
use mtd_common::DropReason;
use mtd_common::abi::{Counter, LEAST_PATH};
use mtd_common::bytes::{be16, part_mut};
use mtd_common::packet::fragment::{self, HEADER, NEXT_FRAGMENT};
use mtd_common::packet::{ETHERNET, IPV6, inner};
use mtd_common::window::Word as _;

use crate::atomic::Shared;
use crate::count;
use crate::frame::{Memory, SkbFrame};
use crate::job::Job;
use crate::session::State;
use crate::settings;

/// `BPF_ADJ_ROOM_NET`: make or take room behind the network header.
const ADJUST_AT_NET: u32 = 0;

/// Mark of a packet of which only the second part is to be sent; the lower 16 bits are the bytes before it.
const SECOND_PART: u32 = 0x6d75_0000;

/// Where the fragment header is.
const AT: usize = ETHERNET + IPV6;

impl State {
    /// Bytes of the longest inner packet that the path carries; 0: any.
    #[inline(always)]
    fn longest(self) -> usize {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).tx_longest) }.load() as usize
    }

    /// Counts a packet that not every path carries.
    #[inline(always)]
    fn count_long(self) {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).tx_long) }.fetch_add(1);
    }
}

/// If an inner packet is too long for the path and can be cut, shortens it to its first part, after the whole packet was sent
/// round for the second.
#[inline(always)]
pub(crate) fn cut(frame: &mut SkbFrame, state: State, job: &mut Job) -> Result<(), DropReason> {
    if job.length > LEAST_PATH && !job.control {
        state.count_long();
    }
    let longest = state.longest();
    // A probe has to be as long as it is, and the kernel itself divides IPv4 packets.
    if longest == 0 || job.length <= longest || job.version != 6 || job.control {
        return Ok(());
    }
    in_two(frame, longest, state, job)
}

/// A function of its own in the program, too, as [`second_part`]: all variables together do not fit on one stack.
#[inline(never)]
fn in_two(frame: &mut SkbFrame, longest: usize, state: State, job: &mut Job) -> Result<(), DropReason> {
    let kept = fragment::kept(longest);
    let next = frame.get::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::SendFailed)?[6];
    if !fragment::may_be_cut(next) || kept == 0 {
        return Err(DropReason::SendTooBig);
    }
    if next != NEXT_FRAGMENT {
        adjust(frame, i32::from(HEADER as u16))?;
        let id = state.next_sequence() as u32;
        *frame.get_mut(AT).ok_or(DropReason::SendFailed)? = fragment::whole(next, id);
    }
    let whole = *frame.get::<[u8; HEADER]>(AT).ok_or(DropReason::SendFailed)?;
    let length = frame.len() - ETHERNET;
    // What is cut once more would need three parts.
    if length <= IPV6 + HEADER + kept || length - kept > longest {
        return Err(DropReason::SendTooBig);
    }
    describe(frame, &whole, length - IPV6)?;
    send_round(frame, SECOND_PART | kept as u32)?;
    let first = IPV6 + HEADER + kept;
    // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
    if unsafe { bpf_skb_change_tail(frame.context(), (ETHERNET + first) as u32, 0) } != 0 {
        return Err(DropReason::SendFailed);
    }
    describe(frame, &fragment::first(&whole), first - IPV6)?;
    job.length = first;
    count::one(Counter::Cut);
    Ok(())
}

/// Shortens a packet that was sent round to its second part. Others are left as they are.
#[inline(always)]
pub(crate) fn second_part(frame: &mut SkbFrame) -> Result<(), DropReason> {
    if frame.mark() & 0xffff_0000 == SECOND_PART { shorten(frame) } else { Ok(()) }
}

#[inline(never)]
fn shorten(frame: &mut SkbFrame) -> Result<(), DropReason> {
    let kept = frame.mark() as u16;
    let ip = frame.get::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::SendMalformed)?;
    let (version, next) = (inner::version(ip[0]), ip[6]);
    let length = be16::<4, IPV6>(ip).saturating_sub(kept) as usize;
    // Hosts can set marks too.
    if version != 6 || next != NEXT_FRAGMENT || length <= HEADER || kept == 0 || kept & 7 != 0 {
        return Err(DropReason::SendMalformed);
    }
    let whole = frame.get::<[u8; HEADER]>(AT).ok_or(DropReason::SendMalformed)?;
    let second = fragment::second(whole, kept).ok_or(DropReason::SendMalformed)?;
    adjust(frame, -i32::from(kept))?;
    frame.set_mark(0);
    describe(frame, &second, length)
}

/// Sends a copy of the packet with this mark into the inside end of the tunnel device, where this program gets it again.
#[inline(always)]
fn send_round(frame: &mut SkbFrame, mark: u32) -> Result<(), DropReason> {
    let dataplane = settings::dataplane().ok_or(DropReason::SendFailed)?;
    let before = frame.mark();
    frame.set_mark(mark);
    let flags = u64::from(BPF_F_INGRESS);
    // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
    let sent = unsafe { bpf_clone_redirect(frame.context(), dataplane.tunnel_ifindex, flags) };
    frame.set_mark(before);
    if sent == 0 { Ok(()) } else { Err(DropReason::SendFailed) }
}

/// Inserts bytes behind the IPv6 header, or takes them away.
#[inline(always)]
fn adjust(frame: &mut SkbFrame, bytes: i32) -> Result<(), DropReason> {
    let (skb, flags) = (frame.context(), u64::from(BPF_F_ADJ_ROOM_FIXED_GSO));
    // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
    let done = unsafe { bpf_skb_adjust_room(skb, bytes, ADJUST_AT_NET, flags) };
    // SAFETY: as above.
    if done != 0 || unsafe { bpf_skb_pull_data(skb, (AT + HEADER) as u32) } != 0 {
        return Err(DropReason::SendFailed);
    }
    Ok(())
}

/// Writes the fragment header, and into the IPv6 header what goes with it: `payload` bytes behind it.
#[inline(always)]
fn describe(frame: &mut SkbFrame, header: &[u8; HEADER], payload: usize) -> Result<(), DropReason> {
    *frame.get_mut(AT).ok_or(DropReason::SendFailed)? = *header;
    let ip = frame.get_mut::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::SendFailed)?;
    *part_mut::<4, 2, IPV6>(ip) = (payload as u16).to_be_bytes();
    ip[6] = NEXT_FRAGMENT;
    Ok(())
}
