//! Paths on which a router drops long packets and says nothing: what they carry is found by probes inside the session, used,
//! and tried again later.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ipnet::IpNet;
use mtd::status::PathSource;
use mtd_tests::link::{Veth, Via, default_route, default_route_v4};
use mtd_tests::netns::Netns;
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use crate::rendezvous::world::{self as rendezvous, Who};
use crate::sessions::world::{Inner, Role, World};

/// For how long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// After this time TCP inside has to work again. (The aim of issue 12, part C.)
const AIM: Duration = Duration::from_secs(5);

/// Headers of mtd and those outside of it.
const OVERHEAD: u32 = 72;

/// What the links carry inside.
const WIDE_INSIDE: u32 = 1428;

const ROLES: [Role; 2] = [Role::Client, Role::Server];
const WAYS: [(Role, Role); 2] = [(Role::Client, Role::Server), (Role::Server, Role::Client)];

/// Rules of a router in front of both directions. It tells nobody what it drops.
struct Rules<'a>(&'a Netns);

impl Rules<'_> {
    fn set(&self, rules: &[&str]) -> Result<()> {
        self.clear()?;
        self.nft(&["add", "table", "ip6", "silent"])?;
        let chain = "{ type filter hook forward priority 0 ; }";
        self.nft(&["add", "chain", "ip6", "silent", "forward", chain])?;
        for rule in rules {
            let rule: Vec<_> = rule.split(' ').collect();
            self.nft(&[&["add", "rule", "ip6", "silent", "forward"], rule.as_slice(), &["drop"]].concat())?;
        }
        Ok(())
    }

    /// Drops packets of more than `mtu` bytes.
    fn narrow(&self, mtu: u32) -> Result<()> {
        // The length field of the header does not count the header.
        self.set(&[&format!("ip6 length > {}", mtu - 40)])
    }

    fn clear(&self) -> Result<()> {
        self.nft(&["add", "table", "ip6", "silent"])?;
        self.nft(&["delete", "table", "ip6", "silent"])
    }

    fn nft(&self, arguments: &[&str]) -> Result<()> {
        let output = self.0.command("nft")?.args(arguments).output()?;
        ensure!(output.status.success(), "nft {arguments:?}: {output:?}");
        Ok(())
    }
}

/// A host behind the client.
struct Lan {
    netns: Netns,
    addresses: [IpAddr; 2],
}

impl Lan {
    /// To be called before the controllers start.
    fn behind_client(world: &mut World) -> Result<Self> {
        let nets: [IpNet; 2] = ["fd00:99::/64".parse()?, "10.99.0.0/24".parse()?];
        world.setup_mut(Role::Server).peers[0].1.behind = nets.to_vec();
        let (netns, client) = (Netns::new("lan")?, world.netns(Role::Client));
        let veth = Veth::connect((&netns, "lan"), (client, "lan"), 1500)?;
        for (address, gateway, default) in [
            ("fd00:99::2/64", "fd00:99::1/64", default_route()),
            ("10.99.0.2/24", "10.99.0.1/24", default_route_v4()),
        ] {
            let gateway: IpNet = gateway.parse()?;
            netns.add_address(&veth.left, address.parse()?)?;
            client.add_address(&veth.right, gateway)?;
            netns.set_up(&veth.left)?;
            client.set_up(&veth.right)?;
            netns.add_route(default, Via::Gateway(gateway.addr()))?;
        }
        client.enable_forwarding()?;
        // Its default route is not from an advertisement, and stays.
        Ok(Self { netns, addresses: ["fd00:99::2".parse()?, "10.99.0.2".parse()?] })
    }
}

fn world(expires: &str) -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    for role in ROLES {
        world.setup_mut(role).extra = format!("mtu_expires = \"{expires}\"\n");
    }
    Ok(world)
}

fn rules(world: &World) -> Rules<'_> {
    Rules(&world.topology().router)
}

/// What is known of the path from a host to its peer.
fn path(world: &World, role: Role) -> Result<(Option<u32>, PathSource)> {
    let peer = world.peer(role)?;
    Ok((peer.path_mtu, peer.path_source))
}

fn wait_path(world: &World, expected: (Option<u32>, PathSource)) -> Result<()> {
    for role in ROLES {
        wait_until("what the path carries", PATIENCE, || Ok(path(world, role)? == expected))
            .with_context(|| format!("{:?} of {role:?}\n{}", path(world, role), world.explain()))?;
    }
    Ok(())
}

