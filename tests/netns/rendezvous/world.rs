//! A private DHT, a server with two registered clients, and traffic between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mtd::keys::PublicKey;
use mtd::status::{Handshakes, Session, SessionState, Status};
use mtd_tests::controller::Controller;
use mtd_tests::dht::PrivateDht;
use mtd_tests::netns::Netns;
use mtd_tests::rendezvous::{Member, Part, SERVER_V4, SERVER_V6, dht};
use mtd_tests::topology::{Host, Topology, TopologyOptions};
use mtd_tests::traffic::Load;
use mtd_tests::wait_until;

use super::PATIENCE;
use crate::sessions::SESSION_REASONS;

/// Nodes of the DHT.
const NODES: u32 = 7;

/// Age at which keys are renewed.
pub(super) const REKEY: Duration = Duration::from_secs(4);

/// Slot length of introductions.
pub(super) const INTRODUCTION_SLOT: Duration = Duration::from_secs(5);

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// The server, which has both clients registered.
    Server,
    /// The first client.
    Alice,
    /// The second client, where there is one.
    Bob,
}

impl Who {
    /// The name that the server has for a client.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Alice => "alice",
            Self::Bob => "bob",
        }
    }
}

/// Which IP version is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    V4,
    V6,
}

#[derive(Debug)]
struct Side {
    member: Member,
    controller: Option<Controller>,
}

/// Network, DHT, configurations, controllers. Dropping it stops the controllers; what a killed one left goes with the
/// namespaces.
#[derive(Debug)]
pub(super) struct World {
    sides: BTreeMap<Who, Side>,
    /// The DHT.
    pub(super) dht: PrivateDht,
    topology: Topology,
    /// What the hosts' clocks are ahead, in ns.
    clock_offset: i64,
}

