//! Links between namespaces: veth cables, bridges, addresses, routes, offloads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;

use crate::netns::Netns;
use crate::{run_to_end, wait_until};

/// Length of the longest interface name that the kernel accepts: `IFNAMSIZ` without the terminating zero.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A name for an interface that no other process or namespace of a test run uses: `<tag>-<pid>-<counter>`, with the numbers
/// in base 36. It is unique across namespaces because mtd may name pins after interfaces in the bpffs that all share.
///
/// # Errors
/// When `tag` is not made of 1 to 4 ASCII letters or digits, so that the name might exceed 15 characters.
pub fn interface_name(tag: &str) -> Result<String> {
    ensure!(
        (1..=4).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{tag:?} is no tag for an interface: use 1 to 4 ASCII letters or digits"
    );
    let name = format!("{tag}-{}-{}", base36(process::id()), base36(COUNTER.fetch_add(1, Ordering::Relaxed)));
    ensure!(name.len() <= MAX_NAME, "the interface name {name} is longer than {MAX_NAME} characters");
    Ok(name)
}

/// The next hop of a route.
#[derive(Debug, Clone, Copy)]
pub enum Via<'a> {
    /// Through a router.
    Gateway(IpAddr),
    /// None: destinations are neighbours on this interface.
    Interface(&'a str),
}

/// The names of the two ends of a veth cable.
#[derive(Debug, Clone)]
pub struct Veth {
    /// In the first namespace.
    pub left: String,
    /// In the second namespace.
    pub right: String,
}

impl Veth {
    /// Makes a cable between two namespaces, both ends down. Tags as for [`interface_name`].
    ///
    /// Duplicate address detection and router advertisements are off on both ends, so that addresses are usable at
    /// once. The namespaces' defaults are left alone: interfaces that mtd makes behave as on any host.
    ///
    /// # Errors
    /// When the cable cannot be made.
    pub fn connect(left: (&Netns, &str), right: (&Netns, &str), mtu: u32) -> Result<Self> {
        let veth = Self { left: interface_name(left.1)?, right: interface_name(right.1)? };
        let mtu = mtu.to_string();
        #[rustfmt::skip]
        left.0.run(&[
            "link", "add", &veth.left, "mtu", &mtu, "type", "veth",
            "peer", "name", &veth.right, "mtu", &mtu, "netns", right.0.name(),
        ])?;
        left.0.make_static(&veth.left)?;
        right.0.make_static(&veth.right)?;
        Ok(veth)
    }
}

