//! A network with a controller on each host, and traffic between them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::{self, PeerState, Status};
use mtd_tests::controller::{Controller, End, Session, Setup, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Host, Topology, TopologyOptions};
use mtd_tests::traffic::{TcpFlow, TcpOptions, TcpReport, UdpOptions, UdpReport, UdpStream};

use super::PATIENCE;

/// Packets per second of each UDP stream.
pub(super) const UDP_RATE: u32 = 1000;

/// Drop reasons that a session with two right ends never has.
const SESSION_REASONS: [&str; 11] = [
    "unknown_address",
    "stale_slot",
    "wrong_port",
    "wrong_peer",
    "session_ended",
    "invalid_sequence",
    "replayed",
    "bad_tag",
    "bad_checksum",
    "receive_failed",
    "send_no_slot",
];

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The client.
    Client,
    /// The second client.
    Client2,
    /// The server, with a session to each client.
    Server,
}

/// Which IP version is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    V4,
    V6,
}

impl Inner {
    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The tunnel address of this version.
    pub(super) fn address(self, end: &End) -> IpAddr {
        match self {
            Self::V4 => end.v4.into(),
            Self::V6 => end.v6.into(),
        }
    }
}

#[derive(Debug)]
struct Side {
    setup: Setup,
    controller: Option<Controller>,
}

/// Network, configurations, controllers. Dropping it stops the controllers; what a killed one left is detached.
#[derive(Debug)]
pub(super) struct World {
    sides: BTreeMap<Role, Side>,
    topology: Topology,
}

