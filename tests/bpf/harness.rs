//! A loaded data plane, single runs of its programs, and the changes that a run makes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use aya::{TestRun as _, TestRunOptions};
use ipnet::{IpNet, Ipv6Net};
use mtd::dataplane::{Capacity, Plane, Settings};
use mtd::model::{Frames, Guard, LinkMode, SessionIndex};
use mtd::proto::slots::SlotMaps as _;
use mtd_common::DropReason;
use mtd_common::abi::{ROUTE_KEY_FAMILY_BITS, Route, RouteKey, SessionState, route_key};
use mtd_common::event::DropEvent;
use mtd_common::keystream::LANES;
use nix::time::{ClockId, clock_gettime};

use crate::message::Message;
pub(crate) use crate::outcome::Outcome;
use crate::peering::{BEGIN, CURRENT, PREFIXES, Peering};
use crate::wire::{Packet, UNDERLAY_MAC};

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;
pub(crate) const TC_ACT_SHOT: u32 = 2;
pub(crate) const TC_ACT_STOLEN: u32 = 4;
pub(crate) const TC_ACT_REDIRECT: u32 = 7;
/// As the kernel returns −1.
pub(crate) const TC_ACT_UNSPEC: u32 = u32::MAX;

/// The capacity of the maps in the tests: number of sessions, and of slots for each.
pub(crate) const SESSIONS: u32 = 8;
pub(crate) const SLOTS: u32 = 8;
/// Longest inner packet in bytes.
pub(crate) const MTU: u32 = 1428;
/// MAC address of the tunnel device.
pub(crate) const TUNNEL_MAC: [u8; 6] = [0x02, 0, 0, 0, 0xbb, 0x01];
/// The first sequence number that an honest sender uses at [`BEGIN`].
pub(crate) const SEQUENCE: u64 = BEGIN / 64;

/// A frame for the receive program, and the expected result.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) expect: Expect,
}

/// The expected result for a frame. In addition, no run may change anything else.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// Passed to the kernel unchanged.
    Pass,
    /// Dropped for this reason.
    Drop(DropReason),
    /// Opened for this session: the sequence number, and the inner packet that comes out.
    Accept(u32, u64, Vec<u8>),
    /// Opened, and handed to the controller.
    Divert(Message),
    /// Opened and counted for its session, but dropped for this reason.
    Lose(DropReason, Message),
}

impl Fixture {
    pub(crate) fn pass(name: impl Into<String>, frame: Vec<u8>) -> Self {
        Self { name: name.into(), frame, expect: Expect::Pass }
    }

    pub(crate) fn drop(name: impl Into<String>, reason: DropReason, frame: Vec<u8>) -> Self {
        Self { name: name.into(), frame, expect: Expect::Drop(reason) }
    }

    /// `packet`, whose inner packet must come out.
    pub(crate) fn accept(name: impl Into<String>, peering: &Peering, packet: &Packet) -> Self {
        let expect = Expect::Accept(peering.index, packet.sequence, packet.inner.clone());
        Self { name: name.into(), frame: packet.frame(), expect }
    }

    /// `packet`, a control message that must reach the controller.
    pub(crate) fn divert(name: impl Into<String>, peering: &Peering, packet: &Packet) -> Self {
        let expect = Expect::Divert(Message::new(peering, packet));
        Self { name: name.into(), frame: packet.frame(), expect }
    }

    /// `packet`, a control message that is valid but must not reach the controller.
    pub(crate) fn lose(
        name: impl Into<String>,
        reason: DropReason,
        peering: &Peering,
        packet: &Packet,
    ) -> Self {
        let expect = Expect::Lose(reason, Message::new(peering, packet));
        Self { name: name.into(), frame: packet.frame(), expect }
    }
}

/// Loads programs and maps: from the object that `MTD_EBPF_OBJECT` names, so that the test program need not be built again
/// after a change of the BPF programs, otherwise the built-in ones.
pub(crate) fn load(capacity: Capacity) -> Plane {
    match std::env::var_os("MTD_EBPF_OBJECT") {
        Some(path) => Plane::load_object(&std::fs::read(path).expect("the object"), capacity),
        None => Plane::load(capacity),
    }
    .expect("the programs load")
}

/// A data plane without interfaces, with maps of its own.
pub(crate) struct Bench {
    pub(crate) plane: Plane,
    pub(crate) settings: Settings,
    events: RingBuf<MapData>,
    control: RingBuf<MapData>,
    clock_offset: u64,
    routes: Vec<(u32, RouteKey, Route)>,
}

