//! Typed access to the maps.

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use aya::util::nr_cpus;
use mtd_common::DropReason;
use mtd_common::abi::{
    COUNTER_SLOTS, Counter, DROP_SLOTS, Dataplane, MAX_CHAIN, Route, RouteKey, RxKey, RxSlot, Session,
    SessionState, TxSlot,
};
use mtd_common::session_note::SessionNote;

use super::error::{Error, errno};
use super::plane::Capacity;
use crate::proto::slots::SlotMaps;

/// `BPF_NOEXIST`: insert only.
const NO_EXIST: u64 = 1;

/// Bytes of the ring buffer for drop events.
const EVENT_BYTES: u32 = 256 * 1024;

/// Bytes of the ring buffer for control messages.
const CONTROL_BYTES: u32 = 1024 * 1024;

/// Most inner prefixes of all peers together.
const MAX_ROUTES: u32 = 65_536;

/// A map that outlives the controller, and its shape.
pub(super) struct Shape {
    pub(super) name: &'static str,
    key_size: usize,
    value_size: usize,
    pub(super) max_entries: u32,
}

impl Shape {
    const fn new(name: &'static str, key_size: usize, value_size: usize, max_entries: u32) -> Self {
        Self { name, key_size, value_size, max_entries }
    }

    /// Whether the map pinned at `path` has this shape; otherwise, what differs.
    pub(super) fn check(&self, path: &Path) -> Result<(), String> {
        let info = MapInfo::from_pin(path).map_err(|e| format!("{}: {e}", self.name))?;
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        let wanted = (self.key_size, self.value_size, self.max_entries);
        if found == wanted { Ok(()) } else { Err(format!("{}: {found:?} instead of {wanted:?}", self.name)) }
    }
}

/// The maps that are pinned, with the shapes that a data plane of this capacity has.
pub(super) fn shapes(capacity: Capacity) -> [Shape; 11] {
    let slots = capacity.sessions.saturating_mul(capacity.ring);
    [
        Shape::new("DATAPLANE", 4, size_of::<Dataplane>(), 1),
        Shape::new("RX_SLOTS", size_of::<RxKey>(), size_of::<RxSlot>(), slots),
        Shape::new("TX_SLOTS", 4, size_of::<TxSlot>(), slots),
        Shape::new("SESSIONS", 4, size_of::<Session>(), capacity.sessions),
        Shape::new("SESSION_STATE", 4, size_of::<SessionState>(), capacity.sessions),
        Shape::new("ROUTES", size_of::<Key<RouteKey>>(), size_of::<Route>(), MAX_ROUTES),
        Shape::new("DROPS", 4, 8, DROP_SLOTS),
        Shape::new("COUNTERS", 4, 8, COUNTER_SLOTS),
        Shape::new("EVENTS", 0, 0, EVENT_BYTES),
        Shape::new("CONTROL", 0, 0, CONTROL_BYTES),
        Shape::new("SESSION_NOTES", 4, size_of::<SessionNote>(), capacity.sessions),
    ]
}

/// The maps of a data plane.
pub(super) struct Maps {
    dataplane: Array<MapData, Dataplane>,
    rx_slots: HashMap<MapData, RxKey, RxSlot>,
    rx_capacity: u32,
    tx_slots: Array<MapData, TxSlot>,
    ring: u32,
    sessions: Array<MapData, Session>,
    states: Array<MapData, SessionState>,
    notes: Array<MapData, SessionNote>,
    routes: LpmTrie<MapData, RouteKey, Route>,
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

/// What the programs counted since they were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Drops, the reasons that occurred only.
    pub drops: BTreeMap<DropReason, u64>,
    /// Everything else.
    pub frames: crate::status::Frames,
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::Missing(name))
}

fn typed<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error> {
    T::try_from(take(ebpf, name)?).map_err(Error::map(name))
}

/// The ring buffer of drop events.
pub(super) fn events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, Error> {
    typed(ebpf, "EVENTS")
}