/// Links, addresses and routes of one namespace.
impl Netns {
    /// Makes a bridge, adds the given ports to it, and sets all of them up. Returns the bridge's name.
    ///
    /// The bridge floods multicast like a plain switch, without snooping, and its ports forward at once.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add_bridge(&self, tag: &str, ports: &[&str]) -> Result<String> {
        let bridge = interface_name(tag)?;
        #[rustfmt::skip]
        self.run(&["link", "add", &bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"])?;
        self.make_static(&bridge)?;
        for port in ports {
            // Ports carry frames for the bridge and have no addresses of their own.
            self.set_sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
            self.run(&["link", "set", port, "master", &bridge])?;
            self.set_up(port)?;
        }
        self.set_up(&bridge)?;
        Ok(bridge)
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_up(&self, ifname: &str) -> Result<()> {
        self.run(&["link", "set", ifname, "up"]).map(drop)
    }

    /// Gives an interface an address (IPv6 without duplicate address detection).
    ///
    /// # Errors
    /// When there is no such interface or it has the address already.
    pub fn add_address(&self, ifname: &str, address: IpNet) -> Result<()> {
        let text = address.to_string();
        match address {
            IpNet::V4(_) => self.run(&["addr", "add", &text, "dev", ifname]).map(drop),
            IpNet::V6(_) => self.run(&["addr", "add", &text, "dev", ifname, "nodad"]).map(drop),
        }
    }

    /// Adds a route to `prefix`; a prefix of length 0 is the default route.
    ///
    /// # Errors
    /// When the gateway or the interface cannot be reached, or the route exists.
    pub fn add_route(&self, prefix: IpNet, via: Via<'_>) -> Result<()> {
        let family = if prefix.addr().is_ipv6() { "-6" } else { "-4" };
        let prefix = prefix.to_string();
        match via {
            Via::Gateway(gateway) => {
                self.run(&[family, "route", "add", &prefix, "via", &gateway.to_string()])
            }
            Via::Interface(ifname) => self.run(&[family, "route", "add", &prefix, "dev", ifname]),
        }
        .map(drop)
    }

    /// Makes the namespace forward IPv6 and IPv4 packets.
    ///
    /// # Errors
    /// When the sysctls cannot be written.
    pub fn enable_forwarding(&self) -> Result<()> {
        self.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.set_sysctl("net/ipv4/ip_forward", "1")
    }

    /// Switches an offload, named as `ethtool -K` names it (`gro`, `tx`, `tso`, …).
    ///
    /// # Errors
    /// When the driver does not let it be changed.
    pub fn set_offload(&self, ifname: &str, feature: &str, on: bool) -> Result<()> {
        let mut ethtool = self.command("ethtool")?;
        ethtool.args(["-K", ifname, feature, if on { "on" } else { "off" }]);
        run_to_end(ethtool).map(drop)
    }

    /// Whether an offload is on, named as `ethtool -k` lists it (`generic-receive-offload`, …).
    ///
    /// # Errors
    /// When the interface or the feature does not exist.
    pub fn offload(&self, ifname: &str, feature: &str) -> Result<bool> {
        let mut ethtool = self.command("ethtool")?;
        ethtool.args(["-k", ifname]);
        let list = run_to_end(ethtool)?;
        let state = list.lines().find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "));
        Ok(state
            .with_context(|| format!("ethtool lists no feature {feature} for {ifname}"))?
            .starts_with("on"))
    }

    /// Waits until an interface is operationally up, has no tentative address and, if it is a bridge port, forwards.
    ///
    /// # Errors
    /// When that takes longer than `timeout`; the error names what is missing.
    pub fn wait_usable(&self, ifname: &str, timeout: Duration) -> Result<()> {
        let mut missing = None;
        let waited = wait_until("a usable interface", timeout, || {
            missing = self.what_is_unusable(ifname)?;
            Ok(missing.is_none())
        });
        waited.with_context(|| match missing {
            Some(missing) => format!("{ifname} in {}: {missing}", self.name()),
            None => format!("the state of {ifname} in {} cannot be read", self.name()),
        })
    }

    fn what_is_unusable(&self, ifname: &str) -> Result<Option<String>> {
        let list: Value = serde_json::from_str(&self.run(&["-j", "-d", "addr", "show", "dev", ifname])?)
            .context("`ip -j addr` printed no JSON")?;
        let state = list.pointer("/0/operstate").and_then(Value::as_str).unwrap_or("missing");
        if state != "UP" {
            return Ok(Some(format!("operational state {state}")));
        }
        let port = list.pointer("/0/linkinfo/info_slave_data/state").and_then(Value::as_str);
        if let Some(state) = port.filter(|&state| state != "forwarding") {
            return Ok(Some(format!("bridge port state {state}")));
        }
        let addresses = list.pointer("/0/addr_info").and_then(Value::as_array);
        let tentative = addresses.into_iter().flatten().find(|address| address.get("tentative").is_some());
        Ok(tentative.map(|address| format!("tentative address {}", address["local"])))
    }

    /// Switches off duplicate address detection and autoconfiguration on one interface.
    fn make_static(&self, ifname: &str) -> Result<()> {
        for key in ["accept_dad", "dad_transmits", "accept_ra", "autoconf"] {
            self.set_sysctl(&format!("net/ipv6/conf/{ifname}/{key}"), "0")?;
        }
        Ok(())
    }
}

/// The default route of IPv6, `::/0`.
pub fn default_route() -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)
}

/// The default route of IPv4, `0.0.0.0/0`.
pub fn default_route_v4() -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

fn base36(number: u32) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    let mut rest = number;
    loop {
        digits.push(char::from(DIGITS[(rest % 36) as usize]));
        rest /= 36;
        if rest == 0 {
            return digits.iter().rev().collect();
        }
    }
}
