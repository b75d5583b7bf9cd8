//! Both ends of a rendezvous in one process, in virtual time, over a network that loses, delays, duplicates and
//! re-orders, with a data plane and a DHT that do what the real ones do: for the tests of both machines.

mod dice;
mod firewall;
mod restarts;
mod tables;
mod translation;

use std::collections::{BTreeMap, HashMap};

use mtd_common::abi;
use mtd_common::address::{Endpoint, Network};

pub(super) use self::dice::Dice;
pub(super) use self::firewall::Firewall;
pub(super) use self::tables::Tables;
pub(super) use self::translation::Translation;
use super::client::{self, Client, Fetched, Phase};
use super::clock::Reading;
use super::exchange::{Action, Received, SECOND, SendSlot, SessionId};
use super::messages::Tunnel;
use super::packet::{self};
use super::rendezvous::Introduction;
use super::server::{self, Admission, Server};
use crate::keys::SecretKey;
use crate::model::{BootNs, MiddleboxChoice, UnixNs};

pub(super) const MILLISECOND: u64 = 1_000_000;
/// Time between two steps of the world.
const STEP: u64 = 50 * MILLISECOND;
/// Times of the clocks when a model begins.
const EPOCH: u64 = 1_800_000_123 * SECOND;

/// One machine on its host.
pub(super) enum Machine {
    Client(Box<Client>),
    Server(Box<Server>),
}

/// A host with a clock of its own.
pub(super) struct Host {
    pub(super) machine: Option<Machine>,
    pub(super) tables: Tables,
    /// Wall clock minus boot time.
    pub(super) wall: u64,
    /// Packets to these prefixes come here.
    pub(super) network: Option<Network>,
    /// And those to this one.
    pub(super) old_network: Option<Network>,
    pub(super) identity: SecretKey,
    /// Application data that arrived.
    pub(super) delivered: Vec<Vec<u8>>,
    /// The router in front of it.
    pub(super) router: Option<Translation>,
    /// A stateful firewall in front of it.
    pub(super) firewall: Option<Firewall>,
}

impl Host {
    pub(super) fn now(&self, boot: u64) -> Reading {
        Reading { boot: BootNs(boot), wall: UnixNs(boot.wrapping_add(self.wall)) }
    }

    fn has_sent(&self, packet: &[u8]) -> bool {
        self.network.is_some_and(|network| network.prefix[..8] == packet[8..16])
    }
}

/// Faults of the network.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Packets lost, of 1,000.
    pub(super) loss: u64,
    /// Packets that come twice, of 1,000.
    pub(super) duplication: u64,
    /// Largest delay in ns, drawn for each packet, so that packets overtake each other.
    pub(super) delay: u64,
    /// Fetches that find nothing, of 1,000.
    pub(super) absent: u64,
    /// The DHT is out of reach.
    pub(super) dht_gone: bool,
}

/// The world: host 0 is the server, the others are clients.
pub(super) struct World {
    pub(super) boot: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) faults: Faults,
    pub(super) dice: Dice,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    /// The published introductions: by client and window.
    pub(super) dht: HashMap<([u8; 32], u64), Introduction>,
    /// Every packet that was sent, for eavesdroppers.
    pub(super) heard: Vec<Vec<u8>>,
    pub(super) window: u64,
    /// What clients are configured to do about a middlebox.
    pub(super) middlebox: MiddleboxChoice,
}

enum Event {
    Packet(Vec<u8>),
    Fetched(usize, u64, Fetched),
}

pub(super) fn network(n: u16) -> Network {
    let [a, b] = n.to_be_bytes();
    Network { prefix: [0x20, 1, 0xd, 0xb8, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], length: 64 }
}

