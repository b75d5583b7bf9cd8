//! Interfaces that are no Ethernet card of their own: ports, bridges, virtual ones of containers.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd_tests::controller::{End, Session, Setup, mtd_program};
use mtd_tests::link::{Via, interface_name};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Delivery, Host, Topology, TopologyOptions};

use super::{PATIENCE, Pair, Switch};

/// Two hosts on a switch; `dress` puts another interface in place of the first one's.
fn dressed(dress: impl FnOnce(&Netns, &str) -> Result<String>) -> Result<()> {
    mtd_tests::require_root();
    let mut switch = Switch::new()?;
    let [near, far] = &mut switch.hosts;
    let (address, prefix) = (format!("{}/64", near.address), IpNet::V6(far.prefix));
    near.netns.run(&["-6", "route", "del", &prefix.to_string(), "dev", &near.ifname])?;
    near.netns.run(&["addr", "del", &address, "dev", &near.ifname])?;
    let dressed = dress(&near.netns, &near.ifname)?;
    near.netns.set_up(&dressed)?;
    near.netns.add_address(&dressed, IpNet::V6(Ipv6Net::new(near.address, 64)?))?;
    near.netns.add_route(prefix, Via::Interface(&dressed))?;
    near.ifname = dressed;
    near.netns.wait_usable(&near.ifname, PATIENCE)?;
    near.netns.wait_reachable(IpAddr::V6(far.address), PATIENCE)?;
    let pair = Pair::start(near, far, false, "auto")?;
    pair.require_steady(&near.netns, &far.netns)
}

#[test]
fn a_macvlan_interface_works() -> Result<()> {
    dressed(|netns, below| {
        let name = interface_name("mv")?;
        netns.run(&["link", "add", "link", below, "name", &name, "type", "macvlan", "mode", "bridge"])?;
        Ok(name)
    })
}

#[test]
fn a_bridge_works_as_the_interface() -> Result<()> {
    dressed(|netns, below| netns.add_bridge("up", &[below]))
}

/// Its frames are the bridge's, and so are the host's addresses.
#[test]
fn a_port_of_a_bridge_is_refused_with_the_name_of_the_bridge() -> Result<()> {
    mtd_tests::require_root();
    let topology = Topology::standard(&TopologyOptions::default())?;
    let Host { netns, ifname, .. } = &topology.client;
    let bridge = netns.add_bridge("up", &[ifname])?;
    let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
    let setup =
        Setup::new(&topology.client, &near, Delivery::OnLink)?.with_peer(&Session::new("encrypt")?, &far);
    let config = setup.write()?;
    for command in ["check", "run"] {
        let output = netns.command(mtd_program()?)?.arg(command).arg("-c").arg(&config).output()?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() == (command == "check"), "mtd {command}: {output:?}");
        ensure!(said.contains(&format!("set interface = \"{bridge}\"")), "mtd {command}: {said}");
    }
    let links = netns.run(&["link"])?;
    ensure!(!links.contains("mtd0"), "something was left: {links}");
    Ok(())
}
