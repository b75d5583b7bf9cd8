//! The tunnel device itself: making it, adopting one left by an earlier controller, removing it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkFlags};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::bypass::Bypass;
use super::error::{Error, Result};
use super::features::{self, End};
use super::netlink::{Link, NAME_MAX, Netlink, request};
use super::{address, route, sysctl};
use crate::model::MIN_INNER_MTU;

/// The alias (`ip link show`) by which mtd knows a device as its own. A device without it is never changed or removed.
pub const MARKER: &str = "mtd tunnel";

/// The MTUs a tunnel device can have, in bytes: from the least that IPv6 works with (RFC 8200, section 5) to the
/// most that veth takes.
pub const MTU_RANGE: RangeInclusive<u32> = MIN_INNER_MTU as u32..=65535;

/// Suffix that makes the name of the inner end from that of the outer end.
const PEER_SUFFIX: &str = "x";

/// How MAC addresses of tunnel devices begin: locally administered, unicast.
const MAC_PREFIX: [u8; 4] = [0x02, b'm', b't', b'd'];

/// The wanted state of a tunnel device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelDevice {
    /// The name of the outer end, 1 to 14 characters; the inner end's is the same with an `x`.
    pub name: String,
    /// The MTU of both ends in bytes, in [`MTU_RANGE`].
    pub mtu: u32,
    /// The addresses of the outer end, with the prefix lengths of its connected routes.
    pub addresses: Vec<IpNet>,
    /// Further destinations that are sent into the device; bits outside the prefix are ignored.
    pub routes: Vec<IpNet>,
    /// Destinations whose packets must be shorter than the device's MTU, with their MTU in bytes: they get routes of
    /// their own where there are none.
    pub narrow: Vec<(IpNet, u32)>,
    /// How mtd's own packets get past routes that would catch them; `None`: all routes are in the main table.
    pub bypass: Option<Bypass>,
}

/// The offloads of either end of the tunnel device `name` that are not as mtd set them: interface, name as in
/// `ethtool -k`, whether it is on.
///
/// # Errors
/// The kernel cannot be asked, or there is no such device.
pub fn misfits(name: &str) -> std::io::Result<Vec<(String, String, bool)>> {
    let mut all = Vec::new();
    for (name, end) in [(name.to_owned(), End::Outer), (peer_name(name), End::Inner)] {
        let found = features::misfits(&name, end)?;
        all.extend(found.into_iter().map(|(feature, on)| (name.clone(), feature, on)));
    }
    Ok(all)
}

/// What the data plane needs to know of a tunnel device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelInfo {
    /// The index of the outer end (`mtd0`), which the host uses.
    pub ifindex: u32,
    /// The index of the inner end (`mtd0x`): the sealing program attaches here, and frames redirected here come out
    /// at the outer end.
    pub peer_ifindex: u32,
    /// The MAC address of the outer end: the destination that received frames must have.
    pub mac: [u8; 6],
}

/// A tunnel device in its wanted state, and what had to be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The device.
    pub info: TunnelInfo,
    /// What was changed, each in a few words; empty if everything was as wanted.
    pub changes: Vec<String>,
}

impl TunnelDevice {
    /// The name of the inner end.
    pub fn peer_name(&self) -> String {
        peer_name(&self.name)
    }

    /// Makes the device, or adopts the one of that name that an earlier controller left, and brings it to the wanted
    /// state: MTU, offloads, addresses, and the routes of the main table. Addresses and routes of the device that are
    /// not wanted are removed. Settings that are right already are not touched, so that traffic continues. A device that
    /// could not be brought to its state is removed again if this call made it.
    ///
    /// A strict `rp_filter` is left as it is: it asks for a route into the device for every inner IPv4 source.
    ///
    /// # Errors
    /// Any of [`Error`] but [`Error::NotFound`], [`Error::NotEthernet`] and [`Error::Bpffs`].
    pub async fn create(&self) -> Result<TunnelInfo> {
        self.check()?;
        sysctl::require_ipv6()?;
        Ok(self.bring_about(&Netlink::open()?, When::First).await?.info)
    }