pub(super) fn tunnel(n: u8) -> Tunnel {
    Tunnel { v6: Some([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into()), v4: None }
}

impl World {
    /// A server and clients that know each other's public keys; nothing has begun.
    pub(super) fn new(clients: u8, seed: u64) -> Self {
        let host = |n: u8| Host {
            machine: None,
            tables: Tables::default(),
            wall: EPOCH,
            network: Some(network(u16::from(n) + 1)),
            old_network: None,
            identity: SecretKey::from_bytes([n + 1; 32]),
            delivered: Vec::new(),
            router: None,
            firewall: None,
        };
        Self {
            boot: 1000 * SECOND,
            hosts: (0..=clients).map(host).collect(),
            faults: Faults { delay: 20 * MILLISECOND, ..Faults::default() },
            dice: Dice::new(seed),
            queue: BTreeMap::new(),
            events: 0,
            dht: HashMap::new(),
            heard: Vec::new(),
            window: 900,
            middlebox: MiddleboxChoice::Auto,
        }
    }

    /// The same, started and with every session open.
    pub(super) fn open(clients: u8, seed: u64) -> Self {
        let mut world = Self::new(clients, seed);
        world.start_server();
        (1..=usize::from(clients)).for_each(|n| world.start_client(n));
        world.run(3 * SECOND);
        (1..=usize::from(clients)).for_each(|n| assert_eq!(world.phase(n), Phase::Open, "client {n}"));
        world
    }

    pub(super) fn settings(&self) -> server::Settings {
        server::Settings {
            identity: self.hosts[0].identity.clone(),
            network: network(1),
            window: self.window,
            introduction_slot: 30 * SECOND,
            grace: 300 * SECOND,
            ahead: 0,
            period: 3 * SECOND,
            longest_period: 30 * SECOND,
            mode: abi::MODE_ENCRYPT,
            idle: 60 * SECOND,
            rekey_after: 120,
            expire_after: 180,
            inner_mtu: 1428,
            tunnel: tunnel(1),
            handshakes: 1000,
            handshakes_per_client: 60,
        }
    }

    /// The newest time of publication, which a server has in its state file.
    fn published(&self) -> u64 {
        self.dht.values().map(|introduction| introduction.published_ms).max().unwrap_or(0)
    }

    /// Starts the server, with all clients registered. Without what an earlier one left.
    pub(super) fn start_server(&mut self) {
        let random = self.dice.source();
        let mut server = Server::new(self.settings(), random, self.published());
        let now = self.hosts[0].now(self.boot);
        for n in 1..self.hosts.len() {
            assert!(
                server.register(Admission::new(self.hosts[n].identity.public(), tunnel(n as u8 + 1)), now)
            );
        }
        server.poll(now);
        self.hosts[0].tables = Tables::default();
        self.hosts[0].machine = Some(Machine::Server(Box::new(server)));
        self.act(0);
    }

    fn new_client(&mut self, n: usize) -> Client {
        let settings = client::Settings {
            identity: self.hosts[n].identity.clone(),
            server: self.hosts[0].identity.public(),
            window: self.window,
            keepalive: 10 * SECOND,
            period_ms: 0,
            allowed: Vec::new(),
            middlebox: self.middlebox,
        };
        let random = self.dice.source();
        Client::new(settings, random).unwrap()
    }

    /// Starts a client. Without what an earlier one left.
    pub(super) fn start_client(&mut self, n: usize) {
        let mut client = self.new_client(n);
        client.set_network(self.hosts[n].network, &[], self.hosts[n].now(self.boot));
        self.hosts[n].tables = Tables::default();
        self.hosts[n].machine = Some(Machine::Client(Box::new(client)));
        self.act(n);
    }

    pub(super) fn client(&mut self, n: usize) -> &mut Client {
        match &mut self.hosts[n].machine {
            Some(Machine::Client(client)) => client,
            _ => panic!("host {n} runs no client"),
        }
    }

    pub(super) fn server(&mut self) -> &mut Server {
        match &mut self.hosts[0].machine {
            Some(Machine::Server(server)) => server,
            _ => panic!("no server runs"),
        }
    }

    pub(super) fn phase(&mut self, n: usize) -> Phase {
        self.client(n).phase()
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, duration: u64) {
        let end = self.boot + duration;
        while self.boot < end {
            let step = (self.boot + STEP).min(end);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= step) {
                self.boot = self.boot.max(entry.key().0);
                let event = entry.remove();
                self.handle(event);
            }
            self.boot = step;
            for n in 0..self.hosts.len() {
                self.tick(n);
            }
        }
    }

    /// Sends application data between the tunnel addresses of two hosts.
    pub(super) fn send(&mut self, from: usize, to: usize, text: &[u8]) -> bool {
        let (source, destination) = (tunnel(from as u8 + 1), tunnel(to as u8 + 1));
        let mut inner = packet::control(source.to_map()[0], destination.to_map()[0], text);
        inner[6] = 59;
        let boot = self.boot;
        let tables = &mut self.hosts[from].tables;
        let Some(id) = tables.routes.get(&destination).copied() else { return false };
        let Some(packet) = tables.seal(id, None, &inner, boot) else { return false };
        self.transmit(&packet);
        true
    }

    /// Puts a packet onto the network.
    pub(super) fn transmit(&mut self, packet: &[u8]) {
        let packet = &*match self.hosts.iter_mut().find(|host| host.has_sent(packet)) {
            Some(Host { router: Some(router), .. }) => router.outwards(packet),
            _ => packet.to_vec(),
        };
        self.heard.push(packet.to_vec());
        if let Some(firewall) = self.host_at(&packet[8..16]).and_then(|n| self.hosts[n].firewall.as_mut()) {
            firewall.out(packet, self.boot);
        }
        let copies = if self.dice.below(1000) < self.faults.duplication { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.below(1000) >= self.faults.loss {
                let delay = self.dice.below(self.faults.delay) + MILLISECOND;
                self.schedule(delay, Event::Packet(packet.to_vec()));
            }
        }
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.boot + delay, self.events), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Packet(packet) => self.deliver(&packet),
            Event::Fetched(n, window, fetched) => {
                let now = self.hosts[n].now(self.boot);
                if let Some(Machine::Client(client)) = &mut self.hosts[n].machine {
                    client.handle_fetched(window, fetched, now);
                    self.act(n);
                }
            }
        }
    }

    /// The host whose prefix begins with these bytes.
    fn host_at(&self, high: &[u8]) -> Option<usize> {
        let is_here = |network: Network| network.prefix[..8] == *high;
        self.hosts.iter().position(|host| host.network.into_iter().chain(host.old_network).any(is_here))
    }

    /// Delivers a packet at once.
    pub(super) fn deliver(&mut self, packet: &[u8]) {
        let packet = &*self
            .hosts
            .iter()
            .find_map(|host| host.router.as_ref()?.inwards(packet))
            .unwrap_or_else(|| packet.to_vec());
        let Some(n) = self.host_at(&packet[24..32]) else { return };
        let passes = |firewall: &mut Firewall| firewall.passes(packet, self.boot);
        if !self.hosts[n].firewall.as_mut().is_none_or(passes) {
            return;
        }
        let (boot, now) = (self.boot, self.hosts[n].now(self.boot));
        let host = &mut self.hosts[n];
        let (id, slot, inner) = match host.tables.receive(packet, boot) {
            Ok(received) => received,
            Err(reason) => return *host.tables.drops.entry(reason).or_default() += 1,
        };
        match packet::control_message(&inner) {
            Some(message) => {
                let port = u16::from_be_bytes([packet[40], packet[41]]);
                let source = Endpoint { address: packet[8..24].try_into().unwrap(), port };
                let inner_source = inner[8..24].try_into().unwrap();
                let received = Received { id, slot, source, inner_source, message };
                match &mut host.machine {
                    Some(Machine::Client(client)) => client.handle_control(received, now),
                    Some(Machine::Server(server)) => server.handle_control(received, now),
                    None => {}
                }
            }
            None => host.delivered.push(inner[40..].to_vec()),
        }
        self.note_valid(n);
        self.act(n);
    }

    fn note_valid(&mut self, n: usize) {
        let (host, boot) = (&mut self.hosts[n], self.boot);
        let now = host.now(boot);
        for (id, entry) in &host.tables.entries {
            if entry.last_valid.happened() {
                match &mut host.machine {
                    Some(Machine::Client(client)) => {
                        client.handle_valid(*id, entry.last_valid, now);
                        if let Some(slot) = entry.heard.last_key_value() {
                            client.handle_heard(*id, *slot.0);
                        }
                    }
                    Some(Machine::Server(server)) => server.handle_valid(*id, entry.last_valid, now),
                    None => {}
                }
            }
        }
    }

    fn tick(&mut self, n: usize) {
        self.note_valid(n);
        let now = self.hosts[n].now(self.boot);
        match &mut self.hosts[n].machine {
            Some(Machine::Client(client)) => client.poll(now),
            Some(Machine::Server(server)) => server.poll(now),
            None => return,
        }
        self.act(n);
    }

    /// Carries out the requests of a state machine.
    pub(super) fn act(&mut self, n: usize) {
        loop {
            let action = match &mut self.hosts[n].machine {
                Some(Machine::Client(client)) => client.next_action(),
                Some(Machine::Server(server)) => server.next_action(),
                None => None,
            };
            let Some(action) = action else { return };
            self.carry_out(n, action);
        }
    }

    fn send_control(&mut self, n: usize, id: SessionId, slot: Option<SendSlot>, message: &[u8]) {
        let (boot, tables) = (self.boot, &mut self.hosts[n].tables);
        let Some(entry) = tables.entries.get(&id) else { return };
        let (from, to) = (entry.local.to_map()[0], entry.remote.to_map()[0]);
        let inner = packet::control(from, to, message);
        if let Some(packet) = tables.seal(id, slot, &inner, boot) {
            self.transmit(&packet);
        }
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        let boot = self.boot;
        let tables = &mut self.hosts[n].tables;
        match action {
            Action::Install(install) => tables.install(*install, boot),
            Action::Route(id) => {
                if let Some(entry) = tables.entries.get(&id) {
                    tables.routes.insert(entry.remote, id);
                }
            }
            Action::Clock { id, offset } => {
                if let Some(entry) = tables.entries.get_mut(&id) {
                    entry.offset = offset;
                }
            }
            Action::Untranslated(id) => {
                if let Some(entry) = tables.entries.get_mut(&id) {
                    entry.translated = false;
                }
            }
            Action::Remove(id) => {
                assert!(tables.entries.remove(&id).is_some(), "host {n} removes what is not there: {id:?}");
                tables.routes.retain(|_, route| *route != id);
            }
            Action::Transmit { packet, .. } => self.transmit(&packet),
            Action::Control { id, about, message } => {
                if tables.entries.contains_key(&about) {
                    self.send_control(n, id, None, &message);
                }
            }
            Action::ControlIn { id, slot, message } => self.send_control(n, id, Some(slot), &message),
            Action::Answer { id, where_heard } => {
                if let Some(entry) = tables.entries.get_mut(&id) {
                    entry.where_heard = where_heard;
                }
            }
            Action::Publish(publication) => {
                let Some(Machine::Server(server)) = &self.hosts[n].machine else { return };
                let for_whom: Vec<_> = match publication.client {
                    Some(client) => vec![client],
                    None => server.clients().copied().collect(),
                };
                for client in for_whom {
                    let key = (*client.as_bytes(), publication.window);
                    self.dht.insert(key, publication.introduction.clone());
                }
            }
            Action::Fetch { window } => {
                let key = (*self.hosts[n].identity.public().as_bytes(), window);
                let fetched = if self.faults.dht_gone {
                    Fetched::Unreachable
                } else if self.dice.below(1000) < self.faults.absent {
                    Fetched::Absent
                } else {
                    self.dht.get(&key).cloned().map_or(Fetched::Absent, Fetched::Found)
                };
                let delay = self.dice.below(200 * MILLISECOND) + 5 * MILLISECOND;
                self.schedule(delay, Event::Fetched(n, window, fetched));
            }
        }
    }
}
