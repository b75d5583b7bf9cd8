//! The data plane of mtd. This file has only the entry points and their verdicts; the order of the stages is in [`receive`]
//! and [`send`], and each feature is a folder with its maps beside it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Atomic instructions of BPF need assembly (see `atomic`).
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
// Caused by the code that aya's macros generate, and by the signatures that they require.
#![expect(missing_docs, unreachable_pub, clippy::needless_pass_by_value, reason = "aya's macros")]

mod ahead;
mod atomic;
mod clock;
mod count;
mod filter;
mod frame;
mod guard;
mod inner;
mod introduction;
mod job;
mod layout;
mod limit;
mod local;
mod lookup;
mod neighbour;
mod once;
mod receive;
mod record;
mod report;
mod send;
mod session;
mod settings;
mod stages;
mod steer;
mod too_big;
mod tunnel;
mod verdict;
mod vlan;

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_STOLEN, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::frame::{SkbFrame, XdpFrame};

/// On the underlay: opens valid packets, drops all others towards a protected prefix, and passes the rest.
#[xdp]
pub fn mtd_receive(ctx: XdpContext) -> u32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { XdpFrame::of(ctx.ctx) };
    match receive::receive(frame) {
        Ok(action) => action as u32,
        Err(reason) => guard::refuse(frame, reason),
    }
}

/// On a CPU to which packets of a busy session were handed: goes on where `mtd_receive` stopped.
#[xdp(map = "cpumap")]
pub fn mtd_take(ctx: XdpContext) -> u32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { XdpFrame::of(ctx.ctx) };
    match receive::take(frame) {
        Ok(action) => action as u32,
        Err(reason) => guard::refuse(frame, reason),
    }
}

/// On the underlay, behind `mtd_receive` and in front of the kernel: answers the neighbour solicitations for live addresses, and
/// leaves the rest alone. Attached only where the link needs it.
#[classifier]
pub fn mtd_advertise(ctx: TcContext) -> i32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { SkbFrame::of(ctx.skb.skb) };
    if neighbour::advertised(frame) { TC_ACT_STOLEN } else { TC_ACT_UNSPEC }
}

/// On the inside end of the tunnel device: seals each packet and sends it from this slot's address.
#[classifier]
pub fn mtd_send(ctx: TcContext) -> i32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { SkbFrame::of(ctx.skb.skb) };
    match send::send(frame) {
        Ok(action) => action,
        Err(reason) => {
            report::dropped_on_sending(frame, reason as u32);
            TC_ACT_SHOT
        }
    }
}

/// Stage behind `mtd_receive`: the filter of a session.
#[xdp]
pub fn mtd_filter(ctx: XdpContext) -> u32 {
    filter_received(&ctx)
}

/// Stage behind `mtd_take`: the same.
#[xdp(map = "cpumap")]
pub fn mtd_filter_take(ctx: XdpContext) -> u32 {
    filter_received(&ctx)
}

#[inline(always)]
fn filter_received(ctx: &XdpContext) -> u32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { XdpFrame::of(ctx.ctx) };
    match filter::received(frame) {
        Ok(action) => action as u32,
        Err(reason) => {
            filter::report_received(frame, reason);
            XDP_DROP
        }
    }
}

/// Stage behind `mtd_send`, in front of sealing: the filter of a session.
#[classifier]
pub fn mtd_filter_send(ctx: TcContext) -> i32 {
    // SAFETY: the program's own context, used by nobody else.
    let frame = unsafe { SkbFrame::of(ctx.skb.skb) };
    match filter::sent(frame) {
        Ok(action) => action,
        Err(reason) => {
            report::dropped_on_sending(frame, reason as u32);
            filter::tell(frame, reason)
        }
    }
}

/// The helpers that the programs call are open to GPL-compatible programs only; "Dual MIT/GPL" is the kernel's
/// name for a licence like this project's.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No panic is reachable: the verifier would refuse a program with a reachable one.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
