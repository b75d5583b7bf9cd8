//! The inner networks of the peers, and the limit on control messages to the controller.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{LpmTrie, PerCpuArray};
use mtd_common::abi::{self, Route, RouteKey, TokenBucket};

use crate::limit::Rate;

/// `BPF_F_NO_PREALLOC`: required for tries.
const NO_PREALLOC: u32 = 1;

#[map]
static ROUTES: LpmTrie<RouteKey, Route> = LpmTrie::with_max_entries(64, NO_PREALLOC);
#[map]
static CONTROL_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Rate of control messages of all sessions from each CPU to the controller. Each session has a limit of its own before
/// that.
const RATE: Rate = Rate::per_second(2_000, 4_000);

/// The session that an inner address belongs to.
#[inline(always)]
pub(super) fn route(version: u8, address: &[u8; 16]) -> Option<Route> {
    ROUTES.get(Key::new(8 * size_of::<RouteKey>() as u32, abi::route_key(version, address))).copied()
}

/// Whether one more control message of any session may go to the controller.
#[inline(always)]
pub(super) fn may_control(now: u64) -> bool {
    RATE.take_here(&CONTROL_LIMIT, now)
}
