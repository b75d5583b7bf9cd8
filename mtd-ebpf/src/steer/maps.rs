//! Maps of the CPUs to which packets are handed. Not pinned: they belong to one load of the programs, and live as long as
//! it.

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, CpuMap};
use mtd_common::abi::SteeringCpus;

/// The queues of the CPUs.
#[map]
static CPUS: CpuMap = CpuMap::with_max_entries(1, 0);
#[map]
static STEERING_CPUS: Array<SteeringCpus> = Array::with_max_entries(1, 0);

/// The CPUs to which packets may be handed.
#[inline(always)]
pub(super) fn cpus() -> Option<&'static SteeringCpus> {
    STEERING_CPUS.get(0)
}

/// Lets the kernel hand the frame to a CPU when the program ends with `XDP_REDIRECT`. False: that CPU has no queue.
#[inline(always)]
pub(super) fn redirect_to_cpu(cpu: u32) -> bool {
    CPUS.redirect(cpu, XDP_ABORTED.into()).is_ok()
}
