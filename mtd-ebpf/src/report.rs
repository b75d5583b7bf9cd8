//! Counting and reporting of drops.

use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
#[cfg(feature = "log")]
use aya_ebpf::programs::{TcContext, XdpContext};
use mtd_common::abi::Counter;
use mtd_common::bytes::part;
use mtd_common::event::{DropEvent, EVENT_VERSION};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, NEXT_TCP, NEXT_UDP, outer};

use crate::clock::{self, boot_time};
use crate::frame::{Memory, SkbFrame, XdpFrame};
use crate::job::Job;
use crate::limit::Rate;
use crate::local::local;
use crate::once::once;
use crate::{count, inner};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Rate of reported events from each CPU.
const RATE: Rate = Rate::per_second(100, 200);

once! {
    /// Counts a frame refused on receipt for the reason of this number, and reports it with the data of its headers.
    /// `passed`: it is not dropped, because nothing is enforced.
    pub(crate) fn refused_on_receipt = report_receipt(
        frame: &XdpFrame,
        reason: u32,
        passed: bool,
    ) -> () {
        count::drop(reason, passed);
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(
            &XdpContext::new(frame.context()),
            "receive: drop reason {} length {}",
            reason,
            frame.len()
        );
        event(|event| {
            begin(event, reason, frame.ifindex(), frame.len());
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
}

once! {
    /// Counts an opened packet that a filter has refused for the reason of this number, and reports it with the data of its
    /// inner headers.
    pub(crate) fn filtered_on_receipt = report_filtered(frame: &XdpFrame, job: &mut Job, reason: u32) -> () {
        count::drop(reason, false);
        event(|event| {
            begin(event, reason, frame.ifindex(), frame.len());
            event.source = job.filter.flow.source;
            event.destination = job.filter.flow.destination;
            event.next_header = job.filter.flow.protocol;
            if job.filter.flow.has_ports {
                event.source_port = job.filter.flow.source_port;
                event.destination_port = job.filter.flow.destination_port;
            }
        });
    }
}

once! {
    /// Counts a packet dropped on sending for the reason of this number, and reports it with its inner addresses.
    pub(crate) fn dropped_on_sending = report_sending(frame: &SkbFrame, reason: u32) -> () {
        count::drop(reason, false);
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(
            &TcContext::new(frame.context()),
            "send: drop reason {} length {}",
            reason,
            frame.len()
        );
        event(|event| {
            begin(event, reason, frame.ifindex(), frame.len());
            if let Ok(inner) = inner::read(frame, frame.len() - ETHERNET) {
                event.source = inner.source;
                event.destination = inner.destination;
            }
        });
    }
}

#[inline(always)]
fn begin(event: &mut DropEvent, reason: u32, ifindex: u32, length: usize) {
    event.version = EVENT_VERSION;
    event.reason = reason as u8;
    event.ifindex = ifindex;
    event.time = boot_time();
    event.length = length as u32;
}

/// Lets `fill` write a drop event, all zero before, into the ring buffer, within the rate limit.
#[inline(always)]
fn event(fill: impl FnOnce(&mut DropEvent)) {
    let Some(local) = local() else { return };
    // Most drops end here.
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