impl Bench {
    /// Loads programs and maps, in routed mode, without a session.
    pub(crate) fn new() -> Self {
        mtd_tests::require_root();
        let mut plane = load(Capacity { sessions: SESSIONS, slots: SLOTS, lanes: LANES });
        let events = plane.take_events().expect("a ring buffer");
        let control = plane.take_control().expect("a ring buffer");
        let settings = Settings {
            tunnel_ifindex: 77,
            tunnel_mac: TUNNEL_MAC,
            underlay_ifindex: 1,
            underlay_mac: UNDERLAY_MAC,
            prefixes: PREFIXES.map(|(prefix, _)| prefix.parse::<Ipv6Net>().expect("a prefix")).to_vec(),
            link: LinkMode::Routed,
            inner_mtu: MTU,
            fwmark: 0,
            guard: Guard::default(),
        };
        plane.configure(&settings).expect("the settings fit");
        let clock_offset = BEGIN.wrapping_sub(boot_time());
        Self { plane, settings, events, control, clock_offset, routes: Vec::new() }
    }

    /// [`Bench::new`] with one session, index 0, encrypting.
    pub(crate) fn with_session() -> (Self, Peering) {
        let mut bench = Self::new();
        let peering = Peering::new(0, crate::wire::Mode::Encrypt);
        bench.install(&peering);
        (bench, peering)
    }

