//! The gate that everything refused on receipt goes through. Some of it passes nevertheless: all of it while nothing is
//! enforced, and always what the list of allowed flows names.

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
use crate::{count, local, report};

#[map]
static GUARD: Array<GuardSettings> = Array::with_max_entries(1, 0);

/// The settings; `None` never happens, an array's elements always exist.
#[inline(always)]
fn settings() -> Option<&'static GuardSettings> {
    GUARD.get(0)
}

/// What becomes of a frame that is refused.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    /// Passed, since nothing is enforced.
    Passed,
    /// Passed, since the list names it.
    Allowed,
}

/// Decides on a frame that is refused for `reason`, counts and reports it. Returns the verdict.
#[inline(always)]
pub(crate) fn refuse(frame: &XdpFrame<'_>, reason: DropReason) -> u32 {
    // Log lines take the verifier so many steps that it must not walk them once for each reason.
    #[cfg(feature = "log")]
    let reason = local::forgotten(reason);
    // All that this costs where everything is enforced is one test.
    match settings() {
        Some(settings) if settings.is_lenient() => {
            refuse_leniently(frame, settings, local::forgotten(reason))
        }
        _ => {
            report::refused_on_receipt(frame, reason, false);
            XDP_DROP
        }
    }
}

/// A function of its own in the program too, for the sake of the stack.
#[inline(never)]
fn refuse_leniently(frame: &XdpFrame<'_>, settings: &GuardSettings, reason: DropReason) -> u32 {
    let fate = if reason.may_pass() { fate(frame, settings) } else { Fate::Dropped };
    if fate == Fate::Allowed {
        count::one(Counter::Allowed);
        return XDP_PASS;
    }
    let passed = fate == Fate::Passed;
    report::refused_on_receipt(frame, reason, passed);
    if passed { XDP_PASS } else { XDP_DROP }
}

/// A function of its own in the program too, for the sake of the stack.
#[inline(never)]
fn fate(frame: &XdpFrame<'_>, settings: &GuardSettings) -> Fate {
    if settings.allow_count > 0 && is_allowed(frame, settings) {
        Fate::Allowed
    } else if settings.enforces(boot_time()) {
        Fate::Dropped
    } else {
        Fate::Passed
    }
}

#[inline(always)]
fn is_allowed(frame: &XdpFrame<'_>, settings: &GuardSettings) -> bool {
    let Some(ethernet) = frame.get::<[u8; ETHERNET]>(0) else { return false };
    let Some(ip) = frame.get::<[u8; IPV6]>(IP) else { return false };
    // Behind a VLAN tag, the addresses are elsewhere.
    if packet::ethertype(ethernet) != ETHERTYPE_IPV6 {
        return false;
    }
    let payload = frame.get::<[u8; 4]>(PAYLOAD).copied().unwrap_or_default();
    if allow::is_neighbour_discovery(ip, payload) || settings.allows(&Flow::of(ip, payload)) {
        return true;
    }
    let Some(message) = frame.get::<[u8; ERROR]>(PAYLOAD) else { return false };
    Flow::of_error(ip, message).is_some_and(|flow| settings.allows(&flow))
}
