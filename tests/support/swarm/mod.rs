//! Many clients in one process. Each is the library's client machine with a key and a prefix of its own; time, clocks and
//! packets are real, and the other end is a real server. Only the work of the programs and maps of a client's host is done
//! here: sealing, opening, and finding the session to which a packet belongs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::Ipv6Net;
use mtd::keys::{PublicKey, SecretKey};
use mtd::model::{BootNs, ClockOffset, MiddleboxChoice, Reading, UnixNs};
use mtd::proto::client::{Client, Fetched, Phase, Settings, Trouble};
use mtd::proto::exchange::{Action, Install, Random, Received, SessionId};
use mtd::proto::packet;
use mtd::proto::rendezvous::Introduction;
use mtd::proto::session::Session;
use mtd_common::abi::MODE_INTRODUCTION;
use mtd_common::address::{Endpoint, Network};
use mtd_common::slot;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};
use nix::time::{ClockId, clock_gettime};

use crate::capture::{Capture, CaptureOptions, Frame};
use crate::netns::Netns;
use crate::packet::{ETHERNET_LEN, IPV6_LEN, UDP_LEN};

mod echo;
mod meeting;
mod scene;

pub use meeting::{Meeting, NODES, Publication, WINDOW};
pub use scene::{Costs, Scene, map_bytes};

/// How often every machine is told the time: as often as in a controller.
const POLL: Duration = Duration::from_millis(100);

/// Maximum number of clients in one /48: the number of its /64 prefixes.
const MOST: usize = 1 << 16;

/// The clients, all in one namespace.
pub struct Swarm {
    members: Vec<Member>,
    socket: OwnedFd,
    frames: Receiver<Vec<u8>>,
    capture: Capture,
    polled: Instant,
    started: Option<Instant>,
    /// Packets to the clients that belong to none of their sessions, such as late copies of answers.
    strays: u64,
}

struct Member {
    machine: Client,
    tables: Tables,
    introductions: HashMap<u64, Introduction>,
    troubles: Vec<Trouble>,
    opened: Option<Duration>,
    echo: echo::Echo,
}

/// The state of a session that maps and programs would keep.
#[derive(Default)]
struct Tables {
    entries: BTreeMap<SessionId, Entry>,
    route: Option<SessionId>,
}

struct Entry {
    session: Arc<Session>,
    offset: ClockOffset,
    sequence: u64,
    used: HashSet<u64>,
}

impl Entry {
    fn new(install: Install, now: Reading) -> Self {
        let Install { session, offset, .. } = install;
        let sequence = slot::sequence_seed(offset.session(now.boot).0);
        Self { session, offset, sequence, used: HashSet::new() }
    }

    /// Seals an inner packet as the send program does.
    fn seal(&mut self, inner: &[u8], now: Reading) -> Option<Vec<u8>> {
        let time = self.offset.session(now.boot).0;
        let number = slot::number(time, self.session.phase, self.session.period);
        let (local, remote) = self.session.endpoints(number);
        self.sequence += 1;
        packet::seal(&self.session, &packet::Path { slot: number, local, remote }, self.sequence, inner)
    }

    /// Opens a packet as the receive program does: only if it comes in a live slot, between that slot's endpoints, and for
    /// the first time.
    fn open(
        &mut self,
        source: Endpoint,
        destination: Endpoint,
        packet: &[u8],
        now: Reading,
    ) -> Option<(u32, Vec<u8>)> {
        let time = self.offset.session(now.boot).0;
        let current = slot::number(time, self.session.phase, self.session.period);
        (current.saturating_sub(1)..=current + 1)
            .filter(|number| self.session.endpoints(*number) == (destination, source))
            .find_map(|number| {
                let (sequence, inner) = packet::open(&self.session, number as u32, packet).ok()?;
                self.used.insert(sequence).then_some((number as u32, inner))
            })
    }
}

