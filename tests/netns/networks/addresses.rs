//! Where a client's prefix comes from, and what happens when it changes.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd::status::SessionState;
use mtd_tests::advertisement::{Advertised, advertise};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use crate::rendezvous::world::{Inner, Who, World, quoted};

const PATIENCE: Duration = Duration::from_secs(20);

/// The prefix of the client's link, and the one that it is renumbered to.
const OLD: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0), 64);
const NEW: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0), 64);

/// A router that is a default router for half an hour.
const LIFETIME: u16 = 1800;

/// The client's link, on which the router tells hosts their prefixes.
struct Link {
    world: World,
}

impl Link {
    /// A network in which the client takes its prefix from the interface; it has no global address yet.
    fn new() -> Result<Self> {
        let mut world = World::new(&TopologyOptions::default())?;
        let member = world.setup_mut(Who::Alice);
        member.shared_prefix = true;
        member.keys.insert("keepalive", quoted("2s"));
        let link = Self { world };
        let host = link.world.host(Who::Alice);
        link.ip(&["-6", "route", "del", "default"])?;
        link.ip(&["-6", "address", "del", &format!("{}/64", host.address), "dev", &host.ifname])?;
        let key = |key| format!("net/ipv6/conf/{}/{key}", host.ifname);
        host.netns.set_sysctl(&key("accept_ra"), "2")?;
        host.netns.set_sysctl(&key("autoconf"), "1")?;
        let router = link.world.router();
        router.add_address(&host.gateway_ifname, IpNet::new_assert(first(NEW).into(), 64))?;
        Ok(link)
    }

    /// Runs `ip ARGUMENTS` on the client.
    fn ip(&self, arguments: &[&str]) -> Result<()> {
        self.world.netns(Who::Alice).run(arguments).map(drop)
    }

    /// Advertises these prefixes on the client's link.
    fn advertise(&self, prefixes: &[Advertised]) -> Result<()> {
        advertise(self.world.router(), &self.world.host(Who::Alice).gateway_ifname, LIFETIME, prefixes)
    }

    /// What the client says of its session.
    fn hint(&self) -> Result<String> {
        Ok(self.world.session(Who::Alice)?.hint.unwrap_or_default())
    }

    /// Waits until the client says that it has no session, with all of this in its explanation.
    fn wait_hint(&self, parts: &[&str]) -> Result<()> {
        wait_until("the client to say what is wrong", PATIENCE, || {
            let session = self.world.session(Who::Alice)?;
            let hint = session.hint.unwrap_or_default();
            Ok(session.state == SessionState::Finding && parts.iter().all(|part| hint.contains(part)))
        })
        .with_context(|| format!("{parts:?} in {:?}", self.hint()))
    }

    /// Waits until the client's session stands in this prefix, for both ends.
    fn wait_in(&self, prefix: Ipv6Net) -> Result<()> {
        wait_until(&format!("a session in {prefix}"), PATIENCE, || self.is_in(prefix))
            .with_context(|| self.world.explain())
    }

    fn is_in(&self, prefix: Ipv6Net) -> Result<bool> {
        let sessions = self.world.sessions_with(Who::Alice)?;
        let local = self.world.session(Who::Alice)?.local;
        let here = local.is_some_and(|local| prefix.contains(&local.address));
        Ok(here
            && self.world.is_open(Who::Alice)?
            && sessions.iter().any(|session| session.prefix == Some(prefix.into())))
    }

    /// Starts server and client, and waits until the session stands in the old prefix.
    fn open_in_old(&mut self) -> Result<()> {
        self.world.start_all()?;
        self.wait_in(OLD)?;
        self.world.wait_open(Who::Alice)
    }
}

/// The router's address in a prefix.
fn first(net: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(net.addr().to_bits() | 1)
}

fn deprecated(net: Ipv6Net) -> Advertised {
    Advertised { preferred: 0, ..Advertised::new(net) }
}

#[test]
fn a_client_whose_address_is_from_dhcpv6_takes_its_prefix_from_the_link() -> Result<()> {
    let mut link = Link::new()?;
    link.world.start_all()?;
    link.wait_hint(&["no global IPv6 address", "ip -6 address show dev"])?;
    // DHCPv6 gives the address, and nothing says what is on the link: its ports alone can move.
    let host = link.world.host(Who::Alice);
    let (alone, ifname) = (Ipv6Net::new_assert(host.address, 128), host.ifname.clone());
    link.advertise(&[])?;
    link.ip(&["-6", "address", "add", &alone.to_string(), "dev", &ifname])?;
    link.wait_in(alone)?;
    link.world.wait_open(Who::Alice)?;
    require_moving_ports(&link)?;
    // Managed: the prefix is on the link.
    let managed = Advertised { autonomous: false, ..Advertised::new(OLD) };
    link.advertise(&[managed])?;
    link.wait_in(OLD)?;
    link.world.wait_open(Who::Alice)?;
    // The router takes it back: nothing but the one address is known to be on the link.
    link.advertise(&[Advertised { valid: 0, preferred: 0, ..managed }])?;
    link.wait_in(alone)?;
    link.ip(&["-6", "route", "add", &OLD.to_string(), "dev", &ifname])?;
    link.wait_in(OLD)
}

