//! Typed access to the maps.

use std::collections::HashSet;
use std::mem::offset_of;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use aya::util::nr_cpus;
use mtd_common::DropReason;
use mtd_common::abi::{DROP_SLOTS, Dataplane, GuardSettings, Route, RouteKey, Session, SessionState};
use mtd_common::bytes::ne64;
use mtd_common::session_note::SessionNote;
use mtd_common::table::{self, Layout};

use super::addresses::Addresses;
use super::error::{Error, errno};
use super::filter::Policies;
use super::groups::{DATAPLANE, GUARD};
use super::settings::Capacity;
use super::shared::Shared;
use crate::model::{Counts, Frames, SessionTraffic, Traffic};

/// The maps of a data plane.
pub(super) struct Maps {
    dataplane: Array<MapData, Dataplane>,
    guard: Array<MapData, GuardSettings>,
    addresses: Addresses,
    sessions: Array<MapData, Session>,
    states: Shared<SessionState>,
    notes: Array<MapData, SessionNote>,
    routes: LpmTrie<MapData, RouteKey, Route>,
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    policies: Policies,
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::Missing(name))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
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

/// An array map in this process's memory.
pub(super) fn shared<T: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Shared<T>, Error> {
    let Map::Array(map) = take(ebpf, name)? else { return Err(Error::Missing(name)) };
    Shared::new(name, map)
}

impl Maps {
    /// The maps of an object. `adopted`: they come from an earlier controller.
    pub(super) fn new(ebpf: &mut Ebpf, capacity: Capacity, adopted: bool) -> Result<Self, Error> {
        let dataplane: Array<MapData, Dataplane> = typed(ebpf, DATAPLANE)?;
        let earlier = dataplane.get(&0, 0).map_err(Error::map(DATAPLANE))?;
        let layout = if adopted { earlier.table } else { new_layout(capacity.table_bits())? };
        let (slots, buckets, filter) =
            (shared(ebpf, "SLOTS")?, shared(ebpf, "ADDRESSES")?, shared(ebpf, "FILTER")?);
        Ok(Self {
            dataplane,
            guard: typed(ebpf, GUARD)?,
            addresses: Addresses::new(layout, capacity.ring_bits(), slots, buckets, filter),
            sessions: typed(ebpf, "SESSIONS")?,
            states: shared(ebpf, "SESSION_STATE")?,
            notes: typed(ebpf, "SESSION_NOTES")?,
            routes: typed(ebpf, "ROUTES")?,
            drops: typed(ebpf, "DROPS")?,
            counters: typed(ebpf, "COUNTERS")?,
            policies: Policies::new(ebpf)?,
        })
    }

    pub(super) const fn policies(&mut self) -> &mut Policies {
        &mut self.policies
    }

    pub(super) const fn addresses(&mut self) -> &mut Addresses {
        &mut self.addresses
    }

    /// Size and key of the table of addresses.
    pub(super) const fn layout(&self) -> Layout {
        self.addresses.layout()
    }

    pub(super) fn set_dataplane(&mut self, value: &Dataplane) -> Result<(), Error> {
        self.dataplane.set(0, value, 0).map_err(Error::map(DATAPLANE))
    }

    pub(super) fn set_guard(&mut self, value: &GuardSettings) -> Result<(), Error> {
        self.guard.set(0, value, 0).map_err(Error::map(GUARD))
    }

    pub(super) fn session(&self, index: u32) -> Result<Session, Error> {
        self.sessions.get(&index, 0).map_err(Error::map("SESSIONS"))
    }

    pub(super) fn set_session(&mut self, index: u32, value: Session) -> Result<(), Error> {
        self.sessions.set(index, value, 0).map_err(Error::map("SESSIONS"))
    }

    pub(super) fn state(&self, index: u32) -> Result<SessionState, Error> {
        self.states.read(index).ok_or(Error::NoElement("SESSION_STATE", index))
    }

