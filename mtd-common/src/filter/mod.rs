//! Filters of sessions: which inner packets a peer may exchange with this host.
//!
//! A session has a policy: up to 256 rules. Whatever may differ between rules leads to the set of the rules that it suits, a bit
//! for each: the address at either end by its longest prefix, the ports at either end likewise, the protocol by an array. A
//! packet suits the rules that are in all of these sets. So a packet costs the same with one rule or 256. If one of them
//! denies, the packet is dropped; otherwise, if one allows, it passes; otherwise it is dropped.
//!
//! One rule is for both directions of a flow: the end that opens it is named `from`, the other one `to`. A packet that opens a
//! connection (TCP) or asks for an echo (ICMP) has to go in the rule's direction; answers go the other way, too. A rule that
//! denies in one direction concerns what is opened, and packets of protocols that open nothing. An ICMP error passes with the
//! flow that it is about.

pub mod flow;

pub use flow::{Flow, Opens, Packet, Part};

use crate::abi::filter::{
    FLAG_LOCAL, FLAG_LOCAL_PORTS, FLAG_REMOTE, FLAG_REMOTE_PORTS, KIND_LOCAL, KIND_LOCAL_PORT, KIND_REMOTE,
    KIND_REMOTE_PORT, KIND_V6, Mask, PROTOCOL_CLASSES, Policy,
};
use crate::bytes::part_mut;

/// What a policy says of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A rule allows it, and none denies it.
    Allowed = 1,
    /// A rule denies it.
    Denied = 2,
    /// No rule names it.
    Unnamed = 3,
    /// There is no such policy.
    NoPolicy = 4,
}

impl Verdict {
    /// The verdict of this number.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Allowed,
            2 => Self::Denied,
            3 => Self::Unnamed,
            _ => Self::NoPolicy,
        }
    }
}

/// What `policy` says of a packet that comes in (`inward`) or goes out. `look` finds the rules of the policy that an address or
/// port suits, by kind and value ([`crate::abi::filter::rule_key`]).
#[inline(always)]
pub fn judge<'a>(
    policy: &Policy,
    flow: &Flow,
    inward: bool,
    look: impl Fn(u8, &[u8; 16]) -> Option<&'a Mask>,
) -> Verdict {
    let class = policy.classes[flow.protocol as usize] as usize & (PROTOCOL_CLASSES - 1);
    let mut suits = policy.protocols[class];
    let family = if flow.version == 6 { KIND_V6 } else { 0 };
    let (local, remote) =
        if inward { (&flow.destination, &flow.source) } else { (&flow.source, &flow.destination) };
    let (local_port, remote_port) = if inward {
        (flow.destination_port, flow.source_port)
    } else {
        (flow.source_port, flow.destination_port)
    };
    let mut narrow = |flag: u32, kind: u8, value: &[u8; 16]| {
        policy.flags & flag == 0 || look(kind, value).is_some_and(|found| and(&mut suits, found))
    };
    if !narrow(FLAG_LOCAL, KIND_LOCAL + family, local) || !narrow(FLAG_REMOTE, KIND_REMOTE + family, remote) {
        return Verdict::Unnamed;
    }
    if flow.has_ports {
        if !narrow(FLAG_LOCAL_PORTS, KIND_LOCAL_PORT, &port(local_port))
            || !narrow(FLAG_REMOTE_PORTS, KIND_REMOTE_PORT, &port(remote_port))
        {
            return Verdict::Unnamed;
        }
    } else {
        and(&mut suits, &policy.portless);
    }
    conclude(policy, &suits, flow.opens, inward)
}

/// What the rules in this set say together.
#[inline(always)]
fn conclude(policy: &Policy, suits: &Mask, opens: Opens, inward: bool) -> Verdict {
    let direction = if inward { &policy.inward } else { &policy.outward };
    let (mut denied, mut allowed) = (0, 0);
    let mut i = 0;
    while i < suits.len() {
        let deny = suits[i] & policy.deny[i];
        let allow = suits[i] & !policy.deny[i];
        denied |= match opens {
            Opens::Nothing => deny & policy.always[i],
            Opens::Something | Opens::Unknown => deny & (policy.always[i] | direction[i]),
        };
        allowed |= match opens {
            Opens::Something => allow & direction[i],
            Opens::Nothing | Opens::Unknown => allow,
        };
        i += 1;
    }
    match (denied, allowed) {
        (0, 0) => Verdict::Unnamed,
        (0, _) => Verdict::Allowed,
        _ => Verdict::Denied,
    }
}

/// Leaves those rules that are in both sets.
#[inline(always)]
fn and(suits: &mut Mask, found: &Mask) -> bool {
    let mut i = 0;
    while i < suits.len() {
        suits[i] &= found[i];
        i += 1;
    }
    true
}

/// A port as the value of a key.
#[inline(always)]
pub const fn port(port: [u8; 2]) -> [u8; 16] {
    let mut value = [0; 16];
    *part_mut::<0, 2, 16>(&mut value) = port;
    value
}

#[cfg(test)]
mod tests;
