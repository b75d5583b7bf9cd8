//! Links on which packets come by neighbour discovery: cables that end in a container, switches that snoop MLD.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::link::{Veth, Via};
use mtd_tests::netns::Netns;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN};
use mtd_tests::topology::{Delivery, Host, Topology, TopologyOptions};
use mtd_tests::wait_until;

mod interfaces;

const PATIENCE: Duration = Duration::from_secs(20);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Two controllers with a session, slots of a second.
struct Pair {
    near: Controller,
    far: Controller,
    far_end: End,
    _setups: [Setup; 2],
}

impl Pair {
    fn start(near: &Host, far: &Host, shared: bool, xdp: &str) -> Result<Self> {
        let (near_end, far_end) = (End::new(1, near), End::new(2, far));
        let session = Session::new("encrypt")?;
        let setup = |host, own: &End, other: &End| -> Result<Setup> {
            let line = format!("xdp = {xdp:?}");
            let mut setup =
                Setup::new(host, own, Delivery::OnLink)?.with_line(&line).with_peer(&session, other);
            setup.shared = shared;
            Ok(setup)
        };
        let setups = [setup(near, &near_end, &far_end)?, setup(far, &far_end, &near_end)?];
        let far = setups[1].start(&far.netns)?;
        Ok(Self { near: setups[0].start(&near.netns)?, far, far_end, _setups: setups })
    }

    /// Waits until packets pass; then, none may be lost over some slots.
    fn require_steady(&self, near: &Netns, far: &Netns) -> Result<()> {
        let address = IpAddr::V6(self.far_end.v6);
        let explain = || format!("{:#?}\n{:#?}", self.near.status(near), self.far.status(far));
        near.wait_reachable(address, PATIENCE).with_context(explain)?;
        let report = near.ping(address, 15)?;
        ensure!(report.received == report.sent, "{report:?}\n{}", explain());
        Ok(())
    }
}

/// ICMPv6 type of a frame, whether it went to a group, and its target.
fn neighbour_message(frame: &Frame) -> Option<(u8, bool, Ipv6Addr)> {
    let message = frame.data.get(ETHERNET_LEN + IPV6_LEN..)?;
    let known = matches!(message.first()?, &(SOLICITATION | ADVERTISEMENT));
    let icmp = frame.data.get(12..14)? == [0x86, 0xdd] && frame.data.get(ETHERNET_LEN + 6)? == &58;
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    (known && icmp).then(|| (message[0], frame.data[0] & 1 == 1, target.into()))
}

/// How often there was a solicitation for an address of the prefix, by multicast, on the way to the host.
fn asked_by_multicast(frames: &[Frame], prefix: Ipv6Net) -> usize {
    let asked = |frame: &&Frame| {
        neighbour_message(frame).is_some_and(|(kind, multicast, target)| {
            frame.outgoing && kind == SOLICITATION && multicast && prefix.contains(&target)
        })
    };
    frames.iter().filter(asked).count()
}

/// A host's link as a home or a container has it: the prefix is that of the link, with the router and others in it.
fn share(host: &mut Host) -> Result<()> {
    host.prefix = Ipv6Net::new(host.address, 64)?.trunc();
    Ok(())
}

/// Waits until the bridge before a host snoops: what `asker` asks for addresses that nobody has does not reach the host any
/// more.
fn wait_for_snooping(switch: &Netns, host: &Host, asker: &Netns) -> Result<()> {
    let mut nobody = host.address.segments();
    wait_until("the switch to snoop", PATIENCE, || {
        // Another one each time, so that the kernel asks.
        nobody[7] += 0x100;
        let tap = Capture::start(switch, &host.tap_ifname, &CaptureOptions::default())?;
        asker.ping(IpAddr::V6(nobody.into()), 1)?;
        let link = Ipv6Net::new(host.address, 64)?.trunc();
        Ok(asked_by_multicast(&tap.stop()?.frames, link) == 0)
    })
}

fn steady(shared: bool, xdp: &str, snooping: bool) -> Result<()> {
    mtd_tests::require_root();
    let options = TopologyOptions { delivery: Delivery::OnLink, ..TopologyOptions::default() };
    let mut topology = Topology::standard(&options)?;
    if shared {
        share(&mut topology.client)?;
        share(&mut topology.server)?;
    }
    if snooping {
        topology.router.snoop(&topology.server.gateway_ifname)?;
        wait_for_snooping(&topology.router, &topology.server, &topology.router)?;
    }
    let (client, server) = (&topology.client, &topology.server);
    let tap = Capture::start(&topology.router, &server.tap_ifname, &CaptureOptions::default())?;
    let pair = Pair::start(client, server, shared, xdp)?;
    pair.require_steady(&client.netns, &server.netns)?;
    if !snooping {
        // A router that was never told of an address, or has forgotten it, asks.
        topology.router.run(&["neigh", "flush", "dev", &server.gateway_ifname])?;
        pair.require_steady(&client.netns, &server.netns)?;
    }
    let status = pair.far.status(&server.netns)?;
    let frames = tap.stop()?.frames;
    let advertised = frames.iter().filter(|frame| {
        let found = neighbour_message(frame);
        !frame.outgoing
            && found.is_some_and(|(kind, _, target)| {
                kind == ADVERTISEMENT && server.prefix.contains(&target) && target != server.address
            })
    });
    // Counted is what was on the cable, but for what came between the two.
    let (counted, advertised) = (status.frames.neighbour_answered, advertised.count() as u64);
    ensure!(counted.abs_diff(advertised) <= 2, "counted {counted} answers, {advertised} on the cable");
    let asked = asked_by_multicast(&frames, server.prefix);
    ensure!(snooping == (asked == 0), "{asked} solicitations came by multicast");
    ensure!(snooping || counted > 0, "nobody was answered");
    ensure!(status.xdp == xdp, "{} XDP", status.xdp);
    let neighbours = status.neighbours.context("no report on neighbours")?;
    ensure!(neighbours.routers == [server.gateway] && neighbours.announced > 0, "{neighbours:?}");
    Ok(())
}

