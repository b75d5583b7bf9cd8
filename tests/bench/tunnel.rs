//! TCP through the tunnel, against the same veth cable without it.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::link::{Veth, Via, default_route};
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::topology::{Delivery, Host};
use serde_json::{Map, Value};

use crate::measure::{Case, Section, in_turn};

/// Seconds of one measurement, and those before it that do not count.
const SECONDS: &str = "3";
const WARM_UP: &str = "1";

const PORT: &str = "5201";
const MTU: u32 = 1500;
const PATIENCE: Duration = Duration::from_secs(10);

/// The section `tunnel` of the results.
///
/// # Errors
/// When something cannot be set up, or iperf3 fails.
pub(crate) fn run(rounds: u32) -> Result<Section> {
    let gso = Bare::new("gso")?;
    let nogso = Bare::new("nogso")?;
    for host in [&nogso.hosts.left, &nogso.hosts.right] {
        for offload in ["tso", "gso", "gro"] {
            host.netns.set_offload(&host.ifname, offload, false)?;
        }
    }
    let encrypt = Tunnel::new("encrypt")?;
    let authenticate = Tunnel::new("authenticate")?;
    let mut cases: Vec<Case<'_>> = vec![
        ("veth_gso", Box::new(|| gso.server.transfer(&gso.hosts.left))),
        ("veth_nogso", Box::new(|| nogso.server.transfer(&nogso.hosts.left))),
        ("mtd_encrypt", Box::new(|| encrypt.server.transfer(&encrypt.hosts.left))),
        ("mtd_authenticate", Box::new(|| authenticate.server.transfer(&authenticate.hosts.left))),
    ];
    let all = in_turn(&mut cases, rounds, "Gbit/s")?;
    drop(cases);
    let base = all.iter().find(|(name, _)| *name == "veth_nogso").map(|(_, samples)| samples.median());
    let section = all.iter().map(|(name, samples)| {
        let ratio = base.map(|base| samples.median() / base);
        let mut values = Map::new();
        values.insert("gbps".to_owned(), samples.median().into());
        values.insert("ratio_to_veth_nogso".to_owned(), ratio.into());
        values.insert("spread".to_owned(), samples.spread().into());
        (*name, values)
    });
    Ok(section.collect())
}

/// Two hosts on one cable.
struct Hosts {
    left: Host,
    right: Host,
}

impl Hosts {
    fn new(tag: &str) -> Result<Self> {
        let (left, right) = (Netns::new(&format!("{tag}-l"))?, Netns::new(&format!("{tag}-r"))?);
        let veth = Veth::connect((&left, "bl"), (&right, "br"), MTU)?;
        let left = host(left, veth.left.clone(), 1, veth.right.clone())?;
        let right = host(right, veth.right, 2, veth.left)?;
        left.netns.wait_usable(&left.ifname, PATIENCE)?;
        right.netns.wait_usable(&right.ifname, PATIENCE)?;
        left.netns.wait_reachable(IpAddr::V6(right.address), PATIENCE)?;
        Ok(Self { left, right })
    }
}

/// Host 1 or 2 of a cable; the other one is its gateway.
fn host(netns: Netns, ifname: String, number: u16, other_ifname: String) -> Result<Host> {
    let address = |number| Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number);
    let gateway = address(3 - number);
    netns.set_up(&ifname)?;
    netns.add_address(&ifname, IpNet::V6(Ipv6Net::new(address(number), 64)?))?;
    netns.add_route(default_route(), Via::Gateway(IpAddr::V6(gateway)))?;
    Ok(Host {
        netns,
        ifname,
        address: address(number),
        prefix: Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, 0xe, number, 0, 0, 0, 0), 64)?,
        gateway,
        gateway_ifname: other_ifname.clone(),
        tap_ifname: other_ifname,
    })
}

/// A cable without a tunnel. Fields are dropped in order: what runs first, where it runs last.
struct Bare {
    server: Server,
    hosts: Hosts,
}

impl Bare {
    fn new(tag: &str) -> Result<Self> {
        let hosts = Hosts::new(tag)?;
        Ok(Self { server: Server::start(&hosts.right, hosts.right.address)?, hosts })
    }
}

/// A cable with a controller at both ends.
struct Tunnel {
    server: Server,
    _controllers: [Controller; 2],
    hosts: Hosts,
}

impl Tunnel {
    fn new(mode: &str) -> Result<Self> {
        let hosts = Hosts::new(mode)?;
        let session = Session { period: "3s".to_owned(), ..Session::new(mode)? };
        let (left, right) = (End::new(0, &hosts.left), End::new(1, &hosts.right));
        let start = |host: &Host, local: &End, remote: &End| {
            Setup::new(host, local, Delivery::Routed)?.with_peer(&session, remote).start(&host.netns)
        };
        let controllers = [start(&hosts.left, &left, &right)?, start(&hosts.right, &right, &left)?];
        hosts.left.netns.wait_reachable(IpAddr::V6(right.v6), PATIENCE)?;
        Ok(Self { server: Server::start(&hosts.right, right.v6)?, _controllers: controllers, hosts })
    }
}

/// A running iperf3 server.
struct Server {
    _process: Running,
    address: Ipv6Addr,
}

impl Server {
    fn start(host: &Host, address: Ipv6Addr) -> Result<Self> {
        let mut command = host.netns.command("iperf3")?;
        command.args(["--server", "--forceflush", "--bind", &address.to_string(), "--port", PORT]);
        let mut process = Running::spawn("iperf3", command)?;
        process.wait_for_line("Server listening", PATIENCE)?;
        Ok(Self { _process: process, address })
    }

    /// Gbit/s that arrive of one TCP connection from `client`.
    fn transfer(&self, client: &Host) -> Result<f64> {
        let mut command = client.netns.command("iperf3")?;
        command.args(["--client", &self.address.to_string(), "--port", PORT, "--json"]);
        let output = command.args(["--time", SECONDS, "--omit", WARM_UP]).output();
        let output = output.context("could not start iperf3: `cargo xtask setup` installs it")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
        ensure!(output.status.success(), "iperf3 failed: {}", report["error"]);
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 says nothing of what was received")? / 1e9)
    }
}