/// The ring buffer of control messages.
pub(super) fn control(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, Error> {
    typed(ebpf, "CONTROL")
}

impl Maps {
    pub(super) fn new(ebpf: &mut Ebpf, capacity: Capacity) -> Result<Self, Error> {
        Ok(Self {
            dataplane: typed(ebpf, "DATAPLANE")?,
            rx_slots: typed(ebpf, "RX_SLOTS")?,
            rx_capacity: capacity.sessions.saturating_mul(capacity.ring),
            tx_slots: typed(ebpf, "TX_SLOTS")?,
            ring: capacity.ring,
            sessions: typed(ebpf, "SESSIONS")?,
            states: typed(ebpf, "SESSION_STATE")?,
            notes: typed(ebpf, "SESSION_NOTES")?,
            routes: typed(ebpf, "ROUTES")?,
            drops: typed(ebpf, "DROPS")?,
            counters: typed(ebpf, "COUNTERS")?,
        })
    }

    pub(super) fn set_dataplane(&mut self, value: Dataplane) -> Result<(), Error> {
        self.dataplane.set(0, value, 0).map_err(Error::map("DATAPLANE"))
    }

    pub(super) fn session(&self, index: u32) -> Result<Session, Error> {
        self.sessions.get(&index, 0).map_err(Error::map("SESSIONS"))
    }

    pub(super) fn set_session(&mut self, index: u32, value: Session) -> Result<(), Error> {
        self.sessions.set(index, value, 0).map_err(Error::map("SESSIONS"))
    }

    pub(super) fn state(&self, index: u32) -> Result<SessionState, Error> {
        self.states.get(&index, 0).map_err(Error::map("SESSION_STATE"))
    }

    pub(super) fn set_state(&mut self, index: u32, value: &SessionState) -> Result<(), Error> {
        self.states.set(index, value, 0).map_err(Error::map("SESSION_STATE"))
    }

    pub(super) fn note(&self, index: u32) -> Result<SessionNote, Error> {
        self.notes.get(&index, 0).map_err(Error::map("SESSION_NOTES"))
    }

    pub(super) fn set_note(&mut self, index: u32, value: &SessionNote) -> Result<(), Error> {
        self.notes.set(index, value, 0).map_err(Error::map("SESSION_NOTES"))
    }

    /// Makes `routes` the only ones.
    pub(super) fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error> {
        for (length, key, route) in routes {
            self.routes.insert(&Key::new(*length, *key), route, 0).map_err(Error::map("ROUTES"))?;
        }
        let present: Vec<_> = self.routes.keys().collect::<Result<_, _>>().map_err(Error::map("ROUTES"))?;
        for key in present {
            let wanted =
                routes.iter().any(|(length, data, _)| (*length, *data) == (key.prefix_len(), key.data()));
            if !wanted {
                self.routes.remove(&key).map_err(Error::map("ROUTES"))?;
            }
        }
        Ok(())
    }

    /// Sets one route.
    pub(super) fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error> {
        self.routes.insert(&Key::new(length, key), route, 0).map_err(Error::map("ROUTES"))
    }

    /// Removes one route. What is not there is no error.
    pub(super) fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error> {
        match self.routes.remove(&Key::new(length, key)) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(Error::map("ROUTES")),
        }
    }

    /// Removes the addresses for which `keep` says no.
    pub(super) fn retain_rx(&mut self, keep: impl Fn(&RxKey, &RxSlot) -> bool) -> Result<(), Error> {
        let entries: Vec<(RxKey, RxSlot)> =
            self.rx_slots.iter().collect::<Result<_, _>>().map_err(Error::map("RX_SLOTS"))?;
        for (key, slot) in entries {
            if !keep(&key, &slot) {
                self.unload_rx(RxKey { chain: 0, ..key }, &slot)?;
            }
        }
        Ok(())
    }

    /// The sessions that have the address of `key`, in the order of the chain.
    fn chain(&self, key: RxKey) -> Result<Vec<RxSlot>, Error> {
        let mut chain = Vec::with_capacity(1);
        for index in 0..MAX_CHAIN {
            match self.rx_slots.get(&RxKey { chain: index, ..key }, 0) {
                Ok(slot) => chain.push(slot),
                Err(MapError::KeyNotFound) => break,
                Err(error) => return Err(Error::map("RX_SLOTS")(error)),
            }
        }
        Ok(chain)
    }

    pub(super) fn counts(&self) -> Result<Counts, Error> {
        count(&self.drops, &self.counters)
    }
}

