//! Filters of sessions: see [`crate::filter`].

use core::mem::{offset_of, size_of};

/// Version of the layouts in this module.
pub const VERSION: u32 = 1;

/// Most rules of one policy; a rule for both directions may take two.
pub const MAX_RULES: usize = 256;

/// Most policies at a time. While a policy is replaced, there are both.
pub const MAX_POLICIES: u32 = 2048;

/// Most prefixes and parts of port ranges that the rules of all policies name together.
pub const MAX_RULE_PREFIXES: u32 = 262_144;

/// A set of rules of a policy, a bit for each.
pub type Mask = [u64; MAX_RULES / 64];

/// Element of the array map `SESSION_POLICY`, by index of the session: the number of its policy. Read only for sessions with
/// [`super::FLAG_FILTER`].
pub type PolicyNumber = u64;

/// Sets of rules by protocol that a policy has room for; the first one is that of the rules for any protocol.
pub const PROTOCOL_CLASSES: usize = 16;

/// Value of the hash map `POLICIES`, whose key is the policy's number (`u32`). A number is never used twice during the
/// lifetime of the maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// [`FLAG_PROHIBITED`], [`FLAG_LOCAL`], [`FLAG_REMOTE`], [`FLAG_LOCAL_PORTS`], [`FLAG_REMOTE_PORTS`].
    pub flags: u32,
    /// Padding.
    pub reserved: u32,
    /// The rules that deny; the others allow.
    pub deny: Mask,
    /// Those rules that deny whatever a packet opens, since they name no direction.
    pub always: Mask,
    /// The rules for what the peer opens.
    pub inward: Mask,
    /// The rules for what is opened from here.
    pub outward: Mask,
    /// The rules that name no port.
    pub portless: Mask,
    /// The rules for each class of protocols.
    pub protocols: [Mask; PROTOCOL_CLASSES],
    /// The class of each protocol (IPv6 next header).
    pub classes: [u8; 256],
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            flags: 0,
            reserved: 0,
            deny: [0; 4],
            always: [0; 4],
            inward: [0; 4],
            outward: [0; 4],
            portless: [0; 4],
            protocols: [[0; 4]; PROTOCOL_CLASSES],
            classes: [0; 256],
        }
    }
}

/// The sender of a packet that may not leave is told so ([`Policy::flags`]).
pub const FLAG_PROHIBITED: u32 = 1;
/// Some rules name addresses at this end ([`Policy::flags`]): without the flag, no look-up is needed.
pub const FLAG_LOCAL: u32 = 2;
/// Some rules name addresses at the peer's end ([`Policy::flags`]).
pub const FLAG_REMOTE: u32 = 4;
/// Some rules name ports at this end ([`Policy::flags`]).
pub const FLAG_LOCAL_PORTS: u32 = 8;
/// Some rules name ports at the peer's end ([`Policy::flags`]).
pub const FLAG_REMOTE_PORTS: u32 = 16;

/// Key of the longest-prefix map `FILTER_RULES`, whose value is the [`Mask`] of the rules that a prefix is in: number of the
/// policy (network order), kind, three zeros, and 16 bytes of address (IPv4 as `::ffff:a.b.c.d`), or the port in the first two.
pub type RuleKey = [u8; 24];

/// Number of bits of a [`RuleKey`] before address or port.
pub const RULE_KEY_BITS: u32 = 64;

/// Kinds of a [`RuleKey`]: IPv4 addresses at this end, and those of the other family and of the other end after it.
pub const KIND_LOCAL: u8 = 0;
/// See [`KIND_LOCAL`].
pub const KIND_REMOTE: u8 = 2;
/// Added for IPv6.
pub const KIND_V6: u8 = 1;
/// Ports at this end.
pub const KIND_LOCAL_PORT: u8 = 4;
/// Ports at the peer's end.
pub const KIND_REMOTE_PORT: u8 = 5;

/// The key of an address or port of a policy.
#[inline(always)]
pub const fn rule_key(policy: u32, kind: u8, value: &[u8; 16]) -> RuleKey {
    let mut key = [0; 24];
    *crate::bytes::part_mut::<0, 4, 24>(&mut key) = policy.to_be_bytes();
    key[4] = kind;
    *crate::bytes::part_mut::<8, 16, 24>(&mut key) = *value;
    key
}

/// Key of the map `FRAGMENTS`: a packet in parts whose first part has passed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Index of the session.
    pub session: u32,
    /// The identification that its parts share.
    pub id: u32,
    /// Inner source.
    pub source: [u8; 16],
    /// Inner destination.
    pub destination: [u8; 16],
}

const _: () = {
    assert!(size_of::<Policy>() == 936);
    assert!(offset_of!(Policy, deny) == 8);
    assert!(offset_of!(Policy, protocols) == 168);
    assert!(offset_of!(Policy, classes) == 680);
    assert!(size_of::<FragmentKey>() == 40);
};
