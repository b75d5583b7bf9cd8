//! A data plane with very many sessions, whose slots are loaded ahead as by a controller.

use std::net::Ipv6Addr;
use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::xdp::XdpMode;
use ipnet::Ipv6Net;
use mtd::dataplane::{Capacity, Plane, Settings};
use mtd::model::{Guard, LinkMode, SessionIndex, SessionNs};
use mtd::proto::session::{Ends, Keys, Parts, Session, Terms, nanoseconds, network};
use mtd::proto::slots::{Loader, Place, most_loaded};
use mtd_common::DropReason;
use mtd_common::abi::{self, DirectionKeys};
use mtd_common::address::End;
use mtd_common::slot;
use mtd_tests::inject::Interface;
use nix::time::{ClockId, clock_gettime};

use crate::cable::{Cable, PREFIX};
use crate::measure::require_uninterrupted;

/// Slot length of the sessions.
pub(crate) const PERIOD: Duration = Duration::from_secs(3);

const GENERATION: u32 = 1;

/// Number of sessions after which the clock is read.
const CHUNK: usize = 256;

/// Sessions in a data plane at the right end of a cable.
pub(crate) struct Fleet {
    plane: Plane,
    sessions: Vec<(Session, Loader)>,
    /// How far ahead slots are loaded, in ns.
    horizon: u64,
    /// The time up to which slots that were due are loaded.
    advanced: u64,
}

/// How punctually the entries of one [`Fleet::advance`] were loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Entries that went live only after their slot had begun.
    pub(crate) late: u64,
    /// The longest time, in ns, from the beginning of an entry's slot until the entry went live; negative if it was live
    /// before. `None` if there were no entries.
    pub(crate) lag: Option<i64>,
}

impl Loaded {
    /// The value for no entries.
    pub(crate) const NOTHING: Self = Self { late: 0, lag: None };
}

impl AddAssign for Loaded {
    fn add_assign(&mut self, other: Self) {
        self.late += other.late;
        self.lag = self.lag.max(other.lag);
    }
}

impl Fleet {
    /// Loads and attaches a data plane, and the slots of `sessions` up to `horizon` ahead.
    ///
    /// # Errors
    /// When the kernel refuses, or a signal asks to stop.
    pub(crate) fn new(cable: &Cable, sessions: Vec<Session>, horizon: Duration) -> Result<Self> {
        let horizon = nanoseconds(horizon);
        let slots = most_loaded(horizon, nanoseconds(PERIOD));
        let mut plane = Plane::load(Capacity { sessions: sessions.len() as u32, slots, lanes: 0 })?;
        let underlay = Interface::resolve(&cable.receiver, &cable.veth.right)?;
        plane.configure(&Settings {
            tunnel_ifindex: underlay.index,
            tunnel_mac: underlay.mac,
            underlay_ifindex: underlay.index,
            underlay_mac: underlay.mac,
            prefixes: vec![Ipv6Net::new(PREFIX, 64)?],
            link: LinkMode::Routed,
            inner_mtu: 1428,
            fwmark: 0,
            guard: Guard::default(),
        })?;
        let mut fleet = Self { plane, sessions: Vec::with_capacity(sessions.len()), horizon, advanced: 0 };
        for (index, session) in (0..).zip(sessions) {
            fleet.plane.set_session(index, session.element(GENERATION, 0, 0, [[0; 16]; 2]))?;
            let place = Place { index: SessionIndex(index), generation: GENERATION };
            fleet.sessions.push((session, Loader::new(place, 0)));
        }
        fleet.advance(boot_time()?)?;
        let attached = cable.receiver.enter(|| -> Result<()> {
            fleet.plane.receive_program()?.attach(&cable.veth.right, XdpMode::Driver)?;
            Ok(())
        })?;
        attached.context("cannot attach mtd_receive")?;
        Ok(fleet)
    }

    /// Loads and unloads the slots that are due now, unless that was done less than one slot length ago.
    ///
    /// # Errors
    /// As [`Fleet::advance`].
    pub(crate) fn keep_up(&mut self) -> Result<()> {
        let now = boot_time()?;
        if now.saturating_sub(self.advanced) >= nanoseconds(PERIOD) {
            self.advance(now)?;
        }
        Ok(())
    }

    /// Loads and unloads the slots that are due at `now` (boot time in ns, which is the session time here).
    ///
    /// # Errors
    /// When the kernel refuses, or a signal asks to stop.
    pub(crate) fn advance(&mut self, now: u64) -> Result<Loaded> {
        let mut all = Loaded::NOTHING;
        for chunk in self.sessions.chunks_mut(CHUNK) {
            let mut loaded = Loaded::NOTHING;
            let mut starts = Vec::with_capacity(chunk.len());
            for (session, loader) in chunk {
                let before = loader.loaded().end;
                loader.advance(session, SessionNs(now), self.horizon, self.plane.slots())?;
                let fresh = before.max(loader.loaded().start)..loader.loaded().end;
                starts.extend(fresh.map(|number| slot::start(number, session.phase, session.period)));
            }
            let live = boot_time()?;
            loaded.late = starts.iter().filter(|&&start| live > start).count() as u64;
            loaded.lag = starts.iter().map(|start| live.cast_signed() - start.cast_signed()).max();
            all += loaded;
            require_uninterrupted()?;
        }
        self.advanced = now;
        Ok(all)
    }

    /// How many frames were dropped for a reason.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn dropped(&self, reason: DropReason) -> Result<u64> {
        Ok(self.plane.counts()?.drops.get(&reason).copied().unwrap_or(0))
    }
}

/// Boot time in ns.
pub(crate) fn boot_time() -> Result<u64> {
    Ok(nanoseconds(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?)))
}

/// Session number `index`. Keys and phase are derived from the number, because a million handshakes would take too long. For
/// the programs and the loader they are like any others.
///
/// # Errors
/// Never with these prefixes.
pub(crate) fn session(index: u32, period: Duration) -> Result<Session> {
    let period = nanoseconds(period);
    let mut numbers = Numbers(u64::from(index) << 32);
    let prefix = |group| Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, 0), 64);
    let ends = Ends {
        local: End { network: network(Ipv6Net::new(PREFIX, 64)?), seed: numbers.bytes() },
        remote: End { network: network(prefix(0xb)?), seed: numbers.bytes() },
    };
    let mut keys = || Keys(DirectionKeys { seal: numbers.bytes(), mask: numbers.bytes() });
    let (tx, rx) = (keys(), keys());
    let terms = Terms { period, mode: abi::MODE_ENCRYPT, until: SessionNs::NEVER };
    let (address_key, phase) = (numbers.bytes(), u64::from_le_bytes(numbers.bytes()) % period);
    Ok(Session::adopted(Parts { tx, rx, address_key, ends, terms, phase }))
}

/// The generator `SplitMix64`.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
        bytes
    }
}
