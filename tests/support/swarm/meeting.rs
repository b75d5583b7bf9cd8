//! The rendezvous of a swarm and its server: a private DHT, and the server with all clients registered.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use mtd::keys::{PublicKey, SecretKey};

use crate::controller::{Controller, End, Setup};
use crate::dht::PrivateDht;
use crate::link::Via;
use crate::netns::Netns;
use crate::topology::{Delivery, Host, Topology, TopologyOptions};

/// Length of a rendezvous window.
pub const WINDOW: Duration = Duration::from_mins(15);
/// Nodes of the DHT.
pub const NODES: u32 = 20;
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// How often the server is asked for its progress. Answering costs it time.
const POLL: Duration = Duration::from_millis(200);

/// A private DHT, and a server that is not running yet. Fields are dropped in order.
pub struct Meeting {
    setup: Setup,
    dht: PrivateDht,
    topology: Topology,
    identity: SecretKey,
    clients: Vec<SecretKey>,
}

/// The cost of publishing for all clients.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// From the server's start to the last publication.
    pub wall: Duration,
    /// Processor time of the server in that time: its start, reading the registry, sealing, the DHT.
    pub server: Duration,
    /// Attempts that failed and were repeated.
    pub failed: u64,
}

impl Meeting {
    /// Starts the DHT, and registers `clients` clients at the server.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub fn new(clients: usize) -> Result<Self> {
        let topology = Topology::standard(&TopologyOptions::default())?;
        let dht = PrivateDht::in_namespace(&topology.router, FIRST_NODE, NODES)?;
        connect_ipv4(&topology.router, &topology.server, 1)?;
        connect_ipv4(&topology.router, &topology.client, 2)?;
        let identity = SecretKey::generate()?;
        let clients: Vec<_> = (0..clients).map(|_| SecretKey::generate()).collect::<Result<_, _>>()?;
        let setup = register(&topology.server, &identity, &clients, &dht.bootstrap())?;
        Ok(Self { setup, dht, topology, identity, clients })
    }

    /// Sets the server's clock to the beginning of a window. Later in a window, it would publish for the next one too.
    ///
    /// # Errors
    /// When the clock cannot be set.
    pub fn begin_window(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        self.setup.set_clock(-i64::try_from(now % WINDOW.as_nanos())?)
    }

    /// Ends some nodes of the DHT. The server still tries to ask them.
    ///
    /// # Errors
    /// When a node continues to answer.
    pub fn lose_nodes(&mut self, count: usize) -> Result<()> {
        self.dht.kill(count)
    }

    /// The network.
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The nodes of the DHT, as `host:port`.
    pub fn bootstrap(&self) -> Vec<String> {
        self.dht.bootstrap()
    }

    /// The server's public key.
    pub fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// The clients' keys.
    pub fn clients(&self) -> &[SecretKey] {
        &self.clients
    }

    /// Starts the server and waits until it has published for all clients. The first publication is as fast as the server
    /// can make it.
    ///
    /// # Errors
    /// When that is not finished in time.
    pub fn publish(&self, timeout: Duration) -> Result<(Controller, Publication)> {
        let start = Instant::now();
        let netns = &self.topology.server.netns;
        let server = self.setup.start(netns)?;
        loop {
            let rendezvous = server.status(netns)?.rendezvous.context("no rendezvous in the status")?;
            let (wall, all) = (start.elapsed(), self.clients.len() as u64);
            if rendezvous.published >= all {
                let worked = server.process.processor_time()?;
                return Ok((server, Publication { wall, server: worked, failed: rendezvous.failed }));
            }
            let done = rendezvous.published;
            ensure!(wall < timeout, "published for {done} of {all} clients in {wall:.1?}");
            thread::sleep(POLL);
        }
    }
}

/// A server's configuration, with all clients registered in the server's folder.
fn register(host: &Host, identity: &SecretKey, clients: &[SecretKey], bootstrap: &[String]) -> Result<Setup> {
    let setup = Setup::new(host, &End::new(0, host), Delivery::Routed)?;
    let (key, folder) = (setup.folder().join("server.key"), setup.folder().join("clients"));
    fs::write(&key, format!("{}\n", *identity.to_base64()))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    fs::create_dir(&folder)?;
    for (n, client) in clients.iter().enumerate() {
        fs::write(folder.join(format!("client{n}.pub")), format!("{}\n", client.public()))?;
    }
    // Renewing keys needs two sessions for each client. The limit of handshakes is so high that it has no effect.
    let most = 2 * clients.len();
    Ok(setup
        .with_line(&format!("private_key_file = \"{}\"\nmax_sessions = {most}", key.display()))
        .with_line(&format!("[rendezvous]\nbootstrap = {bootstrap:?}"))
        .with_line(
            "[listen]\npool = [\"fd00:6d74::/64\", \"10.78.0.0/16\"]\nmax_handshakes_per_second = 10000",
        ))
}

/// Gives a host an IPv4 address on its link to the router, and a default route.
fn connect_ipv4(router: &Netns, host: &Host, link: u8) -> Result<()> {
    let address = |number| Ipv4Addr::new(198, 19, link, number);
    let net = |number| Ok::<_, ipnet::PrefixLenError>(IpNet::V4(Ipv4Net::new(address(number), 24)?));
    router.add_address(&host.gateway_ifname, net(1)?)?;
    host.netns.add_address(&host.ifname, net(2)?)?;
    let nodes = IpNet::V4(Ipv4Net::new(Ipv4Addr::new(198, 18, 0, 0), 24)?);
    host.netns.add_route(nodes, Via::Gateway(address(1).into()))
}
