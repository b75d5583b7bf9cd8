//! Policies, their rules, and which session has which. Only the controller writes them. Beside them, what is known of packets
//! in parts.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use mtd_common::abi::TokenBucket;
use mtd_common::abi::filter::{
    FragmentKey, MAX_POLICIES, MAX_RULE_PREFIXES, Mask, Policy, PolicyNumber, RuleKey, rule_key,
};

use crate::limit::Rate;
use crate::session::MMAPABLE;

/// `BPF_F_NO_PREALLOC`: memory is taken for what is there.
const NO_PREALLOC: u32 = 1;

#[map]
static SESSION_POLICY: Array<PolicyNumber> = Array::with_max_entries(1, MMAPABLE);
#[map]
static POLICIES: HashMap<u32, Policy> = HashMap::with_max_entries(MAX_POLICIES, NO_PREALLOC);
#[map]
static FILTER_RULES: LpmTrie<RuleKey, Mask> = LpmTrie::with_max_entries(MAX_RULE_PREFIXES, NO_PREALLOC);
/// Packets in parts whose first part has passed. Not pinned: a part is followed by the others at once.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u8> = LruHashMap::with_max_entries(1024, 0);
#[map]
static PROHIBITED_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Rate of messages to senders that their packets may not leave, from each CPU.
const RATE: Rate = Rate::per_second(100, 200);

/// The policy of a session, with its number.
#[inline(always)]
pub(super) fn policy(session: u32) -> Option<(u32, &'static Policy)> {
    // SAFETY: the controller changes the element by one write, and never a policy.
    let number = unsafe { (&raw const *SESSION_POLICY.get(session)?).read_volatile() } as u32;
    // SAFETY: as above.
    let policy = unsafe { POLICIES.get(number) }?;
    Some((number, policy))
}

/// The rules of a policy that this address or port suits.
#[inline(always)]
pub(super) fn rules(policy: u32, kind: u8, value: &[u8; 16]) -> Option<&'static Mask> {
    FILTER_RULES.get(Key::new(8 * size_of::<RuleKey>() as u32, rule_key(policy, kind, value)))
}

/// Notes that the first part of a packet has passed.
#[inline(always)]
pub(super) fn remember(key: &FragmentKey) {
    // If there is no room, the other parts are dropped.
    let _ = FRAGMENTS.insert(key, 1, 0);
}

/// Whether the first part of a packet has passed.
#[inline(always)]
pub(super) fn is_remembered(key: &FragmentKey) -> bool {
    // SAFETY: the value is never read.
    unsafe { FRAGMENTS.get(key) }.is_some()
}

/// Whether one more sender may be told.
#[inline(always)]
pub(super) fn may_tell(now: u64) -> bool {
    RATE.take_here(&PROHIBITED_LIMIT, now)
}