    /// Changes the settings.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.plane.configure(&self.settings).expect("the settings fit");
    }

    /// Puts a session into the maps, with the previous, the current and the next slot.
    pub(crate) fn install(&mut self, peering: &Peering) {
        self.install_bare(peering);
        for slot in CURRENT - 1..=CURRENT + 1 {
            self.load(peering, slot);
        }
    }

    /// Puts a session into the maps, without a slot.
    pub(crate) fn install_bare(&mut self, peering: &Peering) {
        let element = peering.element(self.clock_offset);
        self.plane.set_session(peering.index, element).expect("room for a session");
        self.plane.set_session_state(peering.index, SessionState::default()).expect("room for its state");
    }

    /// Resets the limit on a session's control messages.
    pub(crate) fn rest(&mut self, peering: &Peering) {
        let state = self.plane.session_state(peering.index).expect("a state");
        let rested = SessionState { rx_control: 0, ..state };
        self.plane.set_session_state(peering.index, rested).expect("room for its state");
    }

    /// Loads a slot of a session in both directions.
    pub(crate) fn load(&mut self, peering: &Peering, slot: u64) {
        self.plane.slots().load(SessionIndex(peering.index), &peering.slot(slot)).expect("room for a slot");
    }

    /// Routes inner addresses to a session.
    pub(crate) fn route(&mut self, network: &str, peering: &Peering) {
        let network: IpNet = network.parse().expect("a network");
        let (version, octets, length) = match network.network() {
            IpAddr::V4(v4) => (4, v4.to_ipv6_mapped().octets(), 96 + u32::from(network.prefix_len())),
            IpAddr::V6(v6) => (6, v6.octets(), u32::from(network.prefix_len())),
        };
        let route = Route {
            session: peering.index,
            generation: peering.generation,
            peer: peering.peer,
            ..Route::default()
        };
        self.routes.push((ROUTE_KEY_FAMILY_BITS + length, route_key(version, &octets), route));
        self.plane.replace_routes(&self.routes).expect("room for a route");
    }

    /// Session time in ns.
    pub(crate) fn session_time(&self) -> u64 {
        boot_time().wrapping_add(self.clock_offset)
    }

    /// Runs the receive program once.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> Outcome {
        self.run(frame, |plane, options| {
            let program = plane.receive_program()?;
            Ok(program.test_run(options)?.into())
        })
    }

    /// One run of the program that answers solicitations.
    pub(crate) fn advertise(&mut self, frame: &[u8]) -> Outcome {
        self.run(frame, |plane, options| {
            let program = plane.advertise_program()?;
            Ok(program.test_run(options)?.into())
        })
    }

    /// One run of the send program.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Outcome {
        self.send_with(frame, None)
    }

    /// Runs the send program once, with a given `__sk_buff`.
    pub(crate) fn send_with(&mut self, frame: &[u8], context: Option<&[u8]>) -> Outcome {
        self.run(frame, |plane, options| {
            let program = plane.send_program()?;
            Ok(program.test_run(TestRunOptions { ctx_in: context, ..options })?.into())
        })
    }

    fn run(
        &mut self,
        frame: &[u8],
        run: impl FnOnce(&mut Plane, TestRunOptions<'_>) -> Result<Returned>,
    ) -> Outcome {
        let states = self.states();
        let counts = self.plane.counts().expect("the counters");
        let began = boot_time();
        let mut buffer = [0; 4096];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut buffer), ..TestRunOptions::new() };
        let returned = match run(&mut self.plane, options) {
            Ok(returned) => returned,
            Err(error) => panic!("no test run of a frame of {} bytes: {error:#}", frame.len()),
        };
        let ended = boot_time();
        let moved = self.plane.counts().expect("the counters");
        let Ok(frames) = Frames::read(|counter| {
            Ok::<_, Infallible>(moved.frames.get(counter) - counts.frames.get(counter))
        });
        Outcome {
            verdict: returned.verdict,
            frame: buffer[..returned.length].to_vec(),
            drops: added(&counts.drops, moved.drops),
            would_drop: added(&counts.would_drop, moved.would_drop),
            frames,
            events: self.events(),
            records: self.records(),
            states: (states, self.states()),
            time: (began, ended),
        }
    }

    /// The drop events since the last run.
    pub(crate) fn events(&mut self) -> Vec<(DropEvent, DropReason)> {
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            events.push(DropEvent::decode(&record).expect("an event of this version"));
        }
        events
    }

    /// The records for the controller since the last run.
    pub(crate) fn records(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(record) = self.control.next() {
            records.push(record.to_vec());
        }
        records
    }

    fn states(&self) -> Vec<SessionState> {
        (0..SESSIONS).map(|index| self.plane.session_state(index).expect("a state")).collect()
    }

    /// Runs a fixture through the receive program.
    ///
    /// # Errors
    /// When something was not as expected.
    pub(crate) fn try_fixture(&mut self, fixture: &Fixture) -> Result<()> {
        let outcome = self.receive(&fixture.frame);
        match &fixture.expect {
            Expect::Pass => outcome.passed(&fixture.frame),
            Expect::Drop(reason) => outcome.dropped(XDP_DROP, &fixture.frame, *reason),
            Expect::Accept(session, sequence, inner) => outcome.accepted(*session, *sequence, inner),
            Expect::Divert(message) => outcome.diverted(message),
            Expect::Lose(reason, message) => outcome.lost(&fixture.frame, *reason, message),
        }
    }

    /// Runs fixtures one after the other.
    ///
    /// # Panics
    /// When results are not as expected, with the names of those fixtures.
    pub(crate) fn run_all(&mut self, fixtures: &[Fixture]) {
        let mut failures = Vec::new();
        for fixture in fixtures {
            if let Err(error) = self.try_fixture(fixture) {
                failures.push(format!("{} ({:?}): {error:#}", fixture.name, outline(&fixture.expect)));
            }
        }
        let count = failures.len();
        failures.truncate(20);
        assert!(count == 0, "{count} of {} fixtures failed:\n{}", fixtures.len(), failures.join("\n"));
    }

    /// Runs one fixture.
    ///
    /// # Panics
    /// When the result is not as expected.
    pub(crate) fn check(&mut self, fixture: &Fixture) {
        self.run_all(std::slice::from_ref(fixture));
    }
}

/// The drops that were counted since `before`.
fn added(before: &BTreeMap<DropReason, u64>, now: BTreeMap<DropReason, u64>) -> BTreeMap<DropReason, u64> {
    let earlier = |reason| before.get(&reason).copied().unwrap_or(0);
    let added = now.into_iter().map(|(reason, count)| (reason, count - earlier(reason)));
    added.filter(|(_, count)| *count > 0).collect()
}

fn outline(expect: &Expect) -> String {
    match expect {
        Expect::Accept(session, sequence, inner) => {
            format!("accept {} bytes for session {session}, number {sequence}", inner.len())
        }
        other => format!("{other:?}"),
    }
}

/// `CLOCK_BOOTTIME` in ns.
pub(crate) fn boot_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock");
    Duration::from(time).as_nanos() as u64
}

struct Returned {
    verdict: u32,
    length: usize,
}

impl From<aya::TestRunResult> for Returned {
    fn from(result: aya::TestRunResult) -> Self {
        Self { verdict: result.return_value, length: result.data_size_out as usize }
    }
}
