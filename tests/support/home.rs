//! A home network: its hosts have local addresses only (RFC 4193), and the router translates them on the way out, and lets in
//! what answers packets from inside.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::firewall::{self, nft};
use crate::netns::Netns;
use crate::topology::{Host, Topology};

/// The network behind the router: the router is `::1`, the host `::2`.
const INSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x6d74, 0xc, 0, 0, 0, 0, 0);

/// What [`Translation::Prefix`] makes of it.
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, 0);

/// Further addresses that the router can have for what it translates.
const SECOND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xce, 0, 0, 0, 0, 1);

/// What the router does to packets of the network behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Nothing.
    None,
    /// All hosts get the router's address, and keep their ports where those are free (NAT66).
    Masquerade,
    /// All hosts get the router's address, and random ports.
    Ports,
    /// All hosts get another address of the router, and random ports.
    SecondAddress,
    /// The prefix is exchanged, without a table (as RFC 6296 does).
    Prefix,
}

/// The router of a home network.
#[derive(Debug)]
pub struct HomeRouter {
    /// Its interface towards the host.
    inside: String,
    /// Its interface towards the server.
    outside: String,
    /// What it translates.
    network: Ipv6Net,
}

impl HomeRouter {
    /// The router of a host, which keeps its addresses, and its protected prefix, which can be translated.
    pub fn of(topology: &Topology, host: &Host) -> Self {
        let (inside, outside) = (host.gateway_ifname.clone(), topology.server.gateway_ifname.clone());
        Self { inside, outside, network: host.prefix }
    }

    /// Gives a host local addresses only, and makes its router translate.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn move_in(topology: &Topology, host: &Host, translation: Translation) -> Result<Self> {
        let network = Ipv6Net::new_assert(INSIDE, 64);
        let (home, router) = (Self { network, ..Self::of(topology, host) }, &topology.router);
        let net = |last: u16| {
            let address = Ipv6Addr::from(u128::from(INSIDE) + u128::from(last));
            IpNet::V6(Ipv6Net::new_assert(address, 64))
        };
        let old = |address: Ipv6Addr| format!("{address}/64");
        router.run(&["-6", "address", "del", &old(host.gateway), "dev", &home.inside])?;
        router.add_address(&home.inside, net(1))?;
        host.netns.run(&["-6", "address", "del", &old(host.address), "dev", &host.ifname])?;
        host.netns.add_address(&host.ifname, net(2))?;
        host.netns.run(&["-6", "route", "replace", "default", "via", &net(1).addr().to_string()])?;
        router.add_address("lo", IpNet::V6(Ipv6Net::new_assert(SECOND, 128)))?;
        home.set(router, translation)?;
        host.netns.wait_reachable(IpAddr::V6(topology.server.address), std::time::Duration::from_secs(10))?;
        Ok(home)
    }

    /// Makes the router translate otherwise, from the next flow on.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn set(&self, router: &Netns, translation: Translation) -> Result<()> {
        let outside = &self.outside;
        let from = format!("ip6 saddr {} oifname \"{outside}\"", self.network);
        let source = match translation {
            Translation::None | Translation::Prefix => String::new(),
            Translation::Masquerade => format!("{from} masquerade"),
            Translation::Ports => {
                format!("meta l4proto udp {from} masquerade to :20000-40000 random\n{from} masquerade")
            }
            Translation::SecondAddress => {
                format!(
                    "meta l4proto udp {from} snat to [{SECOND}]:40001-60000 random\n{from} snat to {SECOND}"
                )
            }
        };
        let host_bits = "::ffff:ffff:ffff:ffff";
        let (out, back) = if translation == Translation::Prefix {
            (
                format!("{from} ip6 saddr set ip6 saddr & {host_bits} | {OUTSIDE}"),
                format!(
                    "ip6 daddr {OUTSIDE}/64 ip6 daddr set ip6 daddr & {host_bits} | {}",
                    self.network.addr()
                ),
            )
        } else {
            (String::new(), String::new())
        };
        nft(
            router,
            &format!(
                "table ip6 home\ndelete table ip6 home\ntable ip6 home {{
              chain translate {{ type nat hook postrouting priority srcnat; {source}\n }}
              chain out {{ type filter hook postrouting priority 300; {out}\n }}
              chain back {{ type filter hook prerouting priority raw; {back}\n }}
            }}\n"
            ),
        )
    }

    /// Holds back all that hosts behind it send, or lets it go.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn hold_back(&self, router: &Netns, held: bool) -> Result<()> {
        let rule = if held { format!("iifname \"{}\" drop", self.inside) } else { String::new() };
        nft(
            router,
            &format!(
                "table ip6 held\ndelete table ip6 held\ntable ip6 held {{
              chain forward {{ type filter hook forward priority -10; {rule}\n }}
            }}\n"
            ),
        )
    }

    /// Lets in only what answers packets from inside.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn let_in_answers_only(&self, router: &Netns) -> Result<()> {
        firewall::let_in_answers_only(router, &self.inside)
    }
}

/// Makes a router forget all flows, as a restart does.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_flows(router: &Netns) -> Result<()> {
    router.enter(flush)?.context("the router's table cannot be emptied")
}

/// Deletes all entries of the connection table of this namespace (`ctnetlink`, `IPCTNL_MSG_CT_DELETE` without a filter).
fn flush() -> Result<()> {
    /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
    const DELETE: u16 = 1 << 8 | 2;
    const REQUEST: u16 = libc::NLM_F_REQUEST as u16 | libc::NLM_F_ACK as u16;
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut message = 20_u32.to_ne_bytes().to_vec();
    message.extend([DELETE.to_ne_bytes(), REQUEST.to_ne_bytes()].concat());
    // Sequence number and port; then family, version and resource, all unspecified.
    message.extend([0; 12]);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    ensure!(error == Some(0), "the kernel answers {error:?}");
    Ok(())
}
