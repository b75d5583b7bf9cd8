//! The sessions over maps in memory, with a clock, a wire and a state file of the test's own.

mod courses;
pub(super) mod memory;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::Ipv6Net;
use mtd_common::abi::{MODE_ENCRYPT, Session as Element, SessionState as Kept};
use mtd_common::address::{End, Network};
use mtd_common::control_record::{CONTROL_VERSION, ControlRecord, KIND_MESSAGE, MAX_CONTROL};
use mtd_common::session_note::{ROLE_SERVER, SessionNote};
use tokio::sync::mpsc::UnboundedReceiver;

use self::memory::Memory;
use super::configured::Configured;
use super::wire::Wire;
use super::*;
use crate::device::TunnelInfo;
use crate::keys::{PublicKey, SecretKey};
use crate::model::{Guard, LinkMode, SessionIndex, TunnelAddresses, UnixNs};
use crate::proto::exchange::SendSlot;
use crate::proto::messages::{Control, Reason, Text};
use crate::proto::server::{self, Admission, Server};
use crate::status::SessionState;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const CLIENT: [u8; 32] = [9; 32];

/// Both clocks, which the test sets.
#[derive(Clone)]
struct Hands(Arc<Mutex<Reading>>, Arc<Mutex<u32>>);

impl Clock for Hands {
    fn read(&self) -> Reading {
        *self.0.lock().unwrap()
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.1.lock().unwrap())
    }
}

impl Hands {
    fn new() -> Self {
        let now = Reading { boot: BootNs(1000 * SECOND), wall: UnixNs(1_800_000_000 * SECOND) };
        Self(Arc::new(Mutex::new(now)), Arc::default())
    }

    /// Time passes.
    fn pass(&self, ns: u64) {
        let mut now = self.0.lock().unwrap();
        now.boot = now.boot + ns;
        now.wall.0 += ns;
    }

    /// The host boots, `ns` after it has lost its power.
    fn boot_again(&self, ns: u64) {
        let mut now = self.0.lock().unwrap();
        now.boot = BootNs(30 * SECOND);
        now.wall.0 += ns;
        *self.1.lock().unwrap() += 1;
    }

    /// The wall clock is set to a later time.
    fn set_ahead(&self, ns: u64) {
        self.0.lock().unwrap().wall.0 += ns;
    }
}

struct Silence;

impl Wire for Silence {
    fn transmit(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn inject(&self, _: &[u8], _: Option<SendSlot>) -> io::Result<()> {
        Ok(())
    }

    fn set_tunnel(&mut self, _: &TunnelInfo) {}
}

/// A disk that writes when it is let.
struct Disk {
    let_go: Sender<bool>,
    written: Receiver<String>,
}

type Write = Box<dyn FnMut(&State) -> Result<(), StateError> + Send>;

impl Disk {
    /// The first state is written at once, which is the start's.
    fn new() -> (Self, Write) {
        let ((let_go, allowed), (sender, written)) = (mpsc::channel::<bool>(), mpsc::channel());
        let mut first = true;
        let write = move |state: &State| {
            if !std::mem::take(&mut first) && !allowed.recv_timeout(Duration::from_mins(1)).unwrap() {
                return State::read(std::path::Path::new("/dev/null/x")).map(drop);
            }
            let _ = sender.send(serde_json::to_string(state).unwrap());
            Ok(())
        };
        (Self { let_go, written }, Box::new(write))
    }

    /// Lets it write once, or makes it fail; returns what it has written.
    fn release(&self, works: bool) -> Option<String> {
        while self.written.try_recv().is_ok() {}
        self.let_go.send(works).unwrap();
        works.then(|| self.written.recv_timeout(Duration::from_mins(1)).unwrap())
    }
}

struct World {
    sessions: Sessions<Memory>,
    clock: Hands,
    disk: Disk,
    effects: UnboundedReceiver<Effect>,
}

const CONFIG: &str = "interface = \"eth0\"\nprefix = \"2001:db8:1::/64\"\naddress = [\"fd00::1/64\"]\n[[peer]]\nname = \"p\"\n\
                      prefix = \"2001:db8:2::/64\"\nkey_file = \"k\"\nseed = \"0000000000000001\"\n\
                      peer_seed = \"0000000000000002\"\nallowed_ips = [\"fd00::2/128\"]\n";

impl World {
    /// One configured peer, and this server.
    fn new(maps: Memory, server: Option<Server>, clock: Hands) -> Self {
        let (disk, write) = Disk::new();
        let (sessions, effects) = sessions(maps, server, clock.clone(), (State::default(), write));
        Self { sessions, clock, disk, effects }
    }