    /// The same while the controller runs: also makes the device anew if somebody has removed it, or taken one of its ends to
    /// another network namespace; what is left of it is removed first. Says what was changed.
    ///
    /// # Errors
    /// As [`TunnelDevice::create`].
    pub async fn repair(&self) -> Result<Repaired> {
        self.check()?;
        let netlink = Netlink::open()?;
        if let Some(rest) = self.rest_of_a_pair(&netlink).await? {
            delete(&netlink, &rest).await?;
        }
        self.bring_about(&netlink, When::Running).await
    }

    /// The end of mtd's whose other end is not here any more.
    async fn rest_of_a_pair(&self, netlink: &Netlink) -> Result<Option<String>> {
        let outer = netlink.link(&self.name).await?;
        let inner = netlink.link(&self.peer_name()).await?;
        let whole = matches!((&outer, &inner), (Some(outer), Some(inner)) if outer.peer == Some(inner.index));
        let marked = |link: &Link| link.alias.as_deref() == Some(MARKER);
        Ok([outer, inner].into_iter().flatten().find(|link| !whole && marked(link)).map(|link| link.name))
    }

    async fn bring_about(&self, netlink: &Netlink, when: When) -> Result<Repaired> {
        let mut changes = Vec::new();
        let fresh = netlink.link(&self.name).await?.is_none();
        if fresh {
            self.add_pair(netlink).await?;
            changes.push(format!("{} made anew", self.name));
        }
        match self.configure(netlink, when, &mut changes).await {
            Ok(info) => Ok(Repaired { info, changes }),
            Err(error) => {
                if fresh {
                    // The first error is the one to report.
                    let _ = delete(netlink, &self.name).await;
                }
                Err(error)
            }
        }
    }

    fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        check_mtu(&self.name, self.mtu)?;
        match self.addresses.iter().find(|address| !is_unicast(address.addr())) {
            Some(&address) => Err(Error::InvalidAddress { name: self.name.clone(), address }),
            None => Ok(()),
        }
    }

    /// All routes, those in the table of their own and those in the main table, each with its MTU where it has one of its own.
    fn wanted_routes(&self) -> (Routes, Routes) {
        let mut wanted: Routes = self.routes.iter().map(|net| (net.trunc(), None)).collect();
        wanted.extend(self.narrow.iter().map(|(net, mtu)| (net.trunc(), Some(*mtu))));
        let is_own = |net: &IpNet| self.bypass.as_ref().is_some_and(|bypass| bypass.takes(net));
        wanted.into_iter().partition(|(net, _)| is_own(net))
    }

    /// The destinations of routes that are not in the main table, since they would catch mtd's own packets.
    pub fn bypassed(&self) -> Vec<IpNet> {
        self.wanted_routes().0.into_keys().collect()
    }

    /// Makes the pair, both ends down and unmarked.
    async fn add_pair(&self, netlink: &Netlink) -> Result<()> {
        let (name, peer) = (&self.name, self.peer_name());
        if netlink.link(&peer).await?.is_some() {
            return Err(Error::Foreign { name: peer });
        }
        // An address given at creation counts as set by the user. The data plane holds a copy of it, and udev
        // replaces random ones after a moment (MACAddressPolicy=persistent).
        let inner = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.as_str())
            .address(random_mac(&peer)?.to_vec())
            .mtu(self.mtu)
            .build();
        let outer = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name.as_str())
            .address(random_mac(name)?.to_vec())
            .mtu(self.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
            .build();
        let action = || format!("make the veth pair {name} and {peer}");
        request(action, netlink.handle.link().add(outer).execute()).await
    }

    async fn configure(
        &self,
        netlink: &Netlink,
        when: When,
        changes: &mut Vec<String>,
    ) -> Result<TunnelInfo> {
        let name = &self.name;
        let Pair { outer, inner } = Pair::find(netlink, name).await?;
        // The kernel takes no alias at creation.
        for end in [&outer, &inner] {
            if end.alias.is_none() {
                mark(netlink, &end.name).await?;
            }
        }
        let mac = outer.mac.ok_or_else(|| inner.broken(name))?;

        sysctl::configure_inner(&inner.name)?;
        sysctl::configure_outer(name)?;
        set_mtu_of(netlink, &inner, self.mtu, changes).await?;
        set_mtu_of(netlink, &outer, self.mtu, changes).await?;
        for (end, kind) in [(&inner, End::Inner), (&outer, End::Outer)] {
            if features::configure(&end.name, kind)? {
                changes.push(format!("the offloads of {} set", end.name));
            }
        }
        bring_up(netlink, &inner, changes).await?;
        bring_up(netlink, &outer, changes).await?;
        address::sync(netlink, name, outer.index, &self.addresses, changes).await?;
        let connected: Vec<_> =
            self.addresses.iter().filter(|address| is_network(address)).map(IpNet::trunc).collect();
        let (own, main) = self.wanted_routes();
        // First of all, so that nothing that is wrong with another route lets everything out past the tunnel.
        if let (Some(bypass), When::Running) = (&self.bypass, when) {
            bypass.sync(netlink, (name, outer.index), &own, changes).await?;
        }
        route::sync(netlink, name, outer.index, (&main, &connected), changes).await?;
        Ok(TunnelInfo { ifindex: outer.index, peer_ifindex: inner.index, mac })
    }
}