/// Whether an inner packet of `length` bytes, which must not be fragmented, gets through and back.
fn carries(from: &Netns, to: IpAddr, length: u32) -> Result<bool> {
    // It counts the headers of IPv6.
    from.carries(to, if to.is_ipv4() { length + 20 } else { length })
}

/// Whether an inner packet of `length` bytes gets through and back, in the direction of either end.
fn require_carries(world: &World, inner: Inner, length: u32) -> Result<()> {
    for (from, to) in WAYS {
        let to = world.address(to, inner);
        // Routes follow what is known within a moment.
        wait_until("long packets", PATIENCE, || carries(world.netns(from), to, length))
            .with_context(|| format!("{length} bytes from {from:?} to {to}\n{}", world.explain()))?;
    }
    Ok(())
}

/// A TCP connection through which much goes in one direction, in segments as long as TCP makes them.
struct Bulk {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<()>>,
    receiver: JoinHandle<io::Result<(u64, Duration)>>,
}

impl Bulk {
    /// About 2 MB/s, from one host to an address of another.
    fn start(from: &Netns, to: (&Netns, IpAddr)) -> Result<Self> {
        const WRITE: usize = 48 << 10;
        let listener = to.0.enter(|| TcpListener::bind((to.1, 0)))??;
        let address = listener.local_addr()?;
        let mut near = from.enter(|| TcpStream::connect_timeout(&address, PATIENCE))??;
        let mut far = listener.accept()?.0;
        far.set_read_timeout(Some(Duration::from_millis(50)))?;
        near.set_write_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let much = vec![0x5a; WRITE];
            while !stopped.load(Ordering::Relaxed) {
                near.write_all(&much)?;
                thread::sleep(Duration::from_millis(25));
            }
            Ok(())
        });
        let receiver = thread::spawn(move || {
            let mut buffer = vec![0; WRITE];
            let (mut bytes, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
            loop {
                match far.read(&mut buffer) {
                    Ok(0) => return Ok((bytes, longest)),
                    Ok(length) => {
                        bytes += length as u64;
                        last = Instant::now();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                longest = longest.max(last.elapsed());
            }
        });
        Ok(Self { stop, sender, receiver })
    }

    /// Both IP versions and both directions between the two hosts.
    fn all(world: &World) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for (from, to) in WAYS {
            for inner in [Inner::V6, Inner::V4] {
                let to = (world.netns(to), world.address(to, inner));
                all.push(Self::start(world.netns(from), to)?);
            }
        }
        Ok(all)
    }

    /// Ends the connection; returns how many bytes have arrived, and the longest time without any.
    fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a thread panicked");
        self.sender.join().map_err(panicked)?.context("the sender")?;
        self.receiver.join().map_err(panicked)?.context("the receiver")
    }
}

/// Lets much go through the tunnel for a while, and returns the longest stall.
fn require_tcp(world: &World) -> Result<Duration> {
    let all = Bulk::all(world)?;
    thread::sleep(Duration::from_secs(2));
    let mut longest = Duration::ZERO;
    for bulk in all {
        let (bytes, stall) = bulk.stop().with_context(|| world.explain())?;
        ensure!(bytes > 1 << 20, "{bytes} bytes\n{}", world.explain());
        longest = longest.max(stall);
    }
    Ok(longest)
}