    pub(super) fn set_state(&mut self, index: u32, value: &SessionState) -> Result<(), Error> {
        let written = self.states.write(index, *value);
        if written { Ok(()) } else { Err(Error::NoElement("SESSION_STATE", index)) }
    }

    /// [`SessionState::tx_long`].
    pub(super) fn long_sent(&self, index: u32) -> Option<u64> {
        self.states.word(index, offset_of!(SessionState, tx_long))
    }

    /// Sets [`SessionState::tx_longest`]. The programs may be at work with the state.
    pub(super) fn set_longest(&self, index: u32, bytes: u32) {
        self.states.set_word(index, offset_of!(SessionState, tx_longest), bytes.into());
    }

    /// Reads only this part, since the whole state is much larger: for walks over many sessions.
    pub(super) fn traffic(&self, index: u32) -> Option<SessionTraffic> {
        let word = |offset| self.states.word(index, offset);
        Some(SessionTraffic {
            received: Traffic {
                packets: word(offset_of!(SessionState, rx_packets))?,
                bytes: word(offset_of!(SessionState, rx_bytes))?,
            },
            sent: Traffic {
                packets: word(offset_of!(SessionState, tx_packets))?,
                bytes: word(offset_of!(SessionState, tx_bytes))?,
            },
            last_valid: word(offset_of!(SessionState, rx_last_valid))?,
        })
    }

    pub(super) fn note(&self, index: u32) -> Result<SessionNote, Error> {
        self.notes.get(&index, 0).map_err(Error::map("SESSION_NOTES"))
    }

    pub(super) fn set_note(&mut self, index: u32, value: &SessionNote) -> Result<(), Error> {
        self.notes.set(index, value, 0).map_err(Error::map("SESSION_NOTES"))
    }

    /// Replaces all routes by `routes`.
    pub(super) fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error> {
        for (length, key, route) in routes {
            self.routes.insert(&Key::new(*length, *key), route, 0).map_err(Error::map("ROUTES"))?;
        }
        let wanted: HashSet<(u32, RouteKey)> =
            routes.iter().map(|(length, key, _)| (*length, *key)).collect();
        let present: Vec<_> = self.routes.keys().collect::<Result<_, _>>().map_err(Error::map("ROUTES"))?;
        for key in present {
            if !wanted.contains(&(key.prefix_len(), key.data())) {
                self.routes.remove(&key).map_err(Error::map("ROUTES"))?;
            }
        }
        Ok(())
    }

    /// Sets one route.
    pub(super) fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error> {
        self.routes.insert(&Key::new(length, key), route, 0).map_err(Error::map("ROUTES"))
    }

    /// Removes one route. A missing one is no error.
    pub(super) fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error> {
        match self.routes.remove(&Key::new(length, key)) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(Error::map("ROUTES")),
        }
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
        for (first, counted) in [(0, &mut counts.drops), (DROP_SLOTS, &mut counts.would_drop)] {
            let count = sum(drops, first + reason as u32, "DROPS")?;
            if count > 0 {
                counted.insert(reason, count);
            }
        }
    }
    counts.frames = Frames::read(|counter| sum(counters, counter as u32, "COUNTERS"))?;
    Ok(counts)
}

/// An empty table, with a secret random key.
fn new_layout(bits: u32) -> Result<Layout, Error> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    let key = [ne64::<0, 24>(&random), ne64::<8, 24>(&random) | 1, ne64::<16, 24>(&random) | 1];
    Ok(Layout { key, bits, sharing: table::sharing(bits) })
}

/// Memory of a map as the kernel counts it, in bytes.
pub(super) fn memory(info: &MapInfo) -> Option<u64> {
    use std::os::fd::{AsFd, AsRawFd};

    let fd = info.fd().ok()?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

/// Number of CPUs for which per-CPU maps have elements.
pub(super) fn cpus() -> usize {
    nr_cpus().unwrap_or(1)
}