/// That traffic of a client with a single address crosses slots without a loss, from other ports each time, and that the
/// client says so.
fn require_moving_ports(link: &Link) -> Result<()> {
    let load = link.world.load(Who::Alice, Inner::V4)?;
    let mut ends = BTreeSet::new();
    wait_until("four slots", PATIENCE, || {
        let local = link.world.session(Who::Alice)?.local.context("no session")?;
        ends.insert((local.address, local.port));
        Ok(ends.len() >= 4)
    })?;
    let addresses: BTreeSet<_> = ends.iter().map(|(address, _)| address).collect();
    ensure!(addresses.len() == 1, "only ports move: {ends:?}");
    load.stop()?.require_lossless().with_context(|| link.world.explain())?;
    let status = link.world.mtd(Who::Alice, &["status"])?;
    ensure!(status.contains("a single address: ports alone move"), "{status}");
    // The kernel has the address too, and answers strangers as ever.
    let host = link.world.host(Who::Alice);
    ensure!(link.world.router().carries(host.address.into(), 100)?, "the router's ping is not answered");
    Ok(())
}

#[test]
fn a_client_whose_network_is_renumbered_moves_at_once_and_loses_nothing() -> Result<()> {
    let mut link = Link::new()?;
    link.advertise(&[Advertised::new(OLD)])?;
    link.open_in_old()?;
    let load = link.world.load(Who::Alice, Inner::V6)?;
    let (packets, _) = load.arrived_at_client();
    wait_until("traffic", PATIENCE, || Ok(load.arrived_at_client().0 > packets + 1000))?;

    // As RFC 4192 has it: both at first, then the old one only for what is there already.
    link.advertise(&[Advertised::new(OLD), Advertised::new(NEW)])?;
    thread::sleep(Duration::from_secs(1));
    ensure!(link.is_in(OLD)?, "an equal prefix is no reason to move: {}", link.world.explain());
    let moved = Instant::now();
    link.advertise(&[deprecated(OLD), Advertised::new(NEW)])?;
    link.wait_in(NEW)?;
    println!("open in the new prefix {:.2?} after the old one was deprecated", moved.elapsed());
    thread::sleep(Duration::from_secs(3));

    // The old one goes for good.
    let host = link.world.host(Who::Alice);
    let flush = ["-6", "address", "flush", "dev", &host.ifname, "to", &OLD.to_string()];
    link.ip(&flush)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(link.is_in(NEW)?, "{}", link.world.explain());
    let prefixes = link.world.status(Who::Alice)?.prefixes;
    ensure!(prefixes == [IpNet::from(NEW)], "the old prefix is still used: {prefixes:?}");
    let report = load.stop()?;
    println!("over the move: {report}");
    report.require_lossless().with_context(|| link.world.explain())
}

#[test]
fn a_client_stays_in_a_deprecated_prefix_where_the_new_one_carries_nothing() -> Result<()> {
    let mut link = Link::new()?;
    link.advertise(&[Advertised::new(OLD)])?;
    link.open_in_old()?;
    let load = link.world.load(Who::Alice, Inner::V4)?;
    // A provider that filters what does not come from its own prefix: nothing from the new one gets far.
    let router = link.world.router();
    let unreachable = ["-6", "rule", "add", "from", &NEW.to_string(), "blackhole"];
    router.run(&unreachable)?;
    link.advertise(&[deprecated(OLD), Advertised::new(NEW)])?;
    thread::sleep(Duration::from_secs(6));
    ensure!(link.is_in(OLD)?, "{}", link.world.explain());
    // Then the new one works, and is found without anybody's help.
    router.run(&["-6", "rule", "del", "from", &NEW.to_string(), "blackhole"])?;
    link.wait_in(NEW)?;
    load.stop()?.require_lossless().with_context(|| link.world.explain())
}

#[test]
fn a_client_with_two_routers_uses_the_one_that_answers() -> Result<()> {
    let mut link = Link::new()?;
    let router = link.world.router();
    router.run(&["-6", "rule", "add", "from", &OLD.to_string(), "blackhole"])?;
    link.advertise(&[Advertised::new(OLD), Advertised::new(NEW)])?;
    let host = link.world.host(Who::Alice);
    // The old one is looked at first.
    link.ip(&["-6", "address", "add", "2001:db8:c::2/64", "dev", &host.ifname, "nodad"])?;
    wait_until("addresses in both", PATIENCE, || {
        let shown = link.world.netns(Who::Alice).run(&["-6", "address", "show", "dev", &host.ifname])?;
        Ok(shown.contains("2001:db8:c:") && shown.contains("2001:db8:e:"))
    })?;
    link.world.start_all()?;
    wait_until("a session in the prefix that works", Duration::from_secs(40), || link.is_in(NEW))
        .with_context(|| link.world.explain())
}

#[test]
fn a_prefix_that_comes_and_goes_each_second_is_not_followed() -> Result<()> {
    let mut link = Link::new()?;
    // Both deprecated: that is no reason to have no session.
    link.advertise(&[deprecated(OLD)])?;
    link.open_in_old()?;
    let load = link.world.load(Who::Alice, Inner::V6)?;
    let answered = link.world.handshakes()?.answered;
    let host = link.world.host(Who::Alice);
    let (address, ifname) =
        (format!("{}/64", Ipv6Addr::from_bits(first(NEW).to_bits() + 6)), host.ifname.clone());
    for n in 0..14 {
        let action = if n % 2 == 0 { "add" } else { "del" };
        link.ip(&["-6", "address", action, &address, "dev", &ifname])?;
        thread::sleep(Duration::from_millis(700));
    }
    ensure!(link.is_in(OLD)?, "{}", link.world.explain());
    let rekeys = 3;
    let moves = link.world.handshakes()?.answered - answered;
    ensure!(moves <= 6 + rekeys, "{moves} handshakes: {}", link.world.explain());
    load.stop()?.require_unbroken().with_context(|| link.world.explain())
}
