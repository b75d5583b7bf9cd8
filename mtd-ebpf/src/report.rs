//! Counting and reporting of drops.

use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use mtd_common::DropReason;
use mtd_common::abi::Counter;
use mtd_common::bytes::part;
use mtd_common::event::{DropEvent, EVENT_VERSION};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, NEXT_TCP, NEXT_UDP, outer};

use crate::clock::{self, boot_time};
use crate::frame::{Memory, SkbFrame, XdpFrame};
use crate::limit::Rate;
use crate::local::local;
use crate::{count, inner};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Events that are reported from each CPU.
const RATE: Rate = Rate::per_second(100, 200);

/// Counts a frame refused on receipt, and reports it with what its headers say. `passed`: it is not dropped, since
/// nothing is enforced.
#[inline(never)]
pub(crate) fn refused_on_receipt(frame: &XdpFrame<'_>, reason: DropReason, passed: bool) {
    count::drop(reason, passed);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(frame.ctx, "receive: drop reason {} length {}", reason as u8, frame.len());
    event(|event| {
        begin(event, reason, frame.ctx.ingress_ifindex() as u32, frame.len());
        event.passed = passed.into();
        let Some(ethernet) = frame.get::<[u8; ETHERNET]>(0) else { return };
        let Some(ip) = frame.get::<[u8; IPV6]>(ETHERNET) else { return };
        if packet::ethertype(ethernet) != ETHERTYPE_IPV6 {
            return;
        }
        event.source = *outer::source(ip);
        event.destination = *outer::destination(ip);
        event.next_header = outer::next_header(ip);
        let Some(ports) = frame.get::<[u8; 4]>(ETHERNET + IPV6) else { return };
        if matches!(event.next_header, NEXT_UDP | NEXT_TCP) {
            event.source_port = *part::<0, 2, 4>(ports);
            event.destination_port = *part::<2, 2, 4>(ports);
        }
    });
}

/// Counts a packet dropped on sending, and reports it with its inner addresses.
#[inline(never)]
pub(crate) fn dropped_on_sending(frame: &SkbFrame<'_>, reason: DropReason) {
    count::drop(reason, false);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(frame.ctx, "send: drop reason {} length {}", reason as u8, frame.len());
    event(|event| {
        // SAFETY: a field of the program's own context.
        let ifindex = unsafe { (*frame.ctx.skb.skb).ifindex };
        begin(event, reason, ifindex, frame.len());
        if let Ok(inner) = inner::read(frame, frame.len() - ETHERNET) {
            event.source = inner.source;
            event.destination = inner.destination;
        }
    });
}

#[inline(always)]
fn begin(event: &mut DropEvent, reason: DropReason, ifindex: u32, length: usize) {
    event.version = EVENT_VERSION;
    event.reason = reason as u8;
    event.ifindex = ifindex;
    event.time = boot_time();
    event.length = length as u32;
}

/// Lets `fill` write a drop event into the ring buffer, unless there were too many. The event is all zero before.
#[inline(always)]
fn event(fill: impl FnOnce(&mut DropEvent)) {
    let Some(local) = local() else { return };
    // Most drops get no further.
    let now = clock::tick_of(local);
    if !RATE.take(&mut local.events, now) {
        return count::one(Counter::EventsSuppressed);
    }
    match EVENTS.reserve::<DropEvent>(0) {
        Some(mut entry) => {
            fill(entry.write(DropEvent::default()));
            entry.submit(0);
        }
        None => count::one(Counter::EventsSuppressed),
    }
}
