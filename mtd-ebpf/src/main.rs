//! The data plane of mtd: verdict tables only. What decides is in [`ingress`] and [`egress`].
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Atomic instructions of BPF are only to be had in assembly (see `atomic`).
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
// What aya's macros make of the entry points, and ask of them.
#![expect(missing_docs, unreachable_pub, clippy::needless_pass_by_value, reason = "aya's macros")]

mod ahead;
mod atomic;
mod control;
mod egress;
mod frame;
mod ingress;
mod leniency;
mod maps;
mod neighbour;
mod report;
mod steer;
mod too_big;

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// On the underlay: opens what is valid, drops everything else towards a protected prefix, passes the rest.
#[xdp]
pub fn mtd_receive(ctx: XdpContext) -> u32 {
    let mut frame = frame::XdpFrame::new(&ctx);
    match ingress::receive(&mut frame) {
        Ok(action) => action as u32,
        Err(reason) => leniency::refuse(&frame, reason),
    }
}

/// On a CPU that packets of a busy session were handed to: goes on where `mtd_receive` stopped.
#[xdp(map = "cpumap")]
pub fn mtd_take(ctx: XdpContext) -> u32 {
    let mut frame = frame::XdpFrame::new(&ctx);
    match ingress::take(&mut frame) {
        Ok(action) => action as u32,
        Err(reason) => leniency::refuse(&frame, reason),
    }
}

/// On the inside end of the tunnel device: seals each packet and sends it from this slot's address.
#[classifier]
pub fn mtd_send(ctx: TcContext) -> i32 {
    let mut frame = frame::SkbFrame::new(&ctx);
    match egress::send(&mut frame) {
        Ok(action) => action,
        Err(reason) => {
            report::dropped_on_sending(&frame, reason);
            TC_ACT_SHOT
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
    // No panic is reachable; the verifier would refuse a program in which one were.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