impl World {
    /// Builds network and DHT, and configurations with short times; starts no controller.
    pub(super) fn new(options: &TopologyOptions) -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(options)?;
        let dht = dht(&topology, NODES)?;
        let member = |host, part| Member::new(host, options.delivery, part, dht.bootstrap());
        let mut server = member(&topology.server, Part::Server)?;
        server.keys = [
            ("period", "1s".to_owned()),
            ("introduction_slot", format!("{}s", INTRODUCTION_SLOT.as_secs())),
            ("rekey_after", format!("{}s", REKEY.as_secs())),
            ("expire_after", "40s".to_owned()),
        ]
        .map(|(key, value)| (key, quoted(&value)))
        .into();
        server.keys.insert("handshakes_per_client", "600".to_owned());
        let mut sides = BTreeMap::new();
        for (who, host) in [(Who::Alice, Some(&topology.client)), (Who::Bob, topology.client2.as_ref())] {
            let Some(host) = host else { continue };
            let client = member(host, Part::Client(server.public()))?;
            server.register(who.name(), &client.public())?;
            sides.insert(who, Side { member: client, controller: None });
        }
        sides.insert(Who::Server, Side { member: server, controller: None });
        Ok(Self { sides, dht, topology, clock_offset: 0 })
    }

    /// The same, with every controller started and every session open.
    pub(super) fn open(options: &TopologyOptions) -> Result<Self> {
        let mut world = Self::new(options)?;
        world.start_all()?;
        Ok(world)
    }

    /// Starts the server and then the clients, and waits until all sessions are open.
    pub(super) fn start_all(&mut self) -> Result<()> {
        for who in self.everybody() {
            self.start(who)?;
        }
        self.clients().into_iter().try_for_each(|client| self.wait_open(client))
    }

    /// The hosts, the server first.
    fn everybody(&self) -> Vec<Who> {
        self.sides.keys().copied().collect()
    }

    /// The clients.
    pub(super) fn clients(&self) -> Vec<Who> {
        self.everybody().into_iter().filter(|who| *who != Who::Server).collect()
    }

    /// The network.
    pub(super) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A host's public key.
    pub(super) fn public(&self, who: Who) -> PublicKey {
        self.sides[&who].member.public()
    }

    /// The configuration of a host, to be changed before its controller starts.
    pub(super) fn member(&mut self, who: Who) -> &mut Member {
        &mut self.side(who).member
    }

    /// Sets the clocks of all hosts so that `elapsed` of a window of `window` is over, and makes such windows theirs.
    /// Before any controller starts.
    pub(super) fn begin_in_window(&mut self, window: Duration, elapsed: Duration) -> Result<()> {
        let past = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() % window.as_nanos();
        self.clock_offset = (elapsed.as_nanos().cast_signed() - past.cast_signed()) as i64;
        for side in self.sides.values_mut() {
            side.member.window = format!("{}s", window.as_secs());
            side.member.set_clock(self.clock_offset)?;
        }
        Ok(())
    }

    /// Length of a window.
    pub(super) fn window(&self) -> Result<Duration> {
        Ok(humantime::parse_duration(&self.sides[&Who::Server].member.window)?)
    }

    /// Makes a host's clock wrong by so many ns.
    pub(super) fn set_clock_error(&self, who: Who, error: i64) -> Result<()> {
        self.sides[&who].member.set_clock(self.clock_offset + error)
    }

    /// What the hosts hold for the Unix time, in ns.
    pub(super) fn now(&self) -> Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().cast_signed();
        Ok(u64::try_from(now + i128::from(self.clock_offset))?)
    }

    /// Sleeps until `elapsed` of the present period of this length is over on the hosts' clocks.
    pub(super) fn sleep_into(&self, period: Duration, elapsed: Duration) -> Result<()> {
        let (length, past) = (period.as_nanos() as u64, self.now()? % period.as_nanos() as u64);
        thread::sleep(Duration::from_nanos((length + elapsed.as_nanos() as u64 - past) % length));
        Ok(())
    }

    /// A host.
    pub(super) fn host(&self, who: Who) -> &Host {
        match who {
            Who::Server => &self.topology.server,
            Who::Alice => &self.topology.client,
            Who::Bob => self.topology.client2.as_ref().expect("a topology with two clients"),
        }
    }

    /// The router between all hosts.
    pub(super) fn router(&self) -> &Netns {
        &self.topology.router
    }

    /// The namespace of a host.
    pub(super) fn netns(&self, who: Who) -> &Netns {
        &self.host(who).netns
    }

    /// Starts a controller, again if it ran before, and waits until it is ready.
    pub(super) fn start(&mut self, who: Who) -> Result<()> {
        let controller =
            self.sides[&who].member.start(self.netns(who)).with_context(|| format!("{who:?}"))?;
        self.side(who).controller = Some(controller);
        Ok(())
    }

    /// Starts a client's controller; returns the time from before its start to the first inner packet of the client's
    /// that the server has received.
    pub(super) fn start_timed(&mut self, client: Who) -> Result<Duration> {
        let inbox = self.netns(Who::Server).enter(|| UdpSocket::bind((SERVER_V6, 0)))??;
        inbox.set_read_timeout(Some(PATIENCE))?;
        let to = inbox.local_addr()?;
        let probe = self.netns(client).enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
        let done = AtomicBool::new(false);
        let begin = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| knock(&probe, to, &done));
            let arrival = scope.spawn(|| {
                let result = inbox.recv(&mut [0; 16]).map(|_| begin.elapsed());
                done.store(true, Ordering::Relaxed);
                result
            });
            let started = self.start(client);
            let arrival = arrival.join().expect("a thread that waits");
            started?;
            arrival.context("no inner packet has come").with_context(|| self.explain())
        })
    }

    /// Kills a controller with SIGKILL.
    pub(super) fn kill(&mut self, who: Who) -> Result<()> {
        self.controller_mut(who)?.process.kill().map(drop)
    }

    /// Stops a controller as an operator would.
    pub(super) fn stop(&mut self, who: Who) -> Result<()> {
        self.controller_mut(who)?.stop().map(drop)
    }

    /// Runs `mtd ARGS…` for a host's controller, which must succeed, and returns what it prints.
    pub(super) fn mtd(&self, who: Who, args: &[&str]) -> Result<String> {
        let output = self.controller(who)?.command(self.netns(who), args)?;
        ensure!(output.status.success(), "mtd {args:?} on {who:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `mtd status --json` says on a host.
    pub(super) fn status(&self, who: Who) -> Result<Status> {
        self.controller(who)?.status(self.netns(who)).with_context(|| format!("status of {who:?}"))
    }

    /// The server's handshakes so far.
    pub(super) fn handshakes(&self) -> Result<Handshakes> {
        self.status(Who::Server)?.handshakes.context("the server tells nothing about handshakes")
    }

    /// Waits until the server has published so many introductions, one for each client and window.
    pub(super) fn wait_published(&self, count: u64) -> Result<()> {
        let published = || Ok(self.status(Who::Server)?.rendezvous.is_some_and(|it| it.published >= count));
        wait_until("the introductions to be published", PATIENCE, published).with_context(|| self.explain())
    }

    /// A client's session, as its own `mtd sessions --json` has it.
    pub(super) fn session(&self, client: Who) -> Result<Session> {
        let sessions = self.controller(client)?.sessions(self.netns(client))?;
        ensure!(sessions.len() == 1, "{client:?} has one server, not {sessions:?}");
        Ok(sessions.into_iter().next().expect("one"))
    }

    /// The sessions with a client, as the server's `mtd sessions --json` has them.
    pub(super) fn sessions_with(&self, client: Who) -> Result<Vec<Session>> {
        let mut sessions = self.controller(Who::Server)?.sessions(self.netns(Who::Server))?;
        sessions.retain(|session| session.name == client.name());
        Ok(sessions)
    }

    /// Whether both ends say that a client's session is open.
    pub(super) fn is_open(&self, client: Who) -> Result<bool> {
        let open = |session: &Session| session.state == SessionState::Open && session.hint.is_none();
        let far = self.sessions_with(client)?;
        Ok(open(&self.session(client)?) && !far.is_empty() && far.iter().all(open))
    }

    /// Waits until both ends say that a client's session is open, and the client reaches the server in both IP
    /// versions.
    pub(super) fn wait_open(&self, client: Who) -> Result<()> {
        wait_until("the session to open", PATIENCE, || self.is_open(client))
            .and_then(|()| {
                let addresses: [IpAddr; 2] = [SERVER_V6.into(), SERVER_V4.into()];
                addresses.into_iter().try_for_each(|to| self.netns(client).wait_reachable(to, PATIENCE))
            })
            .with_context(|| format!("{client:?}: {}", self.explain()))
    }

    /// A client's own address in the tunnel.
    pub(super) fn address(&self, client: Who, inner: Inner) -> Result<IpAddr> {
        let addresses = self.session(client)?.tunnel.local;
        let found = addresses.iter().find(|address| address.is_ipv6() == (inner == Inner::V6));
        found.copied().with_context(|| format!("{client:?} has no {inner:?} address, but {addresses:?}"))
    }

    /// Starts traffic between a client and the server. TCP and the stream to the server are in one IP version, the
    /// stream back in the other.
    pub(super) fn load(&self, client: Who, inner: Inner) -> Result<Load> {
        let (to_server, back): (IpAddr, _) = match inner {
            Inner::V4 => (SERVER_V4.into(), Inner::V6),
            Inner::V6 => (SERVER_V6.into(), Inner::V4),
        };
        let to_client = self.address(client, back)?;
        Load::start((self.netns(client), to_client), (self.netns(Who::Server), to_server))
    }

    /// That these controllers counted no drop of a kind that a session between right ends does not have.
    pub(super) fn require_no_session_drops(&self, hosts: &[Who]) -> Result<()> {
        for who in hosts {
            let drops = self.status(*who)?.drops;
            let found: Vec<_> =
                SESSION_REASONS.iter().filter(|reason| drops.contains_key(**reason)).collect();
            ensure!(found.is_empty(), "{who:?} dropped: {drops:?}");
        }
        Ok(())
    }

    /// What all controllers say, for messages.
    pub(super) fn explain(&self) -> String {
        let one = |(who, side): (&Who, &Side)| {
            let log = side.controller.as_ref().map_or_else(String::new, |it| it.process.log());
            format!("--- {who:?}: {:#?}\n{log}", self.status(*who))
        };
        self.sides.iter().map(one).collect()
    }

    fn side(&mut self, who: Who) -> &mut Side {
        self.sides.get_mut(&who).expect("a host of this network")
    }

    fn controller(&self, who: Who) -> Result<&Controller> {
        self.sides[&who].controller.as_ref().with_context(|| format!("{who:?} was not started"))
    }

    fn controller_mut(&mut self, who: Who) -> Result<&mut Controller> {
        self.side(who).controller.as_mut().with_context(|| format!("{who:?} was not started"))
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Sends until somebody has heard it. Until there is a tunnel, nothing gets beyond the router.
fn knock(socket: &UdpSocket, to: SocketAddr, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        // Without a route there is an error, which is as good as a lost packet.
        let _ = socket.send_to(b"knock", to);
        thread::sleep(Duration::from_millis(2));
    }
}
