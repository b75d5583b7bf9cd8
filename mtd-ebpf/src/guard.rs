//! The gate for every frame that is refused on receipt. Some of them pass nevertheless: all while nothing is enforced, and
//! always the flows that the list of allow rules names.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mtd_common::DropReason;
use mtd_common::abi::{Counter, GuardSettings};
use mtd_common::allow::{self, ERROR, Flow};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6};

use crate::clock::boot_time;
use crate::frame::{Memory, XdpFrame};
use crate::layout::{IP, PAYLOAD};
use crate::once::once;
use crate::{count, report};

#[map]
static GUARD: Array<GuardSettings> = Array::with_max_entries(1, 0);

/// The settings; `None` never happens, an array's elements always exist.
#[inline(always)]
fn settings() -> Option<&'static GuardSettings> {
    GUARD.get(0)
}

/// What happens to a refused frame.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    /// Passed, because nothing is enforced.
    Passed,
    /// Passed, because an allow rule names it.
    Allowed,
}

/// Decides on a frame that is refused for `reason`, counts and reports it. Returns the verdict.
#[inline(always)]
pub(crate) fn refuse(frame: &XdpFrame, reason: DropReason) -> u32 {
    // Where everything is enforced, this costs only one test.
    match settings() {
        Some(settings) if settings.is_lenient() => refuse_leniently(frame, settings, reason),
        _ => {
            report::refused_on_receipt(frame, reason as u32, false);
            XDP_DROP
        }
    }
}

once! {
    /// [`refuse`] if not everything is enforced, or if there are allow rules.
    fn refuse_leniently = guard_refuse(frame: &XdpFrame, settings: &GuardSettings, reason: DropReason) -> u32 {
        let fate = if reason.may_pass() { fate(frame, settings) } else { Fate::Dropped };
        if fate == Fate::Allowed {
            count::one(Counter::Allowed);
            return XDP_PASS;
        }
        let passed = fate == Fate::Passed;
        report::refused_on_receipt(frame, reason as u32, passed);
        if passed { XDP_PASS } else { XDP_DROP }
    }
}

/// A function of its own in the program, too: the variables of all together do not fit on a stack of 512 bytes.
#[inline(never)]
fn fate(frame: &XdpFrame, settings: &GuardSettings) -> Fate {
    if settings.allow_count > 0 && is_allowed(frame, settings) {
        Fate::Allowed
    } else if settings.enforces(boot_time()) {
        Fate::Dropped
    } else {
        Fate::Passed
    }
}

#[inline(always)]
fn is_allowed(frame: &XdpFrame, settings: &GuardSettings) -> bool {
    let Some(ethernet) = frame.get::<[u8; ETHERNET]>(0) else { return false };
    let Some(ip) = frame.get::<[u8; IPV6]>(IP) else { return false };
    // Behind a VLAN tag, the addresses are elsewhere.
    if packet::ethertype(ethernet) != ETHERTYPE_IPV6 {
        return false;
    }
    let payload = frame.get::<[u8; 4]>(PAYLOAD).copied().unwrap_or_default();
    if allow::is_neighbour_discovery(ip, payload) || allows(settings, &Flow::of(ip, payload)) {
        return true;
    }
    let Some(message) = frame.get::<[u8; ERROR]>(PAYLOAD) else { return false };
    Flow::of_error(ip, message).is_some_and(|flow| allows(settings, &flow))
}

once! {
    /// Whether an allow rule names the flow.
    fn allows = guard_allows(settings: &GuardSettings, flow: &Flow) -> bool {
        settings.allows(flow)
    }
}
