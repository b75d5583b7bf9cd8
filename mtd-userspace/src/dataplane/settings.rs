//! The capacity of a data plane, and the settings of its programs.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use mtd_common::abi::{Dataplane, FLAG_ON_LINK, FLAG_SHARED, FLAG_SINGLE, MAX_PREFIXES, Prefix};
use mtd_common::address::SINGLE_ADDRESS;
use mtd_common::table::{self, Layout};

use crate::model::{Guard, LinkMode};

/// The capacity of a data plane. Fixed when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions.
    pub sessions: u32,
    /// Most slots that are loaded at a time for each session ([`crate::proto::slots::most_loaded`]).
    pub slots: u32,
    /// Directions of busy sessions whose key stream is made ahead ([`mtd_common::keystream::LANES`]); 0: none.
    pub lanes: u32,
}

impl Capacity {
    /// Binary logarithm of the number of elements that each session has in `SLOTS`.
    pub const fn ring_bits(self) -> u32 {
        self.slots.next_power_of_two().trailing_zeros()
    }

    /// Binary logarithm of the number of buckets in the table of addresses.
    pub const fn table_bits(self) -> u32 {
        table::bits(self.sessions as u64 * self.slots as u64)
    }
}

/// The settings that the programs need of their surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Interface index of the inside end of the tunnel device.
    pub tunnel_ifindex: u32,
    /// MAC address of the tunnel device.
    pub tunnel_mac: [u8; 6],
    /// Interface index of the underlay.
    pub underlay_ifindex: u32,
    /// MAC address of the underlay.
    pub underlay_mac: [u8; 6],
    /// Protected prefixes, at most [`MAX_PREFIXES`], 64 to 112 bits each, or single addresses of this host.
    pub prefixes: Vec<Ipv6Net>,
    /// Whether neighbour solicitations are answered, and whether packets for addresses that are not live pass.
    pub link: LinkMode,
    /// Longest inner packet in bytes.
    pub inner_mtu: u32,
    /// Mark of the outer packets; 0: they have none.
    pub fwmark: u32,
    /// How packets that are not valid are handled.
    pub guard: Guard,
}

impl Settings {
    /// Whether the prefixes are single addresses, so that ports alone move.
    pub fn has_single_addresses(&self) -> bool {
        !self.prefixes.is_empty() && self.prefixes.iter().all(|prefix| prefix.prefix_len() == SINGLE_ADDRESS)
    }

    /// The element of `DATAPLANE` for maps with this ring and this table.
    pub(super) fn element(&self, ring_bits: u32, table: Layout) -> Dataplane {
        let mut value = Dataplane {
            tunnel_ifindex: self.tunnel_ifindex,
            underlay_ifindex: self.underlay_ifindex,
            ring_bits,
            prefix_count: self.prefixes.len().min(MAX_PREFIXES) as u32,
            flags: match self.link {
                _ if self.has_single_addresses() => FLAG_SHARED | FLAG_SINGLE,
                LinkMode::Routed => 0,
                LinkMode::OnLink => FLAG_ON_LINK,
                LinkMode::Shared => FLAG_SHARED,
            },
            inner_mtu: self.inner_mtu,
            fwmark: self.fwmark,
            tunnel_mac: self.tunnel_mac,
            underlay_mac: self.underlay_mac,
            table,
            ..Dataplane::default()
        };
        for (element, prefix) in value.prefixes.iter_mut().zip(&self.prefixes) {
            *element = abi_prefix(*prefix);
        }
        value
    }
}

/// How packets for the prefixes reach this host.
pub(super) const fn link(element: &Dataplane) -> LinkMode {
    if element.flags & FLAG_SHARED != 0 {
        LinkMode::Shared
    } else if element.flags & FLAG_ON_LINK != 0 {
        LinkMode::OnLink
    } else {
        LinkMode::Routed
    }
}

/// The protected prefixes.
pub(super) fn prefixes(element: &Dataplane) -> Vec<Ipv6Net> {
    element.prefixes.iter().take(element.prefix_count as usize).filter_map(prefix).collect()
}

/// The form in which the programs compare a prefix.
fn abi_prefix(prefix: Ipv6Net) -> Prefix {
    let half = |bytes: [u8; 16], from: usize| {
        let mut part = [0; 8];
        part.copy_from_slice(&bytes[from..from + 8]);
        u64::from_ne_bytes(part)
    };
    let network = prefix.network().octets();
    Prefix { high: half(network, 0), low: half(network, 8), mask: half(prefix.netmask().octets(), 8) }
}

fn prefix(prefix: &Prefix) -> Option<Ipv6Net> {
    let [high, low] = [prefix.high, prefix.low].map(|half| u128::from(half.to_be()));
    let length = 64 + prefix.mask.to_be().leading_ones() as u8;
    Ipv6Net::new(Ipv6Addr::from(high << 64 | low), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for link in [LinkMode::Routed, LinkMode::OnLink, LinkMode::Shared] {
            let prefixes = ["2001:db8:1::/64", "2001:db8:2:3:4500::/72", "2001:db8::1:2:3:0/112"];
            let settings = Settings {
                tunnel_ifindex: 3,
                tunnel_mac: [2; 6],
                underlay_ifindex: 4,
                underlay_mac: [6; 6],
                prefixes: prefixes.map(|prefix| prefix.parse().unwrap()).to_vec(),
                link,
                inner_mtu: 1_280,
                fwmark: 28_020,
                guard: Guard::default(),
            };
            let element = settings.element(5, Layout::default());
            assert_eq!((self::link(&element), self::prefixes(&element)), (link, settings.prefixes));
            assert_eq!((element.ring_bits, element.inner_mtu, element.fwmark), (5, 1_280, 28_020));
            assert_eq!(element.answers_solicitations(), link != LinkMode::Routed);
            assert!(!element.has_single_addresses());
            let single = Settings { prefixes: vec!["2001:db8::5/128".parse().unwrap()], ..settings };
            let element = single.element(5, Layout::default());
            assert_eq!((self::link(&element), self::prefixes(&element)), (LinkMode::Shared, single.prefixes));
            assert!(element.has_single_addresses());
        }
    }
}