    /// A tick, a tenth of a second later. It must wait for nothing.
    fn tick(&mut self) {
        self.clock.pass(SECOND / 10);
        let began = Instant::now();
        self.sessions.tick();
        assert!(began.elapsed() < Duration::from_secs(10), "somebody waited under the lock");
    }

    /// The element of the configured session.
    fn element(&self) -> (SessionIndex, Element) {
        let found = self.sessions.table.iter().find(|one| one.key.0 == OriginId::Configured).unwrap();
        (found.index(), self.sessions.table.maps.sessions[found.index().position()])
    }

    fn sent(&mut self) -> Option<u64> {
        let (index, _) = self.element();
        self.sessions.table.maps.send(index)
    }
}

/// Sessions with one configured peer, and this server.
fn sessions(
    maps: Memory,
    server: Option<Server>,
    clock: Hands,
    state: (State, Write),
) -> (Sessions<Memory>, UnboundedReceiver<Effect>) {
    let config = config();
    let (effects, received) = tokio::sync::mpsc::unbounded_channel();
    let configured = Configured::new(&config.peers, nanoseconds(config.horizon));
    let origins = Origins { configured, server, clients: Vec::new() };
    let machines = Machines { origins, wire: Box::new(Silence), effects, names: HashMap::new() };
    let told = dataplane::Settings {
        tunnel_ifindex: 1,
        tunnel_mac: [0; 6],
        underlay_ifindex: 2,
        underlay_mac: [0; 6],
        prefixes: vec!["2001:db8:1::/64".parse::<Ipv6Net>().unwrap()],
        link: LinkMode::Routed,
        inner_mtu: 1400,
        fwmark: 0,
        guard: Guard::default(),
    };
    let sessions = Sessions::begin(config, Box::new(clock), PathBuf::new(), (maps, told), machines, state);
    (sessions.unwrap(), received)
}

fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("mtd.toml"), folder.path().join("k"));
    std::fs::write(&file, CONFIG).unwrap();
    std::fs::write(&key, SecretKey::from_bytes([7; 32]).to_base64().as_bytes()).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    Config::load(&file).unwrap()
}

fn reserved(state: &str) -> u64 {
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    let sessions = state["sessions"].as_object().unwrap();
    sessions.values().next().unwrap()["sent"].as_array().unwrap().last().unwrap()["end"].as_u64().unwrap()
}

#[test]
fn a_clock_is_followed_without_a_wait_and_with_numbers_that_are_noted_first() {
    let mut world = World::new(Memory::new(), None, Hands::new());
    let first = world.sent().unwrap();
    let (index, before) = world.element();
    world.clock.pass(10 * SECOND);
    world.clock.set_ahead(HOUR);
    world.tick();
    assert_eq!(world.element().1.generation, 0, "out of use, so that no number is used twice");
    assert_eq!(world.sent(), None);
    // It has rested, and more numbers are asked for. The disk takes its time.
    for _ in 0..20 {
        world.tick();
        assert_eq!(world.sent(), None, "nothing is noted yet");
        assert_eq!(world.sessions.status().peers.len(), 1, "the status waits for nothing either");
    }
    // It fails, and is asked again.
    world.disk.release(false);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(20));
        world.tick();
        assert_eq!(world.sent(), None, "what could not be noted is not used");
    }
    let noted = reserved(&world.disk.release(true).unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.element().1.generation == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        world.tick();
    }
    let (same, after) = world.element();
    assert!(after.generation != 0 && after.generation != before.generation && same == index);
    let now = world.clock.read();
    assert_eq!(after.clock_offset, now.offset().0);
    let next = world.sent().unwrap();
    assert!(next > first && next < noted, "{first} {next} {noted}");
    let routes: Vec<_> = world.sessions.table.maps.routes.values().map(|route| route.generation).collect();
    // To the peer's network, and for control messages.
    assert_eq!(routes, [after.generation; 2]);
}