impl Swarm {
    /// Makes clients with these keys in a namespace to whose interface packets for `site` (a /48) are routed. Client number
    /// n has the n-th /64 of the site. The clients know only the server's public key and the introductions that are given
    /// here, by window.
    ///
    /// # Errors
    /// Without root, when a key cannot be used, or the site is too small.
    pub fn new(
        netns: &Netns,
        ifname: &str,
        site: Ipv6Net,
        server: &PublicKey,
        window: Duration,
        clients: Vec<(SecretKey, HashMap<u64, Introduction>)>,
    ) -> Result<Self> {
        ensure!(site.prefix_len() == 48 && clients.len() <= MOST, "clients need a /64 each out of a /48");
        let (sender, frames) = mpsc::channel();
        let capture = Capture::start_with(netns, ifname, &CaptureOptions::default(), move |frame| {
            if let Some(packet) = to_site(frame, site) {
                // The receiver is dropped together with the swarm.
                let _ = sender.send(packet.to_vec());
            }
        })?;
        let socket = netns.enter(|| {
            socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        })?;
        let members = clients.into_iter().enumerate().map(|(n, (identity, introductions))| {
            let settings = Settings {
                identity,
                server: *server,
                window: window.as_secs(),
                keepalive: Duration::from_secs(10).as_nanos() as u64,
                period_ms: 0,
                allowed: Vec::new(),
                // Nothing is between them and the server.
                middlebox: MiddleboxChoice::Off,
            };
            let mut machine = Client::new(settings, random()).context("a key is of no use")?;
            machine.begin_in(Some(network(site, n)));
            let (troubles, echo) = (Vec::new(), echo::Echo::default());
            Ok(Member { machine, tables: Tables::default(), introductions, troubles, opened: None, echo })
        });
        Ok(Self {
            members: members.collect::<Result<_>>()?,
            socket: socket.context("no raw socket")?,
            frames,
            capture,
            polled: Instant::now(),
            started: None,
            strays: 0,
        })
    }

    /// Connects all clients at once, and returns when each has received something through its session. Returns the time
    /// that this took.
    ///
    /// # Errors
    /// When a client has no session in time, or had to repeat its handshake.
    pub fn connect(&mut self, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        self.started = Some(start);
        self.poll()?;
        let result =
            self.run_until(timeout, |swarm| swarm.members.iter().all(|member| member.opened.is_some()));
        let open = self.members.iter().filter(|member| member.opened.is_some()).count();
        result.with_context(|| format!("{open} of {} clients have a session", self.members.len()))?;
        let took = start.elapsed();
        let failed: Vec<_> = self
            .members
            .iter()
            .flat_map(|member| &member.troubles)
            .map(|trouble| format!("{trouble:?}"))
            .collect();
        ensure!(failed.is_empty(), "{} handshakes failed on the way: {}", failed.len(), failed.join(", "));
        Ok(took)
    }

    /// How long the clients took from their start to the first valid packet of a session, sorted.
    pub fn times(&self) -> Vec<Duration> {
        let mut times: Vec<_> = self.members.iter().filter_map(|member| member.opened).collect();
        times.sort_unstable();
        times
    }

    /// Packets to the clients that belonged to none of their sessions.
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// Ends the capture. Returns how many packets the capture lost, which therefore did not reach the clients.
    ///
    /// # Errors
    /// When it had failed.
    pub fn stop(self) -> Result<u64> {
        Ok(self.capture.stop()?.kernel_drops)
    }