/// Sends a datagram of `length` bytes from one host to another and waits for it.
fn datagram(from: (&Netns, IpAddr), to: (&Netns, IpAddr), length: usize) -> Result<bool> {
    let receiver = to.0.enter(|| UdpSocket::bind((to.1, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sender = from.0.enter(|| UdpSocket::bind((from.1, 0)))??;
    let sent: Vec<_> = (0..length).map(|n| n as u8).collect();
    sender.send_to(&sent, receiver.local_addr()?)?;
    let mut buffer = vec![0; 2 * length];
    Ok(receiver.recv(&mut buffer).is_ok_and(|received| buffer[..received] == sent))
}

#[test]
fn a_black_hole_at_the_start_is_found() -> Result<()> {
    const NARROW: u32 = 1400;
    let mut world = world("10min")?;
    rules(&world).narrow(NARROW)?;
    world.start_all()?;
    world.wait_open()?;
    wait_path(&world, (Some(NARROW), PathSource::Probed))?;
    for role in ROLES {
        let status = world.status(role)?;
        ensure!(status.paths.narrow == 1 && status.paths.too_small == 0, "{:?}", status.paths);
        ensure!(status.frames.too_big == 0 && status.frames.cut == 0, "{:?}", status.frames);
        let about_paths = status.warnings.iter().any(|warning| warning.text.contains("path"));
        ensure!(!about_paths, "nothing is left to be done: {:?}", status.warnings);
        let text = world.status_text(role)?;
        ensure!(text.contains("carries packets of up to 1400 B, found by probes"), "{text}");
    }
    for inner in [Inner::V6, Inner::V4] {
        require_carries(&world, inner, NARROW - OVERHEAD)?;
        let to = world.address(Role::Server, inner);
        // The kernel knows better, as soon as its routes do.
        wait_until("a narrow route", PATIENCE, || {
            Ok(!carries(world.netns(Role::Client), to, NARROW - OVERHEAD + 1)?)
        })?;
    }
    let stall = require_tcp(&world)?;
    ensure!(stall < Duration::from_secs(1), "{stall:?}");
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn tcp_goes_on_when_long_packets_begin_to_vanish_and_grows_again_when_they_do_not() -> Result<()> {
    const NARROW: u32 = 1400;
    alone("it measures how long TCP stands still")?;
    let mut world = world("5s")?;
    world.start_all()?;
    world.wait_open()?;
    wait_path(&world, (None, PathSource::Probed))?;
    require_carries(&world, Inner::V6, WIDE_INSIDE)?;
    let all = Bulk::all(&world)?;
    thread::sleep(Duration::from_secs(1));
    rules(&world).narrow(NARROW)?;
    thread::sleep(AIM + Duration::from_secs(1));
    for bulk in all {
        let (bytes, stall) = bulk.stop().with_context(|| world.explain())?;
        println!("across a black hole: {bytes} bytes, nothing for {stall:?}");
        ensure!(stall > Duration::from_millis(100), "no long packets: {stall:?}");
        ensure!(stall < AIM, "nothing for {stall:?}\n{}", world.explain());
    }
    for role in ROLES {
        ensure!(world.status(role)?.frames.too_big == 0, "a router has told");
    }
    rules(&world).clear()?;
    wait_path(&world, (None, PathSource::Probed))?;
    require_carries(&world, Inner::V6, WIDE_INSIDE)?;
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn a_path_of_less_than_ipv6_needs_inside_is_used() -> Result<()> {
    const NARROW: u32 = 1300;
    let mut world = world("10min")?;
    rules(&world).narrow(NARROW)?;
    world.start_all()?;
    world.wait_open()?;
    wait_path(&world, (Some(NARROW), PathSource::Probed))?;
    // IPv4 gets shorter; IPv6 may not, so what is longer is cut.
    require_carries(&world, Inner::V4, NARROW - OVERHEAD)?;
    for length in [NARROW - OVERHEAD, NARROW - OVERHEAD + 1, NARROW - OVERHEAD + 8, 1279, 1280] {
        require_carries(&world, Inner::V6, length)?;
    }
    for (from, to) in WAYS {
        for (inner, headers) in [(Inner::V6, 48), (Inner::V4, 28)] {
            let [from, to] = [from, to].map(|role| (world.netns(role), world.address(role, inner)));
            // The last two are more than the path carries: the kernel makes fragments of at most 1,280 bytes, and those are cut.
            for length in [1180, 1280 - headers, 1281 - headers, 4_000] {
                ensure!(datagram(from, to, length)?, "{length} B by UDP in {inner:?}\n{}", world.explain());
            }
        }
    }
    require_tcp(&world)?;
    for role in ROLES {
        let status = world.status(role)?;
        ensure!(status.frames.cut > 100, "{:?}", status.frames);
        let about_paths = status.warnings.iter().any(|warning| warning.text.contains("path"));
        ensure!(!about_paths, "nothing is left to be done: {:?}", status.warnings);
        let routes = world.netns(role).run(&["-4", "route", "show", "dev", "mtd0"])?;
        ensure!(routes.contains("mtu 1228"), "{routes}");
        let routes = world.netns(role).run(&["-6", "route", "show", "dev", "mtd0"])?;
        ensure!(routes.contains("mtu 1280"), "{routes}");
    }
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn hosts_behind_the_ends_use_a_path_of_less_than_ipv6_needs_inside() -> Result<()> {
    const NARROW: u32 = 1300;
    let mut world = world("10min")?;
    rules(&world).narrow(NARROW)?;
    let lan = Lan::behind_client(&mut world)?;
    world.start_all()?;
    world.wait_open()?;
    wait_path(&world, (Some(NARROW), PathSource::Probed))?;
    let (server, host, [v6, v4]) = (world.netns(Role::Server), &lan.netns, lan.addresses);
    for (from, to) in [(host, world.end(Role::Server).v6.into()), (server, v6)] {
        wait_until("long packets", PATIENCE, || from.carries(to, 1280))
            .with_context(|| format!("to {to}\n{}", world.explain()))?;
    }
    // The first long packet is answered by the end in front: Packet Too Big, fragmentation needed.
    for (from, to) in [(host, world.end(Role::Server).v4.into()), (server, v4)] {
        carries(from, to, 1400)?;
        wait_until("IPv4", PATIENCE, || carries(from, to, NARROW - OVERHEAD))
            .with_context(|| format!("to {to}\n{}", world.explain()))?;
    }
    for (from, to) in [
        (host, (server, world.end(Role::Server).v6.into())),
        (host, (server, world.end(Role::Server).v4.into())),
        (server, (host, v6)),
        (server, (host, v4)),
    ] {
        let bulk = Bulk::start(from, to)?;
        thread::sleep(Duration::from_secs(1));
        let (bytes, stall) = bulk.stop().with_context(|| world.explain())?;
        ensure!(bytes > 1 << 20, "{bytes} bytes to {to:?}, nothing for {stall:?}\n{}", world.explain());
    }
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn loss_is_no_narrow_path() -> Result<()> {
    let mut world = world("10min")?;
    // In each direction.
    rules(&world).set(&["numgen random mod 100 < 5"])?;
    world.start_all()?;
    world.wait_open()?;
    wait_path(&world, (None, PathSource::Probed))?;
    let bulk = Bulk::start(
        world.netns(Role::Client),
        (world.netns(Role::Server), world.end(Role::Server).v6.into()),
    )?;
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        for role in ROLES {
            let path = path(&world, role)?;
            ensure!(path.0.is_none(), "{role:?}: {path:?}\n{}", world.explain());
        }
    }
    bulk.stop().map(drop)
}

#[test]
fn with_a_peer_that_answers_no_probes_routers_words_are_followed_as_before() -> Result<()> {
    let mut world = world("5s")?;
    // Probes as short as the first ones, and their answers, have 124 bytes. A peer that does not know them drops or ignores
    // them.
    rules(&world).set(&["ip6 length 84"])?;
    world.start_all()?;
    world.wait_open()?;
    require_carries(&world, Inner::V6, WIDE_INSIDE)?;
    for role in ROLES {
        ensure!(path(&world, role)? == (None, PathSource::Configured), "{:?}", path(&world, role)?);
    }
    let topology = world.topology();
    for host in [&topology.client, &topology.server] {
        topology.set_path_mtu(host, 1400)?;
    }
    for (from, to) in WAYS {
        world.netns(from).carries(world.address(to, Inner::V6), WIDE_INSIDE)?;
    }
    wait_path(&world, (Some(1400), PathSource::Told))?;
    // It is believed for a while.
    wait_path(&world, (None, PathSource::Configured))
}

#[test]
fn clients_and_servers_find_the_path_whatever_keys_they_have() -> Result<()> {
    const NARROW: u32 = 1400;
    let mut world =
        rendezvous::World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    let router = world.router();
    let prefix = world.host(Who::Alice).prefix;
    let length = NARROW - 40;
    let [to, from] = ["daddr", "saddr"].map(|end| format!("ip6 {end} {prefix} ip6 length > {length}"));
    Rules(router).set(&[&to, &from])?;
    world.open_all()?;
    let session = |world: &rendezvous::World, who, other| -> Result<(Option<u32>, PathSource)> {
        let session = if who == Who::Server {
            world.sessions_with(other)?.into_iter().next_back().context("a session")?
        } else {
            world.session(who)?
        };
        Ok((session.path_mtu, session.path_source))
    };
    let found = (Some(NARROW), PathSource::Probed);
    for who in [Who::Server, Who::Alice] {
        wait_until("what the path carries", PATIENCE, || Ok(session(&world, who, Who::Alice)? == found))
            .with_context(|| world.explain())?;
    }
    wait_until("Bob's path", PATIENCE, || {
        Ok(session(&world, Who::Server, Who::Bob)? == (None, PathSource::Probed))
    })?;
    // Over slots of a second and keys of four.
    for _ in 0..9 {
        thread::sleep(Duration::from_secs(1));
        for who in [Who::Server, Who::Alice] {
            ensure!(session(&world, who, Who::Alice)? == found, "{}", world.explain());
        }
    }
    let to = world.address(Who::Alice, Inner::V6)?;
    wait_until("long packets", PATIENCE, || world.netns(Who::Server).carries(to, NARROW - OVERHEAD))?;
    world.require_no_session_drops(&[Who::Server, Who::Alice, Who::Bob])
}
