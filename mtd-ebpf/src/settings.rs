//! The settings from the controller.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mtd_common::abi::Dataplane;

#[map]
static DATAPLANE: Array<Dataplane> = Array::with_max_entries(1, 0);

/// The settings; `None` never happens, an array's elements always exist.
#[inline(always)]
pub(crate) fn dataplane() -> Option<&'static Dataplane> {
    DATAPLANE.get(0)
}