#[test]
fn a_container_without_xdp_at_the_far_end_of_its_cable_works_on_link() -> Result<()> {
    steady(false, "native", false)
}

#[test]
fn a_container_works_in_a_shared_prefix_with_generic_xdp() -> Result<()> {
    steady(true, "generic", false)
}

#[test]
fn behind_a_switch_that_snoops_on_link_addresses_are_found() -> Result<()> {
    steady(false, "native", true)
}

#[test]
fn behind_a_switch_that_snoops_shared_addresses_are_found() -> Result<()> {
    steady(true, "native", true)
}

#[test]
fn behind_a_switch_that_snoops_generic_xdp_works() -> Result<()> {
    steady(true, "generic", true)
}

/// Announced some seconds ahead: a controller that is away for a moment is not missed.
#[test]
fn behind_a_switch_that_snoops_a_killed_controller_is_not_missed_for_some_seconds() -> Result<()> {
    mtd_tests::require_root();
    let options = TopologyOptions { delivery: Delivery::OnLink, ..TopologyOptions::default() };
    let topology = Topology::standard(&options)?;
    topology.router.snoop(&topology.server.gateway_ifname)?;
    wait_for_snooping(&topology.router, &topology.server, &topology.router)?;
    let (client, server) = (&topology.client, &topology.server);
    let mut pair = Pair::start(client, server, false, "auto")?;
    pair.require_steady(&client.netns, &server.netns)?;
    pair.far.process.kill()?;
    let killed = Instant::now();
    let report = client.netns.ping(IpAddr::V6(pair.far_end.v6), 18)?;
    ensure!(killed.elapsed() > Duration::from_secs(3), "too fast to show anything");
    ensure!(report.received == report.sent, "{report:?} without a controller");
    Ok(())
}

/// A switch with two hosts on it, which find each other without a router.
struct Switch {
    hosts: [Host; 2],
    netns: Netns,
    bridge: String,
}

impl Switch {
    fn new() -> Result<Self> {
        let netns = Netns::new("switch")?;
        let mut hosts = Vec::new();
        for number in [1, 2] {
            let host = Netns::new("host")?;
            let cable = Veth::connect((&host, "h"), (&netns, "p"), 1500)?;
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, number);
            host.set_up(&cable.left)?;
            host.add_address(&cable.left, IpNet::V6(Ipv6Net::new(address, 64)?))?;
            let prefix = Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0x100 + number, 0, 0, 0, 0), 64)?;
            hosts.push(Host {
                netns: host,
                ifname: cable.left,
                address,
                prefix,
                gateway: Ipv6Addr::UNSPECIFIED,
                gateway_ifname: cable.right.clone(),
                tap_ifname: cable.right,
            });
        }
        let hosts: [Host; 2] = hosts.try_into().ok().context("two hosts")?;
        for (own, other) in [(0, 1), (1, 0)] {
            let prefix = IpNet::V6(hosts[other].prefix);
            hosts[own].netns.add_route(prefix, Via::Interface(&hosts[own].ifname))?;
        }
        let ports = hosts.each_ref().map(|host| host.tap_ifname.as_str());
        let bridge = netns.add_bridge("sw", &ports)?;
        for host in &hosts {
            host.netns.wait_usable(&host.ifname, PATIENCE)?;
            netns.wait_usable(&host.tap_ifname, PATIENCE)?;
        }
        hosts[0].netns.wait_reachable(IpAddr::V6(hosts[1].address), PATIENCE)?;
        Ok(Self { hosts, netns, bridge })
    }
}

#[test]
fn peers_on_one_switch_that_snoops_find_each_other() -> Result<()> {
    mtd_tests::require_root();
    let switch = Switch::new()?;
    switch.netns.snoop(&switch.bridge)?;
    let [near, far] = &switch.hosts;
    wait_for_snooping(&switch.netns, far, &near.netns)?;
    let pair = Pair::start(near, far, false, "auto")?;
    pair.require_steady(&near.netns, &far.netns)?;
    let neighbours = pair.far.status(&far.netns)?.neighbours.context("no report on neighbours")?;
    ensure!(neighbours.groups > 0 && neighbours.routers.is_empty(), "{neighbours:?}");
    Ok(())
}
