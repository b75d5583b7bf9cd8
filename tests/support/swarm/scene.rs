//! A swarm that connects to a real server, and the cost of that.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use ipnet::Ipv6Net;
use mtd::keys::{PublicKey, SecretKey};
use mtd::proto::rendezvous::{Introduction, Rendezvous, Shared, window_start};
use mtd::rendezvous::{DhtConfig, FetchError, FetchOptions, Fetcher, MainlineStore};
use mtd::status::{SessionState, Status};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::meeting::{Meeting, WINDOW};
use super::{Swarm, reading};
use crate::controller::Controller;
use crate::dht::REQUEST_TIMEOUT;
use crate::link::Via;
use crate::netns::Netns;

/// Addresses of the clients, a /64 each.
const SITE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xca11, 0, 0, 0, 0, 0);

/// Maximum number of searches at a time. With more, answers are lost and everything gets slower.
const SEARCHES: usize = 8;

/// How long publishing and fetching may take.
const MEETING: Duration = Duration::from_mins(1);
/// How long the handshakes may take. Normally they take seconds.
const CONNECTING: Duration = Duration::from_secs(30);
const ECHO: Duration = Duration::from_secs(10);

/// A server and its clients before the first handshake; each client has its introduction. Fields are dropped in order.
pub struct Scene {
    swarm: Swarm,
    server: Controller,
    meeting: Meeting,
    clients: usize,
    /// From the server's start until it had published for all clients.
    pub publication: Duration,
    /// From the first search until all clients had their introduction.
    pub fetching: Duration,
}

/// The cost of the sessions.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// From the clients' start until every session was open.
    pub wall: Duration,
    /// Processor time of the server in that time: handshakes, slots, housekeeping.
    pub server: Duration,
    /// Handshakes a second of one core of the server.
    pub per_second_core: f64,
    /// Memory of the kernel's maps for each session for which there is room.
    pub kernel_bytes_per_session: f64,
    /// Memory of the kernel's maps that does not depend on the number of sessions.
    pub kernel_bytes_fixed: u64,
    /// Growth of the server's process for each session: allocated memory, including free memory that the allocator keeps.
    pub controller_bytes_per_session: f64,
    /// The time after which half of the clients had a session.
    pub median: Duration,
    /// Packets to the clients that belonged to no session, such as late copies of answers.
    pub strays: u64,
}

impl Scene {
    /// Registers this number of clients at a server, starts it, and waits until it has published. Then every client fetches
    /// its introduction.
    ///
    /// # Errors
    /// When something cannot be set up, or an introduction is not found.
    pub fn new(clients: usize) -> Result<Self> {
        let site = Ipv6Net::new(SITE, 48)?;
        let meeting = Meeting::new(clients)?;
        let topology = meeting.topology();
        topology.router.add_route(site.into(), Via::Gateway(topology.client.address.into()))?;
        let (server, publication) = meeting.publish(MEETING)?;

        let start = Instant::now();
        let (public, keys) = (meeting.public(), meeting.clients());
        let introductions = fetch(&topology.client.netns, meeting.bootstrap(), &public, keys)?;
        let fetching = start.elapsed();
        let host = &topology.client;
        let members = keys.iter().cloned().zip(introductions).collect();
        let swarm = Swarm::new(&host.netns, &host.ifname, site, &public, WINDOW, members)?;
        Ok(Self { swarm, server, meeting, clients, publication: publication.wall, fetching })
    }

    /// Connects all clients at once; each then exchanges an ordinary packet with the server.
    ///
    /// # Errors
    /// When a client does not succeed at the first attempt, or the server's counts disagree.
    pub fn connect(&mut self) -> Result<Costs> {
        let process = &self.server.process;
        let before = (process.processor_time()?, process.own_memory()?);
        let wall = self.swarm.connect(CONNECTING)?;
        let server = process.processor_time()?.saturating_sub(before.0);
        let grown = process.own_memory()?.saturating_sub(before.1);
        self.swarm.echo(ECHO)?;
        self.check(&self.status()?)?;
        let clients = self.clients as f64;
        let times = self.swarm.times();
        let (kernel_bytes_per_session, kernel_bytes_fixed) = map_bytes(process.pid())?;
        Ok(Costs {
            wall,
            server,
            per_second_core: clients / server.as_secs_f64(),
            kernel_bytes_per_session,
            kernel_bytes_fixed,
            controller_bytes_per_session: grown as f64 / clients,
            median: times[times.len() / 2],
            strays: self.swarm.strays(),
        })
    }