impl World {
    /// Builds the network and right configurations for a session between the server and each client; starts nothing.
    pub(super) fn new(mode: &str, options: &TopologyOptions) -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(options)?;
        let server = End::new(1, &topology.server);
        let mut server_setup = Setup::new(&topology.server, &server, options.delivery)?;
        let mut sides = BTreeMap::new();
        let clients =
            [(Role::Client, Some(&topology.client), 2), (Role::Client2, topology.client2.as_ref(), 3)];
        for (role, host, number) in clients {
            let Some(host) = host else { continue };
            let (end, session) = (End::new(number, host), Session::new(mode)?);
            let setup = Setup::new(host, &end, options.delivery)?.with_peer(&session, &server);
            server_setup = server_setup.with_peer(&session, &end);
            sides.insert(role, Side { setup, controller: None });
        }
        sides.insert(Role::Server, Side { setup: server_setup, controller: None });
        Ok(Self { sides, topology })
    }

    /// The same, with every controller started and every session open.
    pub(super) fn open(mode: &str, options: &TopologyOptions) -> Result<Self> {
        let mut world = Self::new(mode, options)?;
        world.start_all()?;
        world.wait_open()?;
        Ok(world)
    }

    /// The network.
    pub(super) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The configuration of a host, to be changed before its controller starts.
    pub(super) fn setup(&mut self, role: Role) -> &mut Setup {
        &mut self.side(role).setup
    }

    /// The tunnel end of a host.
    pub(super) fn end(&self, role: Role) -> &End {
        &self.sides[&role].setup.local
    }

    /// A host.
    pub(super) fn host(&self, role: Role) -> &Host {
        match role {
            Role::Client => &self.topology.client,
            Role::Client2 => self.topology.client2.as_ref().expect("a topology with two clients"),
            Role::Server => &self.topology.server,
        }
    }

    /// The namespace of a host.
    pub(super) fn netns(&self, role: Role) -> &Netns {
        &self.host(role).netns
    }

    /// Starts a controller, again if it ran before, and waits until it is ready.
    pub(super) fn start(&mut self, role: Role) -> Result<()> {
        let controller =
            self.sides[&role].setup.start(self.netns(role)).with_context(|| format!("{role:?}"))?;
        self.side(role).controller = Some(controller);
        Ok(())
    }

    /// Starts all controllers.
    pub(super) fn start_all(&mut self) -> Result<()> {
        let roles: Vec<Role> = self.sides.keys().copied().collect();
        roles.into_iter().try_for_each(|role| self.start(role))
    }

    /// Kills a controller with SIGKILL.
    pub(super) fn kill(&mut self, role: Role) -> Result<()> {
        self.controller_mut(role)?.process.kill().map(drop)
    }

    /// Stops a controller as an operator would.
    pub(super) fn stop(&mut self, role: Role) -> Result<()> {
        self.controller_mut(role)?.stop().map(drop)
    }

    /// Runs `mtd detach` for a host without a controller. Nothing of what that has left is there afterwards.
    pub(super) fn detach(&self, role: Role) -> Result<()> {
        let host = self.host(role);
        let mut command = host.netns.command(mtd_program()?)?;
        let output = command.args(["detach", &host.ifname]).output()?;
        ensure!(output.status.success(), "mtd detach failed: {output:?}");
        let links = host.netns.run(&["link"])?;
        ensure!(!links.contains("mtd0"), "{links}");
        for folder in ["/run/mtd", "/sys/fs/bpf/mtd"] {
            // The last instance takes the folder with it.
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(!name.starts_with(&host.ifname), "{folder} still has {name}");
            }
        }
        Ok(())
    }

    /// Waits until every client and the server reach each other in both IP versions, and all sessions say they are open.
    pub(super) fn wait_open(&self) -> Result<()> {
        for &role in self.sides.keys().filter(|role| **role != Role::Server) {
            for address in self.end(Role::Server).addresses() {
                self.netns(role).wait_reachable(address, PATIENCE).with_context(|| self.explain())?;
            }
        }
        for role in self.sides.keys() {
            let status = self.status(*role)?;
            let open = status.peers.iter().all(|peer| peer.state == PeerState::Open && peer.hint.is_none());
            ensure!(open, "packets pass, but {role:?} says otherwise: {status:#?}");
        }
        Ok(())
    }

    /// What `mtd status --json` says on a host.
    pub(super) fn status(&self, role: Role) -> Result<Status> {
        self.controller(role)?.status(self.netns(role)).with_context(|| format!("status of {role:?}"))
    }

    /// The session of a client, or the first one of the server.
    pub(super) fn peer(&self, role: Role) -> Result<status::Peer> {
        let peers = self.status(role)?.peers;
        peers.into_iter().next().with_context(|| format!("{role:?} has no peer"))
    }

    /// What `mtd status` prints for people on a host.
    pub(super) fn status_text(&self, role: Role) -> Result<String> {
        let output = self.controller(role)?.command(self.netns(role), &["status"])?;
        ensure!(output.status.success(), "mtd status failed: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until the first session of a host is in `slot` or beyond, by mtd's own word.
    pub(super) fn wait_for_slot(&self, role: Role, slot: u64) -> Result<()> {
        let period = Duration::from_secs_f64(self.peer(role)?.period_seconds);
        let deadline = Instant::now() + PATIENCE + period * 60;
        while self.peer(role)?.slot < slot {
            ensure!(Instant::now() < deadline, "slot {slot} of {role:?} does not come: {}", self.explain());
            thread::sleep(period / 4);
        }
        Ok(())
    }

    /// What all controllers say, for messages.
    pub(super) fn explain(&self) -> String {
        let one = |(role, side): (&Role, &Side)| {
            let log = side.controller.as_ref().map_or_else(String::new, |it| it.process.log());
            format!("--- {role:?}: {:#?}\n{log}", self.status(*role))
        };
        self.sides.iter().map(one).collect()
    }

    /// That no controller counted a drop of a kind that a session between right ends does not have.
    pub(super) fn require_no_session_drops(&self) -> Result<()> {
        for role in self.sides.keys() {
            let drops = self.status(*role)?.drops;
            let found: Vec<_> =
                SESSION_REASONS.iter().filter(|reason| drops.contains_key(**reason)).collect();
            ensure!(found.is_empty(), "{role:?} dropped: {drops:?}");
        }
        Ok(())
    }

    fn side(&mut self, role: Role) -> &mut Side {
        self.sides.get_mut(&role).expect("a host of this network")
    }

    fn controller(&self, role: Role) -> Result<&Controller> {
        self.sides[&role].controller.as_ref().with_context(|| format!("{role:?} was not started"))
    }

    fn controller_mut(&mut self, role: Role) -> Result<&mut Controller> {
        self.side(role).controller.as_mut().with_context(|| format!("{role:?} was not started"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for role in [Role::Client, Role::Client2, Role::Server] {
            let Some(mut controller) = self.sides.get_mut(&role).and_then(|side| side.controller.take())
            else {
                continue;
            };
            // A killed one has left its data plane, which would stay pinned when the namespace is gone.
            if controller.stop().is_err()
                && let Err(error) = self.detach(role)
            {
                eprintln!("{role:?}: {error:#}");
            }
        }
    }
}

/// Traffic between a client and the server: one TCP connection that is busy in both directions, and a UDP stream each
/// way. TCP and the stream to the server are in one IP version, the stream back in the other.
#[derive(Debug)]
pub(super) struct Load {
    tcp: TcpFlow,
    up: UdpStream,
    down: UdpStream,
    started: Instant,
}

/// What became of a [`Load`].
#[derive(Debug)]
pub(super) struct LoadReport {
    tcp: TcpReport,
    up: UdpReport,
    down: UdpReport,
    lasted: Duration,
}

impl Load {
    /// Starts all three.
    pub(super) fn start(world: &World, client: Role, inner: Inner) -> Result<Self> {
        let (near, far) = (world.netns(client), world.netns(Role::Server));
        let server = world.end(Role::Server);
        let udp = |to| UdpOptions { rate: UDP_RATE, ..UdpOptions::to(to) };
        Ok(Self {
            tcp: TcpFlow::start(near, far, &TcpOptions::to(inner.address(server)))?,
            up: UdpStream::start(near, far, &udp(inner.address(server)))?,
            down: UdpStream::start(far, near, &udp(inner.other().address(world.end(client))))?,
            started: Instant::now(),
        })
    }

    /// Packets and bytes that have arrived so far at the server.
    pub(super) fn arrived_at_server(&self) -> (u64, u64) {
        (self.up.counters().received(), self.tcp.counters().received_by_server())
    }

    /// Packets and bytes that have arrived so far at the client.
    pub(super) fn arrived_at_client(&self) -> (u64, u64) {
        (self.down.counters().received(), self.tcp.counters().received_by_client())
    }

    /// Stops all and waits for what is in flight.
    pub(super) fn stop(self) -> Result<LoadReport> {
        let lasted = self.started.elapsed();
        Ok(LoadReport { tcp: self.tcp.stop(), up: self.up.stop()?, down: self.down.stop()?, lasted })
    }
}

impl LoadReport {
    /// That the TCP connection lives and every byte has arrived.
    pub(super) fn require_unbroken(&self) -> Result<()> {
        let Self { tcp, .. } = self;
        ensure!(tcp.broken.is_none() && tcp.is_complete() && tcp.bytes() > 0, "TCP: {tcp:?}");
        Ok(())
    }

    /// [`LoadReport::require_unbroken`], and that no UDP packet was lost, changed or doubled, at the full rate.
    pub(super) fn require_lossless(&self) -> Result<()> {
        self.require_unbroken()?;
        let wanted = self.lasted.as_millis() as u64 * u64::from(UDP_RATE) / 1000 * 9 / 10;
        for udp in [&self.up, &self.down] {
            ensure!(
                udp.lost == 0 && udp.duplicated == 0 && udp.foreign == 0 && udp.sent >= wanted,
                "UDP in {:?}: {udp:?} (TCP: {:?})",
                self.lasted,
                self.tcp
            );
        }
        Ok(())
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tcp, up, down, lasted } = self;
        write!(
            f,
            "{:.1} s, TCP {} bytes, broken: {}, longest stall {:?}; UDP sent {} + {}, lost {} + {}, longest gap {:?}",
            lasted.as_secs_f64(),
            tcp.bytes(),
            tcp.broken.as_deref().unwrap_or("no"),
            tcp.longest_stall,
            up.sent,
            down.sent,
            up.lost,
            down.lost,
            up.longest_gap.max(down.longest_gap)
        )
    }
}
