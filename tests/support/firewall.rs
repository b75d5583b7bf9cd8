//! Stateful firewalls: a router's rules that let in only answers, and a router of its own for one host.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};

use crate::link::{Veth, Via, default_route};
use crate::netns::Netns;
use crate::topology::{Host, Topology};
use crate::xdp::{ConstantXdp, Verdict};

/// Lets a router send to an interface only what answers packets from there.
///
/// # Errors
/// When the kernel has no connection tracking, or `nft` refuses.
pub fn let_in_answers_only(router: &Netns, towards: &str) -> Result<()> {
    let rules = format!(
        "table inet answers {{ chain forward {{ type filter hook forward priority filter; policy accept;\n\
         oifname \"{towards}\" ct state established,related accept\noifname \"{towards}\" counter drop\n}}\n}}\n"
    );
    nft(router, &rules)
}

/// Takes the rules of [`let_in_answers_only`] away again.
///
/// # Errors
/// When there are none.
pub fn let_in_everything(router: &Netns) -> Result<()> {
    nft(router, "delete table inet answers\n")
}

/// Makes a router drop UDP over IPv4, whoever sends it: all of it, or that from hosts behind this interface.
///
/// # Errors
/// When `nft` refuses.
pub fn drop_udp_v4(router: &Netns, from: Option<&str>) -> Result<()> {
    let from = from.map_or_else(|| "iifname != \"lo\"".to_owned(), |from| format!("iifname \"{from}\""));
    nft(
        router,
        &format!(
            "table ip blocked {{ chain incoming {{ type filter hook prerouting priority filter; policy accept;\n\
             {from} meta l4proto udp counter drop\n}}\n}}\n"
        ),
    )
}

/// Takes the rules of [`drop_udp_v4`] away again.
///
/// # Errors
/// When there are none.
pub fn pass_udp_v4(router: &Netns) -> Result<()> {
    nft(router, "delete table ip blocked\n")
}

/// Gives a router these rules.
pub(crate) fn nft(router: &Netns, rules: &str) -> Result<()> {
    let mut command = router.command("nft")?;
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{rules}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Sets after how many seconds without a packet a router forgets a flow of UDP.
///
/// # Errors
/// When the kernel has no connection tracking.
pub fn forget_flows_after(router: &Netns, seconds: u32) -> Result<()> {
    for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        router.set_sysctl(&format!("net/netfilter/{key}"), &seconds.to_string())?;
    }
    Ok(())
}

/// The number of flows that a router has in its table.
///
/// # Errors
/// When the kernel has no connection tracking.
pub fn tracked_flows(router: &Netns) -> Result<u32> {
    Ok(router.sysctl("net/netfilter/nf_conntrack_count")?.parse()?)
}

/// A router with a firewall in front of one host, between it and the router of all.
#[derive(Debug)]
pub struct Gate {
    /// The router.
    pub router: Netns,
    /// Its interface towards the host.
    pub cable: String,
    _uplink: Veth,
    _passes: Option<ConstantXdp>,
}

impl Gate {
    /// Moves a host behind a router of its own, which lets in only answers. `number` tells the gates of a network apart.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn before(topology: &Topology, host: &Host, number: u16) -> Result<Self> {
        let (old, router) = (&topology.router, Netns::new("gate")?);
        router.enable_forwarding()?;
        let uplink = Veth::connect((old, "gup"), (&router, "gdn"), 1500)?;
        let [above, below] = [1, 2].map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0xf0, number, 0, 0, 0, last));
        for (netns, ifname, address) in [(old, &uplink.left, above), (&router, &uplink.right, below)] {
            netns.set_up(ifname)?;
            netns.add_address(ifname, net(address, 64))?;
        }
        router.add_route(default_route(), Via::Gateway(IpAddr::V6(above)))?;
        let cable = host.tap_ifname.clone();
        old.run(&["link", "set", "dev", &cable, "netns", router.name()])?;
        // A port of a bridge has no addresses.
        router.set_sysctl(&format!("net/ipv6/conf/{cable}/disable_ipv6"), "0")?;
        router.set_up(&cable)?;
        router.add_address(&cable, net(host.gateway, 64))?;
        router.add_route(IpNet::V6(host.prefix), Via::Gateway(IpAddr::V6(host.address)))?;
        for to in [IpNet::V6(host.prefix), net(host.address, 128)] {
            let (to, via) = (to.to_string(), below.to_string());
            old.run(&["-6", "route", "replace", &to, "via", &via])?;
        }
        // Neighbours that were learnt through the router of all are elsewhere now.
        host.netns.run(&["-6", "neigh", "flush", "dev", &host.ifname])?;
        // It may have come along.
        let passes = ConstantXdp::attach(&router, &cable, Verdict::Pass).ok();
        let_in_answers_only(&router, &cable)?;
        Ok(Self { router, cable, _uplink: uplink, _passes: passes })
    }
}

fn net(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}