/// Sums the per-CPU counters.
pub(super) fn count(
    drops: &PerCpuArray<MapData, u64>,
    counters: &PerCpuArray<MapData, u64>,
) -> Result<Counts, Error> {
    let sum = |array: &PerCpuArray<MapData, u64>, index: u32, name| -> Result<u64, Error> {
        Ok(array.get(&index, 0).map_err(Error::map(name))?.iter().sum())
    };
    let mut counts = Counts::default();
    for &reason in DropReason::ALL {
        let count = sum(drops, reason as u32, "DROPS")?;
        if count > 0 {
            counts.drops.insert(reason, count);
        }
    }
    let counter = |counter: Counter| sum(counters, counter as u32, "COUNTERS");
    counts.frames = crate::status::Frames {
        passed: counter(Counter::Passed)?,
        accepted: counter(Counter::Accepted)?,
        sent: counter(Counter::Sent)?,
        neighbour_answered: counter(Counter::NeighbourAnswered)?,
        events_suppressed: counter(Counter::EventsSuppressed)?,
        control: counter(Counter::Control)?,
        steered: counter(Counter::Steered)?,
        steering_lost: counter(Counter::SteeringLost)?,
    };
    Ok(counts)
}

/// Whether two values are about the same slot of the same session.
fn same(a: &RxSlot, b: &RxSlot) -> bool {
    (a.session, a.generation, a.slot) == (b.session, b.generation, b.slot)
}

impl SlotMaps for Maps {
    type Error = Error;

    fn load_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), Error> {
        // The usual case, one system call: nobody has the address.
        match self.rx_slots.insert(RxKey { chain: 0, ..key }, slot, NO_EXIST) {
            Ok(()) => return Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => {}
            Err(error) if errno(&error) == Some(libc::E2BIG) => return Err(Error::Full(self.rx_capacity)),
            Err(error) => return Err(Error::map("RX_SLOTS")(error)),
        }
        let chain = self.chain(key)?;
        let index = chain.iter().position(|other| same(other, slot)).unwrap_or(chain.len());
        let index = u16::try_from(index).ok().filter(|&index| index < MAX_CHAIN).ok_or(Error::Crowded)?;
        match self.rx_slots.insert(RxKey { chain: index, ..key }, slot, 0) {
            Err(error) if errno(&error) == Some(libc::E2BIG) => Err(Error::Full(self.rx_capacity)),
            result => result.map_err(Error::map("RX_SLOTS")),
        }
    }

    fn unload_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), Error> {
        let chain = self.chain(key)?;
        let Some(index) = chain.iter().position(|other| same(other, slot)) else { return Ok(()) };
        // The last one takes the place of the one that goes, so that no gap hides it.
        let last = chain.len() - 1;
        if index < last {
            let key = RxKey { chain: index as u16, ..key };
            self.rx_slots.insert(key, chain[last], 0).map_err(Error::map("RX_SLOTS"))?;
        }
        self.rx_slots.remove(&RxKey { chain: last as u16, ..key }).map_err(Error::map("RX_SLOTS"))
    }

    fn load_tx(&mut self, session: u32, slot: &TxSlot) -> Result<(), Error> {
        let index = session * self.ring + (slot.slot as u32 & (self.ring - 1));
        self.tx_slots.set(index, slot, 0).map_err(Error::map("TX_SLOTS"))
    }
}

/// Memory of a map as the kernel accounts it, in bytes.
pub(super) fn memory(info: &MapInfo) -> Option<u64> {
    use std::os::fd::{AsFd, AsRawFd};

    let fd = info.fd().ok()?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

/// Number of CPUs that per-CPU maps have elements for.
pub(super) fn cpus() -> usize {
    nr_cpus().unwrap_or(1)
}
