//! Paths with a smaller MTU than the interface: reports of routers are obeyed, and expire.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::netns::Netns;
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{TcpFlow, TcpOptions};
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Role, World};

/// A narrow path's MTU, and the longest inner packet that fits.
const NARROW: u32 = 1400;
const NARROW_INSIDE: u32 = NARROW - 72;
/// The links' MTU, and the longest inner packet that fits.
const WIDE: u32 = 1500;
const WIDE_INSIDE: u32 = 1428;

/// Headers of TCP with time stamps in IPv6, and in IPv4.
const SEGMENT_HEADERS: [u32; 2] = [40 + 32, 20 + 32];

/// How long a router's report is believed in these tests.
const EXPIRES: Duration = Duration::from_secs(5);

const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn world() -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    for role in ROLES {
        world.setup_mut(role).extra = format!("mtu_expires = \"{}s\"\n", EXPIRES.as_secs());
    }
    world.start_all()?;
    world.wait_open()?;
    Ok(world)
}

fn set_paths(world: &World, mtu: u32) -> Result<()> {
    let topology = world.topology();
    [&topology.client, &topology.server].into_iter().try_for_each(|host| topology.set_path_mtu(host, mtu))
}

/// Waits until all connections through the tunnel have segments of these lengths, over IPv6 and over IPv4.
fn wait_segments(world: &World, lengths: [u32; 2]) -> Result<()> {
    wait_until("the lengths of segments", PATIENCE, || {
        let output =
            world.netns(Role::Client).command("ss")?.args(["-Htin", "state", "established"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(lengths.iter().all(|length| text.contains(&format!(" mss:{length} "))))
    })
}

/// Whether an inner packet of `length` bytes, which must not be fragmented, reaches the other end and comes back.
fn carries(world: &World, from: Role, to: Role, length: u32) -> Result<bool> {
    world.netns(from).carries(world.end(to).v6.into(), length)
}

/// Number of fragments of IPv6 packets that a router has made.
fn fragments(netns: &Netns) -> Result<u64> {
    let output = netns.command("cat")?.arg("/proc/net/snmp6").output()?;
    let text = String::from_utf8(output.stdout)?;
    let made = text.lines().find_map(|line| line.strip_prefix("Ip6FragCreates"));
    made.context("no count of fragments")?.trim().parse().context("a count")
}

fn path_mtu(world: &World, role: Role) -> Result<Option<u32>> {
    Ok(world.peer(role)?.path_mtu)
}

#[test]
fn a_path_that_narrows_is_followed_and_tried_again_later() -> Result<()> {
    alone("the kernel fragments segments that wait in a queue, built before the path narrowed")?;
    let world = world()?;
    let router = &world.topology().router;
    assert!(carries(&world, Role::Client, Role::Server, WIDE_INSIDE)?);
    // Whether TCP's segments are full depends on the moment, so long echo requests make sure that the path is narrowed.
    let flow = |inner: Inner| {
        let options =
            TcpOptions { bytes_per_second: 4 << 20, ..TcpOptions::to(world.address(Role::Server, inner)) };
        TcpFlow::start(world.netns(Role::Client), world.netns(Role::Server), &options)
    };
    let flows = [flow(Inner::V6)?, flow(Inner::V4)?];
    wait_segments(&world, SEGMENT_HEADERS.map(|headers| WIDE_INSIDE - headers))?;
    set_paths(&world, NARROW)?;
    for (role, other) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        // It may have narrowed before, by a segment or a probe; until the routes follow, the echo is cut.
        let carried = carries(&world, role, other, WIDE_INSIDE)?;
        ensure!(!carried || path_mtu(&world, role)?.is_some(), "more than the router carries");
        wait_until("the path's MTU", PATIENCE, || Ok(path_mtu(&world, role)? == Some(NARROW)))
            .with_context(|| world.explain())?;
        let status = world.status(role)?;
        ensure!(status.paths.narrow == 1 && status.paths.too_small == 0, "{:?}", status.paths);
        ensure!(status.frames.too_big > 0 && status.mtu == WIDE_INSIDE, "{status:?}");
        let text = world.status_text(role)?;
        ensure!(text.contains("carries packets of up to 1400 B"), "{text}");
        wait_until("a narrow route", PATIENCE, || {
            let routes = world.netns(role).run(&["-6", "route", "show", "dev", "mtd0"])?;
            Ok(routes.contains(&format!("mtu {NARROW_INSIDE}")))
        })?;
        let routes = world.netns(role).run(&["-4", "route", "show", "dev", "mtd0"])?;
        ensure!(routes.contains(&format!("mtu {NARROW_INSIDE}")), "IPv4: {routes}");
    }
    wait_segments(&world, SEGMENT_HEADERS.map(|headers| NARROW_INSIDE - headers))?;
    thread::sleep(Duration::from_secs(1));
    for flow in flows {
        let report = flow.stop();
        println!("across a path that narrows: {report:?}");
        ensure!(report.broken.is_none() && report.is_complete() && report.bytes() > 0, "{report:?}");
    }
    assert!(carries(&world, Role::Client, Role::Server, NARROW_INSIDE)?);
    assert!(!carries(&world, Role::Client, Role::Server, NARROW_INSIDE + 1)?, "the kernel knows better");

    set_paths(&world, WIDE)?;
    for role in ROLES {
        wait_until("the path to be tried again", PATIENCE, || Ok(path_mtu(&world, role)?.is_none()))?;
    }
    wait_until("long packets again", PATIENCE, || carries(&world, Role::Client, Role::Server, WIDE_INSIDE))?;
    for role in ROLES {
        wait_until("wide routes", PATIENCE, || {
            Ok(!world.netns(role).run(&["route", "show", "dev", "mtd0"])?.contains("mtu"))
        })?;
    }
    // A host may have: one whose route is narrow already answers a long echo request, which came in two parts, in fragments.
    ensure!(fragments(router)? == 0, "the router has fragmented");
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn a_path_narrower_than_ipv6_needs_inside_is_used_as_routers_say() -> Result<()> {
    let world = world()?;
    set_paths(&world, 1300)?;
    for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        carries(&world, from, to, WIDE_INSIDE)?;
        wait_until("the path's MTU", PATIENCE, || Ok(path_mtu(&world, from)? == Some(1300)))?;
    }
    let status = world.status(Role::Client)?;
    ensure!(status.paths.narrow == 1 && status.paths.too_small == 0, "{:?}", status.paths);
    ensure!(!status.warnings.iter().any(|warning| warning.code == "path_too_small"), "{:?}", status.warnings);
    let mtu = |family: &str| world.netns(Role::Client).run(&[family, "route", "show", "dev", "mtd0"]);
    wait_until("narrow routes", PATIENCE, || {
        Ok(mtu("-6")?.contains("mtu 1280") && mtu("-4")?.contains("mtu 1228"))
    })?;
    // What fits goes on, and what IPv6 has to carry is cut.
    assert!(carries(&world, Role::Client, Role::Server, 1300 - 72)?);
    assert!(carries(&world, Role::Client, Role::Server, 1280)?);
    ensure!(world.status(Role::Client)?.frames.cut > 0, "nothing was cut");
    Ok(())
}

#[test]
fn the_tunnels_mtu_follows_the_underlays() -> Result<()> {
    let world = world()?;
    let set = |mtu: u32| -> Result<()> {
        let (host, router) = (world.host(Role::Client), &world.topology().router);
        host.netns.run(&["link", "set", &host.ifname, "mtu", &mtu.to_string()])?;
        router.run(&["link", "set", &host.tap_ifname, "mtu", &mtu.to_string()])?;
        Ok(())
    };
    let mtu = || -> Result<String> { world.netns(Role::Client).run(&["link", "show", "mtd0"]) };
    for (underlay, inside) in
        [(NARROW, NARROW_INSIDE), (WIDE, WIDE_INSIDE), (2000, WIDE_INSIDE), (WIDE, WIDE_INSIDE)]
    {
        set(underlay)?;
        wait_until("the tunnel's MTU", PATIENCE, || Ok(mtu()?.contains(&format!("mtu {inside} "))))
            .with_context(|| world.explain())?;
        ensure!(world.status(Role::Client)?.mtu == inside);
        wait_until("long packets", PATIENCE, || carries(&world, Role::Client, Role::Server, inside))?;
    }
    // The path is too narrow for IPv6 inside: the MTU becomes the least possible, and there is a warning.
    set(1300)?;
    wait_until("the least MTU", PATIENCE, || Ok(mtu()?.contains("mtu 1280 ")))?;
    let warnings = world.status(Role::Client)?.warnings;
    ensure!(warnings.iter().any(|warning| warning.code == "mtu_too_small"), "{warnings:?}");
    Ok(())
}
