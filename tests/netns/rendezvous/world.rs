//! A private DHT, a server with two registered clients, and traffic between them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mtd::keys::PublicKey;
use mtd::status::{Handshakes, Session, SessionState};
use mtd_tests::dht::PrivateDht;
use mtd_tests::netns::Netns;
use mtd_tests::rendezvous::{Member, Part, SERVER_V4, SERVER_V6, dht};
use mtd_tests::topology::{Host, Topology, TopologyOptions};
use mtd_tests::traffic::Load;
use mtd_tests::wait_until;

use super::PATIENCE;
pub(crate) use crate::world::Inner;
use crate::world::{self, Name};

/// Nodes of the DHT.
const NODES: u32 = 7;

/// Age at which keys are renewed.
pub(crate) const REKEY: Duration = Duration::from_secs(4);

/// Slot length of introductions.
pub(crate) const INTRODUCTION_SLOT: Duration = Duration::from_secs(5);

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The server, which has both clients registered.
    Server,
    /// The first client.
    Alice,
    /// The second client, where there is one.
    Bob,
}

impl Who {
    /// The name that the server has for a client.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Alice => "alice",
            Self::Bob => "bob",
        }
    }
}

impl Name for Who {
    const SERVER: Self = Self::Server;

    fn host(self, topology: &Topology) -> &Host {
        match self {
            Self::Server => &topology.server,
            Self::Alice => &topology.client,
            Self::Bob => topology.client2.as_ref().expect("a topology with two clients"),
        }
    }
}

/// What hosts that meet by a rendezvous need besides their configurations.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The DHT.
    pub(crate) dht: PrivateDht,
    /// By how much the clocks of the hosts are ahead, in ns.
    clock_offset: i64,
}

/// A server and its registered clients, which know nothing of each other but public keys.
pub(crate) type World = world::World<Who, Member, Surroundings>;

impl World {
    /// Builds network and DHT, and configurations with short times; starts no controller.
    pub(crate) fn new(options: &TopologyOptions) -> Result<Self> {
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
        let mut members = Vec::new();
        for (who, host) in [(Who::Alice, Some(&topology.client)), (Who::Bob, topology.client2.as_ref())] {
            let Some(host) = host else { continue };
            let client = member(host, Part::Client(server.public()))?;
            server.register(who.name(), &client.public())?;
            members.push((who, client));
        }
        members.push((Who::Server, server));
        Ok(Self::with_hosts(topology, members, Surroundings { dht, clock_offset: 0 }))
    }

    /// The same, with every controller started and every session open.
    pub(crate) fn open(options: &TopologyOptions) -> Result<Self> {
        let mut world = Self::new(options)?;
        world.open_all()?;
        Ok(world)
    }

    /// Starts the server and then the clients, and waits until all sessions are open.
    pub(crate) fn open_all(&mut self) -> Result<()> {
        self.start_all()?;
        self.clients().into_iter().try_for_each(|client| self.wait_open(client))
    }

    /// A host's public key.
    pub(crate) fn public(&self, who: Who) -> PublicKey {
        self.setup(who).public()
    }

    /// Sets the clocks of all hosts so that `elapsed` of a window of `window` is over, and gives them windows of this
    /// length. To be called before any controller starts.
    pub(crate) fn begin_in_window(&mut self, window: Duration, elapsed: Duration) -> Result<()> {
        let past = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() % window.as_nanos();
        self.extra.clock_offset = (elapsed.as_nanos().cast_signed() - past.cast_signed()) as i64;
        for who in self.hosts() {
            let offset = self.extra.clock_offset;
            let member = self.setup_mut(who);
            member.window = format!("{}s", window.as_secs());
            member.set_clock(offset)?;
        }
        Ok(())
    }

    /// Length of a window.
    pub(crate) fn window(&self) -> Result<Duration> {
        Ok(humantime::parse_duration(&self.setup(Who::Server).window)?)
    }

    /// Makes a host's clock wrong by `error` ns.
    pub(crate) fn set_clock_error(&self, who: Who, error: i64) -> Result<()> {
        self.setup(who).set_clock(self.extra.clock_offset + error)
    }

