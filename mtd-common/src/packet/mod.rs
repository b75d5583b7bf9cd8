//! Packet headers over fixed-size arrays, as the programs see them: Ethernet, IPv6, UDP, mtd's own header, inner
//! packets, neighbour discovery, Packet Too Big.
//!
//! Parsers fail closed: if they do not understand a packet towards a protected prefix, it is an error, never a pass.

pub mod fragment;
pub mod inner;
pub mod ndp;
pub mod outer;
pub mod prohibited;
pub mod too_big;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;
/// Bytes of a UDP header.
pub const UDP: usize = 8;
/// Bytes of mtd's header: masked sequence number, tag.
pub const MTD: usize = 24;
/// Bytes by which a packet grows in the tunnel.
pub const OVERHEAD: usize = IPV6 + UDP + MTD;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// IPv6 next header: UDP.
pub const NEXT_UDP: u8 = 17;
/// IPv6 next header: TCP.
pub const NEXT_TCP: u8 = 6;
/// IPv6 next header: ICMPv6.
pub const NEXT_ICMPV6: u8 = 58;

use crate::abi::{Dataplane, MAX_PREFIXES};
use crate::bytes::{be16, ne64};

/// EtherType of a frame.
#[inline(always)]
pub const fn ethertype(ethernet: &[u8; ETHERNET]) -> u16 {
    be16::<12, ETHERNET>(ethernet)
}

/// Whether a frame with this EtherType has a VLAN tag.
#[inline(always)]
pub const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN)
}

/// Whether `address` lies in a protected prefix.
#[inline(always)]
pub fn is_protected(dataplane: &Dataplane, address: &[u8; 16]) -> bool {
    let high = ne64::<0, 16>(address);
    let low = ne64::<8, 16>(address);
    let mut i = 0;
    while i < MAX_PREFIXES {
        let prefix = &dataplane.prefixes[i];
        if i as u32 >= dataplane.prefix_count {
            return false;
        }
        if prefix.high == high && prefix.low == low & prefix.mask {
            return true;
        }
        i += 1;
    }
    false
}

#[cfg(test)]
mod tests;
