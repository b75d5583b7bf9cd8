//! A network with a controller on each host, and traffic between them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::instance::Instance;
use mtd::status::{self, PeerState, Status};
use mtd_tests::controller::{Controller, End, Session, Setup, answered, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Host, Topology, TopologyOptions};
use mtd_tests::traffic::Load;

use super::{PATIENCE, SESSION_REASONS};

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

/// Network, configurations, controllers. Dropping it stops the controllers; what a killed one left goes with the namespaces.
#[derive(Debug)]
pub(super) struct World {
    sides: BTreeMap<Role, Side>,
    // After the controllers.
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

    /// The names of what mtd keeps for a host.
    pub(super) fn instance(&self, role: Role) -> Result<Instance> {
        let host = self.host(role);
        Ok(host.netns.enter(|| Instance::of(&host.ifname))??)
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

    /// Starts a controller and kills it after `time`, however far it has come by then.
    pub(super) fn start_and_kill(&self, role: Role, time: Duration) -> Result<()> {
        let mut controller = self.sides[&role].setup.spawn(self.netns(role))?;
        thread::sleep(time);
        controller.process.kill().with_context(|| controller.process.log()).map(drop)
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

    /// What the controller of a host has said since its start.
    pub(super) fn log(&self, role: Role) -> Result<String> {
        Ok(self.controller(role)?.process.log())
    }

    /// The session of a client, or the first one of the server.
    pub(super) fn peer(&self, role: Role) -> Result<status::Peer> {
        let peers = self.status(role)?.peers;
        peers.into_iter().next().with_context(|| format!("{role:?} has no peer"))
    }

    /// What `mtd status` prints for people on a host.
    pub(super) fn status_text(&self, role: Role) -> Result<String> {
        let output = self.controller(role)?.command(self.netns(role), &["status"])?;
        ensure!(answered(&output), "mtd status failed: {output:?}");
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

    /// Starts traffic between a client and the server. TCP and the stream to the server are in one IP version, the
    /// stream back in the other.
    pub(super) fn load(&self, client: Role, inner: Inner) -> Result<Load> {
        let (to_server, to_client) =
            (inner.address(self.end(Role::Server)), inner.other().address(self.end(client)));
        Load::start((self.netns(client), to_client), (self.netns(Role::Server), to_server))
    }

    /// Where connections between the client and the server can go: opened by either, in both IP versions.
    pub(super) fn ways(&self) -> Vec<(&Netns, &Netns, IpAddr)> {
        let ends = [(Role::Client, Role::Server), (Role::Server, Role::Client)];
        let ways = ends.map(|(from, to)| {
            self.end(to).addresses().map(|address| (self.netns(from), self.netns(to), address))
        });
        ways.concat()
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
