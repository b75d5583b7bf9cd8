//! A network whose controllers have static sessions, and traffic between them.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::instance::Instance;
use mtd::status::{self, PeerState};
use mtd_tests::controller::{End, Session, Setup, answered, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Host, Topology, TopologyOptions};
use mtd_tests::traffic::Load;

use super::PATIENCE;
pub(crate) use crate::world::Inner;
use crate::world::{self, Name};

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The client.
    Client,
    /// The second client.
    Client2,
    /// The server, with a session to each client.
    Server,
}

impl Name for Role {
    const SERVER: Self = Self::Server;

    fn host(self, topology: &Topology) -> &Host {
        match self {
            Self::Client => &topology.client,
            Self::Client2 => topology.client2.as_ref().expect("a topology with two clients"),
            Self::Server => &topology.server,
        }
    }
}

/// A server with a static session to each client.
pub(crate) type World = world::World<Role, Setup>;

impl World {
    /// Builds the network, and correct configurations for a session between the server and each client. Starts nothing.
    pub(crate) fn new(mode: &str, options: &TopologyOptions) -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(options)?;
        let server = End::new(1, &topology.server);
        let mut server_setup = Setup::new(&topology.server, &server, options.delivery)?;
        let mut setups = Vec::new();
        let clients =
            [(Role::Client, Some(&topology.client), 2), (Role::Client2, topology.client2.as_ref(), 3)];
        for (role, host, number) in clients {
            let Some(host) = host else { continue };
            let (end, session) = (End::new(number, host), Session::new(mode)?);
            let setup = Setup::new(host, &end, options.delivery)?.with_peer(&session, &server);
            server_setup = server_setup.with_peer(&session, &end);
            setups.push((role, setup));
        }
        setups.push((Role::Server, server_setup));
        Ok(Self::with_hosts(topology, setups, ()))
    }

    /// Builds the same, starts every controller, and waits until every session is open.
    pub(crate) fn open(mode: &str, options: &TopologyOptions) -> Result<Self> {
        let mut world = Self::new(mode, options)?;
        world.start_all()?;
        world.wait_open()?;
        Ok(world)
    }

    /// The tunnel end of a host.
    pub(crate) fn end(&self, role: Role) -> &End {
        &self.setup(role).local
    }

    /// The tunnel address of a host in an IP version.
    pub(crate) fn address(&self, role: Role, inner: Inner) -> IpAddr {
        match inner {
            Inner::V4 => self.end(role).v4.into(),
            Inner::V6 => self.end(role).v6.into(),
        }
    }

    /// The instance of mtd on a host, which names its files and pins.
    pub(crate) fn instance(&self, role: Role) -> Result<Instance> {
        let host = self.host(role);
        Ok(host.netns.enter(|| Instance::of(&host.ifname))??)
    }

    /// Starts a controller and kills it after `time`, at whatever stage of its start it is then.
    pub(crate) fn start_and_kill(&self, role: Role, time: Duration) -> Result<()> {
        let mut controller = self.setup(role).spawn(self.netns(role))?;
        thread::sleep(time);
        controller.process.kill().with_context(|| controller.process.log()).map(drop)
    }

    /// Runs `mtd detach` for a host without a controller, and checks that nothing of mtd is left.
    pub(crate) fn detach(&self, role: Role) -> Result<()> {
        let host = self.host(role);
        let mut command = host.netns.command(mtd_program()?)?;
        let output = command.args(["detach", &host.ifname]).output()?;
        ensure!(output.status.success(), "mtd detach failed: {output:?}");
        let links = host.netns.run(&["link"])?;
        ensure!(!links.contains("mtd0"), "{links}");
        for folder in ["/run/mtd", "/sys/fs/bpf/mtd"] {
            // The folder is removed together with the last instance.
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(!name.starts_with(&host.ifname), "{folder} still has {name}");
            }
        }
        Ok(())
    }

    /// Waits until every client and the server reach each other in both IP versions, and all sessions are reported as open.
    pub(crate) fn wait_open(&self) -> Result<()> {
        for role in self.clients() {
            for address in self.end(Role::Server).addresses() {
                self.netns(role).wait_reachable(address, PATIENCE).with_context(|| self.explain())?;
            }
        }
        for role in self.hosts() {
            let status = self.status(role)?;
            let open = status.peers.iter().all(|peer| peer.state == PeerState::Open && peer.hint.is_none());
            ensure!(open, "packets pass, but {role:?} says otherwise: {status:#?}");
        }
        Ok(())
    }

    /// The log of a host's controller since its start.
    pub(crate) fn log(&self, role: Role) -> Result<String> {
        Ok(self.controller(role)?.process.log())
    }

    /// The session of a client, or the first one of the server.
    pub(crate) fn peer(&self, role: Role) -> Result<status::Peer> {
        let peers = self.status(role)?.peers;
        peers.into_iter().next().with_context(|| format!("{role:?} has no peer"))
    }

    /// The output of `mtd status` for people on a host.
    pub(crate) fn status_text(&self, role: Role) -> Result<String> {
        let output = self.controller(role)?.command(self.netns(role), &["status"])?;
        ensure!(answered(&output), "mtd status failed: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until the first session of a host is in `slot` or beyond, as mtd itself reports.
    pub(crate) fn wait_for_slot(&self, role: Role, slot: u64) -> Result<()> {
        let period = Duration::from_secs_f64(self.peer(role)?.period_seconds);
        let deadline = Instant::now() + PATIENCE + period * 60;
        while self.peer(role)?.slot < slot {
            ensure!(Instant::now() < deadline, "slot {slot} of {role:?} does not come: {}", self.explain());
            thread::sleep(period / 4);
        }
        Ok(())
    }

    /// Starts traffic between a client and the server, as [`World::load_between`] does.
    pub(crate) fn load(&self, client: Role, inner: Inner) -> Result<Load> {
        self.load_between(client, inner, |role, inner| Ok(self.address(role, inner)))
    }

    /// The possible connections between the client and the server: opened by either end, in both IP versions.
    pub(crate) fn ways(&self) -> Vec<(&Netns, &Netns, IpAddr)> {
        let ends = [(Role::Client, Role::Server), (Role::Server, Role::Client)];
        let ways = ends.map(|(from, to)| {
            self.end(to).addresses().map(|address| (self.netns(from), self.netns(to), address))
        });
        ways.concat()
    }
}