    /// The Unix time by the clocks of the hosts, in ns.
    pub(crate) fn now(&self) -> Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().cast_signed();
        Ok(u64::try_from(now + i128::from(self.extra.clock_offset))?)
    }

    /// Sleeps until `elapsed` of the present period of this length is over on the hosts' clocks.
    pub(crate) fn sleep_into(&self, period: Duration, elapsed: Duration) -> Result<()> {
        let (length, past) = (period.as_nanos() as u64, self.now()? % period.as_nanos() as u64);
        thread::sleep(Duration::from_nanos((length + elapsed.as_nanos() as u64 - past) % length));
        Ok(())
    }

    /// The router between all hosts.
    pub(crate) fn router(&self) -> &Netns {
        &self.topology().router
    }

    /// Starts a client's controller; returns the time from before its start to the first inner packet of the client's
    /// that the server has received.
    pub(crate) fn start_timed(&mut self, client: Who) -> Result<Duration> {
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

    /// Runs `mtd ARGS…` for a host's controller, which must succeed, and returns what it prints.
    pub(crate) fn mtd(&self, who: Who, args: &[&str]) -> Result<String> {
        let output = self.controller(who)?.command(self.netns(who), args)?;
        ensure!(output.status.success(), "mtd {args:?} on {who:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The server's handshakes so far.
    pub(crate) fn handshakes(&self) -> Result<Handshakes> {
        self.status(Who::Server)?.handshakes.context("the server tells nothing about handshakes")
    }

    /// Waits until the server has published `count` introductions, one for each client and window.
    pub(crate) fn wait_published(&self, count: u64) -> Result<()> {
        let published = || Ok(self.status(Who::Server)?.rendezvous.is_some_and(|it| it.published >= count));
        wait_until("the introductions to be published", PATIENCE, published).with_context(|| self.explain())
    }

    /// A client's session, as its own `mtd sessions --json` has it.
    pub(crate) fn session(&self, client: Who) -> Result<Session> {
        let sessions = self.controller(client)?.sessions(self.netns(client))?;
        ensure!(sessions.len() == 1, "{client:?} has one server, not {sessions:?}");
        Ok(sessions.into_iter().next().expect("one"))
    }

    /// The sessions with a client, as the server's `mtd sessions --json` has them.
    pub(crate) fn sessions_with(&self, client: Who) -> Result<Vec<Session>> {
        let mut sessions = self.controller(Who::Server)?.sessions(self.netns(Who::Server))?;
        sessions.retain(|session| session.name == client.name());
        Ok(sessions)
    }

    /// Whether both ends say that a client's session is open.
    pub(crate) fn is_open(&self, client: Who) -> Result<bool> {
        let open = |session: &Session| session.state == SessionState::Open && session.hint.is_none();
        let far = self.sessions_with(client)?;
        Ok(open(&self.session(client)?) && !far.is_empty() && far.iter().all(open))
    }

    /// Waits until both ends say that a client's session is open, and the client reaches the server in both IP
    /// versions.
    pub(crate) fn wait_open(&self, client: Who) -> Result<()> {
        wait_until("the session to open", PATIENCE, || self.is_open(client))
            .and_then(|()| {
                let addresses: [IpAddr; 2] = [SERVER_V6.into(), SERVER_V4.into()];
                addresses.into_iter().try_for_each(|to| self.netns(client).wait_reachable(to, PATIENCE))
            })
            .with_context(|| format!("{client:?}: {}", self.explain()))
    }

    /// A client's own address in the tunnel.
    pub(crate) fn address(&self, client: Who, inner: Inner) -> Result<IpAddr> {
        let addresses = self.session(client)?.tunnel.local;
        let found = addresses.iter().find(|address| address.is_ipv6() == (inner == Inner::V6));
        found.copied().with_context(|| format!("{client:?} has no {inner:?} address, but {addresses:?}"))
    }

    /// Starts traffic between a client and the server, as [`World::load_between`] does.
    pub(crate) fn load(&self, client: Who, inner: Inner) -> Result<Load> {
        self.load_between(client, inner, |who, inner| match (who, inner) {
            (Who::Server, Inner::V4) => Ok(SERVER_V4.into()),
            (Who::Server, Inner::V6) => Ok(SERVER_V6.into()),
            (client, inner) => self.address(client, inner),
        })
    }
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
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