#[test]
fn a_session_without_noted_numbers_left_sends_nothing_until_more_are_noted() {
    let mut world = World::new(Memory::new(), None, Hands::new());
    let (index, _) = world.element();
    let first = world.sent().unwrap();
    // So many packets have gone out since somebody looked.
    world.sessions.table.maps.states[index.position()].tx_sequence = first + numbers::RESERVE - 5;
    world.sessions.table.maps.states[index.position()].rx_last_valid = world.clock.read().boot.0;
    world.tick();
    world.tick();
    assert_eq!(world.sent(), None);
    let noted = reserved(&world.disk.release(true).unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    let next = loop {
        std::thread::sleep(Duration::from_millis(5));
        world.tick();
        if let Some(next) = world.sent() {
            break next;
        }
        assert!(Instant::now() < deadline, "it never goes on");
    };
    assert!(next >= first + numbers::RESERVE - 5 && next < noted, "{first} {next} {noted}");
}

fn end(n: u8) -> End {
    End {
        network: Network { prefix: [0x20, 1, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], length: 64 },
        seed: [n; 8],
    }
}

fn tunnel(n: u8) -> TunnelAddresses {
    TunnelAddresses { v6: Some([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into()), v4: None }
}

fn server(clock: &Hands) -> Server {
    let mut counter = 0_u8;
    let random = Box::new(move |bytes: &mut [u8]| {
        counter = counter.wrapping_add(1);
        bytes.fill(counter);
    });
    let settings = server::Settings {
        identity: SecretKey::from_bytes([1; 32]),
        network: end(1).network,
        window: 900,
        introduction_slot: 30 * SECOND,
        grace: 60 * SECOND,
        ahead: 0,
        period: 3 * SECOND,
        longest_period: 30 * SECOND,
        mode: MODE_ENCRYPT,
        idle: 600 * SECOND,
        rekey_after: 120,
        expire_after: 180,
        inner_mtu: 1400,
        tunnel: tunnel(1),
        handshakes: 100,
        handshakes_per_client: 10,
    };
    let mut server = Server::new(settings, random, 0);
    assert!(server.register(Admission::new(PublicKey::from_bytes(CLIENT), tunnel(9)), clock.read()));
    server
}

#[test]
fn an_introduction_is_published_once_that_is_noted_and_nobody_waits() {
    let clock = Hands::new();
    let server = server(&clock);
    let mut world = World::new(Memory::new(), Some(server), clock);
    for _ in 0..5 {
        world.tick();
        assert!(world.effects.try_recv().is_err(), "it is not noted yet");
    }
    let written = world.disk.release(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let published = loop {
        std::thread::sleep(Duration::from_millis(5));
        world.tick();
        match world.effects.try_recv() {
            Ok(Effect::Publish(publication)) => break publication.introduction.published_ms,
            Ok(other) => panic!("{other:?}"),
            Err(_) => assert!(Instant::now() < deadline, "it is never published"),
        }
    };
    let state: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert!(published > 0 && state["published_ms"].as_u64().unwrap() >= published);
}

/// What an earlier controller left of a session with the client.
fn leave(maps: &mut Memory, index: usize, n: u8, started: BootNs, last_valid: BootNs, now: Reading) {
    let session = crate::proto::session::Session::for_test(
        end(n),
        end(n + 1),
        crate::proto::session::Keys(mtd_common::abi::DirectionKeys { seal: [n; 32], mask: [n; 16] }),
        crate::proto::session::Keys(mtd_common::abi::DirectionKeys { seal: [n + 1; 32], mask: [n; 16] }),
        3 * SECOND,
        0,
    );
    let generation = u32::from(n);
    maps.adopted = true;
    maps.sessions[index] = session.element(generation, now.offset().0, 1 << 25, tunnel(9).to_map());
    maps.states[index] = Kept { rx_last_valid: last_valid.0, tx_sequence: 5, ..Kept::default() };
    maps.notes[index] = SessionNote {
        generation,
        role: ROLE_SERVER,
        peer_key: CLIENT,
        local_prefix: end(n).network.prefix,
        remote_prefix: end(n + 1).network.prefix,
        local_seed: end(n).seed,
        remote_seed: end(n + 1).seed,
        local_length: 64,
        remote_length: 64,
        started: started.0,
        expires: now.wall.0 + HOUR,
        local_tunnel: tunnel(1).to_map(),
        remote_tunnel: tunnel(9).to_map(),
        ..SessionNote::default()
    };
}

#[test]
fn sessions_of_an_earlier_controller_go_on_and_one_that_ends_is_closing() {
    let clock = Hands::new();
    let now = clock.read();
    let mut maps = Memory::new();
    let before = BootNs(now.boot.0 - 60 * SECOND);
    leave(&mut maps, 2, 10, before, now.boot, now);
    leave(&mut maps, 5, 20, now.boot, BootNs::NEVER, now);
    let mut world = World::new(maps, Some(server(&clock)), clock);
    let maps = &world.sessions.table.maps;
    assert_eq!((maps.sessions[2].generation, maps.sessions[5].generation), (10, 20), "both go on");
    let listed = |world: &World| {
        let status = world.sessions.status();
        let counted = status.session_counts.iter().find(|one| one.state == "closing").map(|one| one.count);
        (status.sessions.iter().map(|session| session.state).collect::<Vec<_>>(), counted)
    };
    assert_eq!(listed(&world).0.len(), 2);
    // The client uses the newer one: the other is closing, and the one that has taken its place is shown.
    let at = world.clock.read().boot;
    assert!(world.sessions.table.maps.receive(SessionIndex(5), 7, at));
    (0..11).for_each(|_| world.tick());
    assert_eq!(listed(&world), (vec![SessionState::Open], Some(1)));
    // The client says good-bye in the newer one: what is left is closing.
    let message = Control::Term { reason: Reason::Stopping, text: Text::NONE }.encode();
    let mut payload = [0; MAX_CONTROL];
    payload[..message.len()].copy_from_slice(&message);
    world.sessions.handle_control(&ControlRecord {
        time: world.clock.read().boot.0,
        session: 5,
        generation: 20,
        slot: 0,
        length: message.len() as u16,
        version: CONTROL_VERSION,
        kind: KIND_MESSAGE,
        source: [0; 16],
        destination: [0; 16],
        source_port: [0; 2],
        destination_port: [0; 2],
        reserved_end: [0; 4],
        inner_source: [0; 16],
        payload,
    });
    assert_eq!(listed(&world), (vec![SessionState::Closing], Some(1)));
    world.clock.pass(10 * SECOND);
    world.tick();
    assert_eq!(listed(&world), (vec![], None));
    world.tick();
    let maps = &world.sessions.table.maps;
    assert!([2, 5].iter().all(|index| maps.sessions[*index] == Element::default()), "the keys are wiped");
}

#[test]
fn a_stop_waits_without_the_lock_and_saves_what_the_sessions_ended_with() {
    let mut world = World::new(Memory::new(), None, Hands::new());
    let sent = world.sent().unwrap();
    let World { sessions, clock, disk, .. } = world;
    let sessions = Arc::new(Mutex::new(sessions));
    let stopping = Arc::clone(&sessions);
    let stop = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(stop(&stopping))
    });
    // The disk is not let go yet: whoever asks is answered all the same.
    let deadline = Instant::now() + Duration::from_secs(20);
    while sessions.lock().unwrap().store.is_some() {
        clock.pass(SECOND / 100);
        assert!(Instant::now() < deadline, "it never came to the disk");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(sessions.lock().unwrap().overview().uptime_seconds > 0.0);
    assert!(!stop.is_finished());
    let written = disk.release(true).unwrap();
    stop.join().unwrap().unwrap();
    let state: serde_json::Value = serde_json::from_str(&written).unwrap();
    let ended = state["sessions"].as_object().unwrap().values().next().unwrap();
    assert!(ended["stopped"].is_object(), "{written}");
    assert_eq!(reserved(&written), sent + 1);
    let sessions = sessions.lock().unwrap();
    assert!(sessions.table.maps.sessions.iter().all(|element| *element == Element::default()));
}

#[test]
fn own_addresses_are_those_of_the_present_slot_and_of_those_that_begin_soon() {
    let world = World::new(Memory::new(), None, Hands::new());
    let installed = world.sessions.table.iter().next().unwrap();
    let (session, now) = (&installed.session, world.clock.read().boot);
    let time = installed.offset.session(now).0;
    let current = mtd_common::slot::number(time, session.phase, session.period);
    // Slots of three seconds: within two slot lengths, two more begin.
    let found = world.sessions.own_addresses(|period| 2 * period, |_, _| true);
    let slots: Vec<_> = found.iter().map(|own| own.slot).collect();
    assert_eq!(slots, [current, current + 1, current + 2]);
    for own in &found {
        let (local, remote) = session.endpoints(own.slot);
        assert_eq!((own.address, own.peer), (local.address.into(), Some(remote.address.into())));
        // Until one slot after its own.
        let left = own.until.since(now);
        let longest = (own.slot - current + 2) * session.period;
        assert!(left <= longest && left > longest - session.period, "{left} ns for slot {}", own.slot);
    }
    let second = world.sessions.own_addresses(|period| 2 * period, |_, slot| slot == current + 1);
    assert_eq!(second, found[1..2]);
    assert_eq!(world.sessions.own_addresses(|_| 0, |_, _| true), found[..1]);
}