/// Removes the tunnel device `name`, both ends, with its addresses and routes; `false` if there is none.
///
/// # Errors
/// [`Error::Foreign`] when the device is not mtd's, [`Error::Netlink`].
pub async fn remove(name: &str) -> Result<bool> {
    let netlink = Netlink::open()?;
    let Some(link) = netlink.link(name).await? else { return Ok(false) };
    link.require_marker()?;
    delete(&netlink, name).await?;
    Ok(true)
}

/// Removes every tunnel device of mtd's in this network namespace. Returns their names.
///
/// # Errors
/// [`Error::Netlink`].
pub async fn remove_marked() -> Result<Vec<String>> {
    let netlink = Netlink::open()?;
    let mut links = netlink.links().await?;
    links.retain(|link| link.require_marker().is_ok());
    // Outer ends first: removing one also removes its inner end.
    links.sort_by_key(|link| link.name.ends_with(PEER_SUFFIX));
    let mut removed = Vec::new();
    for Link { name, .. } in links {
        if netlink.link(&name).await?.is_some() {
            delete(&netlink, &name).await?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Destinations, with their MTU where they have one of their own.
type Routes = BTreeMap<IpNet, Option<u32>>;

/// When a device is brought to its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before the programs know the mark of mtd's own packets: rules and the table of their own stay as they are.
    First,
    /// When they know it.
    Running,
}

/// The two ends of a tunnel device of mtd's.
struct Pair {
    outer: Link,
    inner: Link,
}

impl Pair {
    async fn find(netlink: &Netlink, name: &str) -> Result<Self> {
        let outer = netlink.existing_link(name).await?;
        outer.require_marker()?;
        let peer = peer_name(name);
        match netlink.link(&peer).await? {
            Some(inner) if outer.is_veth && outer.peer == Some(inner.index) => Ok(Self { outer, inner }),
            _ => Err(Error::BrokenPair { name: name.to_owned(), peer }),
        }
    }
}

impl Link {
    fn require_marker(&self) -> Result<()> {
        match self.alias.as_deref() {
            Some(MARKER) => Ok(()),
            None if self.is_half_made() => Ok(()),
            _ => Err(Error::Foreign { name: self.name.clone() }),
        }
    }

    /// Whether mtd made the device and was killed before it marked it: no other device has such a MAC address.
    fn is_half_made(&self) -> bool {
        self.is_veth
            && !self.flags.contains(LinkFlags::Up)
            && self.mac.is_some_and(|mac| mac[..4] == MAC_PREFIX)
    }

    fn broken(&self, outer: &str) -> Error {
        Error::BrokenPair { name: outer.to_owned(), peer: self.name.clone() }
    }
}

async fn mark(netlink: &Netlink, name: &str) -> Result<()> {
    let index = netlink.existing_link(name).await?.index;
    let message = LinkUnspec::new_with_index(index).alias(MARKER).build();
    netlink.set_link(message, || format!("mark {name} as mtd's")).await
}

async fn set_mtu_of(netlink: &Netlink, link: &Link, mtu: u32, changes: &mut Vec<String>) -> Result<()> {
    if link.mtu == mtu {
        return Ok(());
    }
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink.set_link(message, || format!("set the MTU of {} to {mtu}", link.name)).await?;
    changes.push(format!("the MTU of {} set", link.name));
    Ok(())
}

/// Switches neighbour discovery off, since nobody behind the device could answer, and then sets the device up.
async fn bring_up(netlink: &Netlink, link: &Link, changes: &mut Vec<String>) -> Result<()> {
    if link.flags.contains(LinkFlags::Up | LinkFlags::Noarp) {
        return Ok(());
    }
    let message = LinkUnspec::new_with_index(link.index).arp(false).up().build();
    netlink.set_link(message, || format!("bring {} up", link.name)).await?;
    changes.push(format!("{} brought up", link.name));
    Ok(())
}

async fn delete(netlink: &Netlink, name: &str) -> Result<()> {
    let Some(link) = netlink.link(name).await? else { return Ok(()) };
    request(|| format!("remove {name}"), netlink.handle.link().del(link.index).execute()).await
}

pub(super) fn peer_name(name: &str) -> String {
    format!("{name}{PEER_SUFFIX}")
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() + PEER_SUFFIX.len() > NAME_MAX {
        "it is too long"
    } else if !name.bytes().all(allowed) {
        "it has a character that is not allowed"
    } else if matches!(name, "." | ".." | "all" | "default") {
        "the name is reserved"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { name: name.to_owned(), problem })
}

fn check_mtu(name: &str, mtu: u32) -> Result<()> {
    if MTU_RANGE.contains(&mtu) {
        return Ok(());
    }
    Err(Error::InvalidMtu { name: name.to_owned(), mtu, min: *MTU_RANGE.start(), max: *MTU_RANGE.end() })
}

/// Whether the kernel makes a route to the network of such an address, and not only to the address itself.
fn is_network(address: &IpNet) -> bool {
    address.prefix_len() < address.max_prefix_len()
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

/// A locally administered unicast address that identifies the device as mtd's.
fn random_mac(name: &str) -> Result<[u8; 6]> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|cause| Error::Random { name: name.to_owned(), cause })?;
    // Opened packets come from the address whose random part is 0.
    let [.., high, low] = u16::from_ne_bytes(random).max(1).to_be_bytes();
    let [a, b, c, d] = MAC_PREFIX;
    Ok([a, b, c, d, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_the_peer() {
        for name in ["mtd0", "a", "vpn-1.b_2", "fourteen-chars"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "fifteen-chars-x", "a b", "a/b", "mtd%d", "a:b", ".", "..", "all", "default", "é"] {
            assert!(matches!(check_name(name), Err(Error::InvalidName { .. })), "{name}");
        }
    }

    #[test]
    fn mtu_is_at_least_ipv6s() {
        assert!(check_mtu("mtd0", 1280).is_ok() && check_mtu("mtd0", 65535).is_ok());
        let message = check_mtu("mtd0", 1279).unwrap_err().to_string();
        assert!(
            message.contains("mtd0") && message.contains("1279") && message.contains("1280"),
            "{message}"
        );
        assert!(check_mtu("mtd0", 65536).is_err());
    }

    #[test]
    fn only_unicast_addresses_are_accepted() {
        for address in ["10.0.0.1", "fd00::1", "fe80::1", "2001:db8::1"] {
            assert!(is_unicast(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(!is_unicast(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn random_macs_are_local_unicast_and_differ() {
        let all: std::collections::HashSet<_> = (0..64).map(|_| random_mac("mtd0").unwrap()).collect();
        assert!(all.iter().all(|mac| mac[0] & 3 == 2 && mac[4..] != [0, 0]));
        assert!(all.len() > 32, "{} of 64 differ", all.len());
    }
}
