//! Telling the sender of a packet that it may not leave: see [`mtd_common::packet::prohibited`]. Only senders on this side of
//! the tunnel are told: the answer goes to where the packet came from, into the tunnel device.

use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use mtd_common::abi::filter::FLAG_PROHIBITED;
use mtd_common::bytes::part_mut;
use mtd_common::packet::ETHERNET;
use mtd_common::packet::prohibited::{self, GROWTH_V4, GROWTH_V6};

use super::maps;
use crate::clock;
use crate::frame::SkbFrame;
use crate::job::Job;
use crate::once::once;
use crate::settings;
use crate::tunnel::deliver::INSIDE_MAC;

/// Bytes that are quoted: both headers of nearly every packet, or as many as any packet has that a host believes.
pub(crate) const LONG: usize = ETHERNET + 80;
const SHORT_V6: usize = ETHERNET + 48;
const SHORT_V4: usize = ETHERNET + 28;

/// Bytes of the longest answer.
pub(crate) const ANSWER: usize = LONG + GROWTH_V6;

/// Whether the sender of the packet in the job is to be told. To be asked before the packet that an ICMP error is about takes
/// the error's place there.
#[inline(always)]
pub(super) fn is_wanted(job: &Job) -> bool {
    prohibited::may_be_told(&job.filter.flow)
}

/// Makes the packet its own answer, and lets the kernel deliver it. Returns the TC action; `None`: nobody is told.
#[inline(always)]
pub(super) fn answer(frame: &mut SkbFrame, job: &mut Job) -> Option<i32> {
    if !job.filter.tell || job.filter.policy_flags & FLAG_PROHIBITED == 0 || !maps::may_tell(clock::tick()) {
        return None;
    }
    let long = frame.len() >= LONG;
    let written = match (job.version, long) {
        (6, true) => long_v6(frame, job),
        (6, false) => short_v6(frame, job),
        (_, true) => long_v4(frame, job),
        (_, false) => short_v4(frame, job),
    };
    if !written {
        return None;
    }
    let ifindex = settings::dataplane()?.tunnel_ifindex;
    // SAFETY: takes two numbers. A packet sent into one end of the pair comes out of the other.
    let action = unsafe { bpf_redirect(ifindex, 0) };
    (action == i64::from(TC_ACT_REDIRECT)).then_some(TC_ACT_REDIRECT)
}

/// A function that writes one kind of answer, of `$from` bytes of the frame.
macro_rules! answer {
    ($name:ident = $symbol:ident, $write:ident, $from:ident + $growth:ident) => {
        once! {
            fn $name = $symbol(frame: &mut SkbFrame, job: &mut Job) -> bool {
                let before = part_mut::<0, { $from }, LONG>(&mut job.filter.before);
                let answer = part_mut::<0, { $from + $growth }, ANSWER>(&mut job.filter.answer);
                let Some(dataplane) = settings::dataplane() else { return false };
                if frame.load_start(before).is_none() {
                    return false;
                }
                prohibited::$write(before, [dataplane.tunnel_mac, INSIDE_MAC], answer);
                // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
                let sized = unsafe { bpf_skb_change_tail(frame.context(), ($from + $growth) as u32, 0) };
                sized == 0 && frame.store_start(answer).is_some()
            }
        }
    };
}

answer!(long_v6 = prohibited_long_v6, ipv6, LONG + GROWTH_V6);
answer!(short_v6 = prohibited_short_v6, ipv6, SHORT_V6 + GROWTH_V6);
answer!(long_v4 = prohibited_long_v4, ipv4, LONG + GROWTH_V4);
answer!(short_v4 = prohibited_short_v4, ipv4, SHORT_V4 + GROWTH_V4);