    /// The server's status.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.server.status(&self.meeting.topology().server.netns)
    }

    /// Stops server and clients.
    ///
    /// # Errors
    /// When the server fails to stop cleanly, or the capture lost packets to the clients.
    pub fn stop(mut self) -> Result<()> {
        self.server.stop()?;
        let lost = self.swarm.stop()?;
        ensure!(lost == 0, "the capture lost {lost} packets");
        Ok(())
    }

    /// Checks that every client has one open session, with a key and tunnel addresses of its own, and that only repeated
    /// handshakes were refused.
    fn check(&self, status: &Status) -> Result<()> {
        let open = status.sessions.iter().filter(|session| session.state == SessionState::Open);
        let open: Vec<_> = open.collect();
        let keys: HashSet<_> = open.iter().map(|session| &session.public_key).collect();
        let addresses: HashSet<_> = open.iter().flat_map(|session| &session.tunnel.remote).collect();
        ensure!(
            (status.sessions.len(), open.len(), keys.len(), addresses.len())
                == (self.clients, self.clients, self.clients, 2 * self.clients),
            "{} sessions, {} of them open, of {} clients with {} tunnel addresses; there are {} clients",
            status.sessions.len(),
            open.len(),
            keys.len(),
            addresses.len(),
            self.clients
        );
        // At least a ping and an echo request came through each session.
        let idle =
            open.iter().filter(|session| session.received.packets < 2 || session.sent.packets < 2).count();
        ensure!(idle == 0, "{idle} sessions count less than two packets each way");
        let handshakes = status.handshakes.as_ref().context("no handshakes in the status")?;
        // A repeated request may still be on its way when the answer to the first one has opened the session.
        ensure!(
            handshakes.refused.keys().all(|reason| reason == "replayed") && handshakes.half_open == 0,
            "handshakes were refused or are half open: {handshakes:?}"
        );
        Ok(())
    }
}

/// Fetches every client's introduction of the present window from the DHT.
fn fetch(
    netns: &Netns,
    bootstrap: Vec<String>,
    server: &PublicKey,
    clients: &[SecretKey],
) -> Result<Vec<HashMap<u64, Introduction>>> {
    let window = window_start(reading()?.wall.seconds(), WINDOW.as_secs());
    let rendezvous = clients.iter().map(|client| {
        let shared = Shared::new(client, server).context("a key is of no use")?;
        Ok(shared.rendezvous(server, &client.public(), window))
    });
    let rendezvous: Vec<_> = rendezvous.collect::<Result<_>>()?;
    let search = || -> Result<Vec<Introduction>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(search(bootstrap, rendezvous))
    };
    let found = netns.enter(search)??;
    Ok(found.into_iter().map(|introduction| HashMap::from([(window, introduction)])).collect())
}

async fn search(bootstrap: Vec<String>, rendezvous: Vec<Rendezvous>) -> Result<Vec<Introduction>> {
    let config = DhtConfig { bootstrap, request_timeout: REQUEST_TIMEOUT, ..DhtConfig::default() };
    let store = Arc::new(MainlineStore::new(config));
    let fetcher = Fetcher::new(store, FetchOptions::default());
    let room = Arc::new(Semaphore::new(SEARCHES));
    let deadline = Instant::now() + MEETING;
    let mut searches = JoinSet::new();
    for (n, rendezvous) in rendezvous.into_iter().enumerate() {
        let (fetcher, room) = (fetcher.clone(), Arc::clone(&room));
        searches.spawn(async move {
            let _permit = room.acquire().await?;
            loop {
                match fetcher.fetch(std::slice::from_ref(&rendezvous)).await {
                    Ok(found) => return Ok((n, found.introduction)),
                    // The machine is busy, and the answers came too late.
                    Err(FetchError::Store(_) | FetchError::Absent { .. }) if Instant::now() < deadline => {}
                    Err(error) => return Err(anyhow::Error::from(error)),
                }
            }
        });
    }
    let mut found = Vec::new();
    while let Some(ended) = searches.join_next().await {
        found.push(ended??);
    }
    found.sort_by_key(|(n, _)| *n);
    Ok(found.into_iter().map(|(_, introduction)| introduction).collect())
}

/// The maps whose size grows with the number of sessions for which there is room.
const SESSION_MAPS: [&str; 6] =
    ["SESSIONS", "SESSION_STATE", "SESSION_NOTES", "SLOTS", "ADDRESSES", "FILTER"];

/// Memory of a process's BPF maps in bytes: first for each session for which there is room, then everything else.
///
/// # Errors
/// When the process has no data plane.
pub fn map_bytes(pid: u32) -> Result<(f64, u64)> {
    let mut maps = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes), true) =
            (field("map_id:"), field("memlock:"), text.contains("map_type:"))
        {
            maps.insert(id, bytes);
        }
    }
    let (mut places, mut growing, mut fixed) = (0, 0, 0);
    for (id, bytes) in maps {
        let info = MapInfo::from_id(id.try_into()?)?;
        let name = info.name_as_str().context("a map without a name")?;
        if name == "SESSIONS" {
            places = info.max_entries();
        }
        *(if SESSION_MAPS.contains(&name) { &mut growing } else { &mut fixed }) += bytes;
    }
    ensure!(places > 0, "the process has no sessions");
    Ok((growing as f64 / f64::from(places), fixed))
}