    /// Receives packets and polls the machines until `done`.
    fn run_until(&mut self, timeout: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // A limited number of packets, because the machines have to be told the time as well.
            for _ in 0..64 {
                match self.frames.recv_timeout(Duration::from_millis(1)) {
                    Ok(packet) => self.deliver(&packet)?,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => bail!("the capture has ended"),
                }
            }
            if self.polled.elapsed() >= POLL {
                self.poll()?;
            }
            if done(self) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {timeout:?} for the clients");
        }
    }

    fn poll(&mut self) -> Result<()> {
        self.polled = Instant::now();
        for n in 0..self.members.len() {
            let now = reading()?;
            self.members[n].machine.poll(now);
            self.act(n, now)?;
        }
        Ok(())
    }

    /// Handles a packet to one of the clients' prefixes.
    fn deliver(&mut self, packet: &[u8]) -> Result<()> {
        let end = |at: usize, port: usize| Endpoint {
            address: std::array::from_fn(|n| packet[at + n]),
            port: u16::from_be_bytes([packet[port], packet[port + 1]]),
        };
        let (source, destination) = (end(8, 40), end(24, 42));
        let n = usize::from(u16::from_be_bytes([destination.address[6], destination.address[7]]));
        let now = reading()?;
        let Some(member) = self.members.get_mut(n) else {
            self.strays += 1;
            return Ok(());
        };
        let mut entries = member.tables.entries.iter_mut();
        let found =
            entries.find_map(|(id, entry)| Some((*id, entry.open(source, destination, packet, now)?)));
        let Some((id, (slot, inner))) = found else {
            self.strays += 1;
            return Ok(());
        };
        member.machine.handle_valid(id, now.boot, now);
        match packet::control_message(&inner) {
            Some(message) => {
                let inner_source =
                    inner.get(8..24).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
                member.machine.handle_control(Received { id, slot, source, inner_source, message }, now);
            }
            None => member.echo.receive(&inner, member.machine.tunnel()),
        }
        self.act(n, now)
    }

    /// Carries out the actions of a machine.
    fn act(&mut self, n: usize, now: Reading) -> Result<()> {
        let Some(member) = self.members.get_mut(n) else { return Ok(()) };
        while let Some(action) = member.machine.next_action() {
            let tables = &mut member.tables;
            match action {
                Action::Install(install) => {
                    tables.entries.insert(install.id, Entry::new(*install, now));
                }
                Action::Route(id) => tables.route = Some(id),
                Action::Clock { id, offset } => {
                    if let Some(entry) = tables.entries.get_mut(&id) {
                        entry.offset = offset;
                    }
                }
                Action::Remove(id) => {
                    tables.entries.remove(&id);
                    tables.route = tables.route.filter(|route| *route != id);
                }
                Action::Transmit { packet, .. } => transmit(&self.socket, &packet)?,
                // All is sent in the present slot, as openers are.
                Action::Control { id, message, .. } | Action::ControlIn { id, message, .. } => {
                    let Some(entry) = tables.entries.get_mut(&id) else { continue };
                    let [from, to] = entry.session.control_addresses();
                    let sealed = entry.seal(&packet::control(from, to, &message), now);
                    transmit(&self.socket, &sealed.context("a control message is too long")?)?;
                }
                Action::Fetch { window } => {
                    let found = member.introductions.get(&window).cloned();
                    let fetched = found.map_or(Fetched::Absent, Fetched::Found);
                    member.machine.handle_fetched(window, fetched, now);
                }
                Action::Publish(_) => bail!("a client publishes nothing"),
                Action::Answer { .. } => bail!("a server opens no slots"),
                Action::Untranslated(_) => bail!("no router is between a client and its server's addresses"),
            }
        }
        if let Some(trouble) = member.machine.trouble()
            && member.troubles.last() != Some(&trouble)
        {
            member.troubles.push(trouble);
        }
        if member.opened.is_none() && member.machine.phase() == Phase::Open {
            member.opened = self.started.map(|start| start.elapsed());
        }
        Ok(())
    }
}

/// The UDP packet, from the IPv6 header on, in a received frame whose destination is in the site.
fn to_site(frame: &Frame, site: Ipv6Net) -> Option<&[u8]> {
    let (ethernet, packet) = frame.data.split_at_checked(ETHERNET_LEN)?;
    let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    let wanted = !frame.outgoing
        && ethernet[12..] == [0x86, 0xdd]
        && packet[6] == 17
        && packet.len() >= IPV6_LEN + UDP_LEN
        && site.contains(&Ipv6Addr::from(destination));
    wanted.then_some(packet)
}

/// The n-th /64 of a /48.
fn network(site: Ipv6Net, n: usize) -> Network {
    let mut prefix = site.network().octets();
    prefix[6..8].copy_from_slice(&(n as u16).to_be_bytes());
    Network { prefix, length: 64 }
}

fn transmit(socket: &OwnedFd, packet: &[u8]) -> Result<()> {
    let destination: [u8; 16] = packet.get(24..40).context("a packet without a header")?.try_into()?;
    let to = SockaddrIn6::from(SocketAddrV6::new(destination.into(), 0, 0, 0));
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).context("sending for a client")?;
    Ok(())
}

/// Both clocks of this host.
fn reading() -> Result<Reading> {
    let read = |clock| Ok(Duration::from(clock_gettime(clock)?).as_nanos() as u64);
    let times: nix::Result<_> = (|| Ok((read(ClockId::CLOCK_BOOTTIME)?, read(ClockId::CLOCK_REALTIME)?)))();
    let (boot, wall) = times.context("no clock")?;
    Ok(Reading { boot: BootNs(boot), wall: UnixNs(wall) })
}

fn random() -> Random {
    Box::new(|bytes| getrandom::fill(bytes).expect("no randomness from the kernel"))
}

/// Whether a session carries inner packets.
const fn carries(session: &Session) -> bool {
    session.mode != MODE_INTRODUCTION
}
