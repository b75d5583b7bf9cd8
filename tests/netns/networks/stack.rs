//! Hosts whose network stack is set up in unusual ways: settings of the kernel, routing tables.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::{Controller, End, Session, Setup, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Delivery, Host, Topology, TopologyOptions};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client and a server with a static session.
struct Pair {
    client: Setup,
    server: Setup,
    ends: [End; 2],
    topology: Topology,
}

impl Pair {
    fn new() -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(&TopologyOptions::default())?;
        let ends = [End::new(1, &topology.client), End::new(2, &topology.server)];
        let session = Session::new("encrypt")?;
        let setup = |host: &Host, near, far| {
            Ok::<_, anyhow::Error>(Setup::new(host, near, Delivery::Routed)?.with_peer(&session, far))
        };
        let client = setup(&topology.client, &ends[0], &ends[1])?;
        let server = setup(&topology.server, &ends[1], &ends[0])?;
        Ok(Self { client, server, ends, topology })
    }

    fn netns(&self) -> &Netns {
        &self.topology.client.netns
    }

    fn ifname(&self) -> &str {
        &self.topology.client.ifname
    }

    /// Runs `ip ARGUMENTS` on the client.
    fn ip(&self, arguments: &[&str]) -> Result<()> {
        self.netns().run(arguments).map(drop)
    }

    fn start(&self) -> Result<[Controller; 2]> {
        Ok([self.server.start(&self.topology.server.netns)?, self.client.start(self.netns())?])
    }

    /// Starts both, and requires that each reaches the other in both IP versions.
    fn require_works(&self) -> Result<()> {
        let controllers = self.start()?;
        let [near, far] = &self.ends;
        let (client, server) = (self.netns(), &self.topology.server.netns);
        let reach = |from: &Netns, to: [IpAddr; 2]| {
            to.into_iter().try_for_each(|address| from.wait_reachable(address, PATIENCE))
        };
        reach(client, far.addresses()).and_then(|()| reach(server, near.addresses())).with_context(|| {
            controllers.iter().map(|controller| controller.process.log()).collect::<Vec<_>>().join("\n---\n")
        })?;
        for mut controller in controllers {
            controller.stop()?;
        }
        Ok(())
    }
}

#[test]
fn strict_reverse_path_filters_do_not_stop_inner_ipv4() -> Result<()> {
    let pair = Pair::new()?;
    for host in pair.topology.hosts() {
        for interface in ["all", "default", &host.ifname] {
            host.netns.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1")?;
        }
    }
    pair.require_works()
}

#[test]
fn addresses_that_are_checked_for_duplicates_with_vigour_work() -> Result<()> {
    let pair = Pair::new()?;
    for key in ["accept_dad", "dad_transmits"] {
        for interface in ["all", "default"] {
            pair.netns().set_sysctl(&format!("net/ipv6/conf/{interface}/{key}"), "2")?;
        }
    }
    pair.require_works()
}

#[test]
fn routes_that_depend_on_the_source_are_followed() -> Result<()> {
    let pair = Pair::new()?;
    let Host { gateway, ifname, prefix, .. } = &pair.topology.client;
    let (gateway, prefix) = (gateway.to_string(), prefix.to_string());
    // Nothing but the table for the protected prefix leads out.
    pair.ip(&["-6", "route", "del", "default"])?;
    pair.ip(&["-6", "route", "add", "default", "via", &gateway, "dev", ifname, "table", "100"])?;
    pair.ip(&["-6", "rule", "add", "from", &prefix, "lookup", "100"])?;
    pair.require_works()
}

#[test]
fn an_underlay_without_ipv6_is_named_by_check_and_status() -> Result<()> {
    let pair = Pair::new()?;
    let key = format!("net/ipv6/conf/{}/disable_ipv6", pair.ifname());
    pair.netns().set_sysctl(&key, "1")?;
    let remedy = format!("sysctl -w {key}=0");
    let check = |pair: &Pair| -> Result<String> {
        let mut command: Command = pair.netns().command(mtd_program()?)?;
        let output = command.arg("check").arg("-c").arg(pair.client.write()?).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = check(&pair)?;
    ensure!(text.contains(&remedy), "{text}");
    let [_server, client] = pair.start()?;
    let log = client.process.log();
    ensure!(log.contains(&remedy), "{log}");
    let status = client.status(pair.netns())?;
    let warning = status.warnings.iter().find(|warning| warning.code == "ipv6_disabled");
    ensure!(warning.is_some_and(|warning| warning.text.contains(&remedy)), "{:?}", status.warnings);

    // What is said there helps, while the controller runs. The routes have gone with the addresses.
    pair.netns().set_sysctl(&key, "0")?;
    let Host { address, gateway, ifname, .. } = &pair.topology.client;
    pair.ip(&["-6", "address", "add", &format!("{address}/64"), "dev", ifname, "nodad"])?;
    pair.ip(&["-6", "route", "replace", "default", "via", &gateway.to_string(), "dev", ifname])?;
    let [_, far] = &pair.ends;
    far.addresses().into_iter().try_for_each(|address| pair.netns().wait_reachable(address, PATIENCE))?;
    ensure!(!check(&pair)?.contains("sysctl"));
    Ok(())
}
