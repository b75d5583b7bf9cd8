//! The groups of pinned maps (`mtd_common::abi`), and the decision whether those of an earlier controller are taken over.
//!
//! The pins of all groups are in one folder, and their names tell them apart: `maps/core-7-SESSIONS` is the map `SESSIONS`
//! of the group `core` in version 6 of its layout. A folder for each group would read better, but the versions of mtd before
//! groups can remove a folder of pins only if it contains no folder: after a downgrade to one of those, something would be
//! left.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, Map, MapData, MapInfo};
use mtd_common::abi::filter::{MAX_POLICIES, MAX_RULE_PREFIXES, Mask, Policy, PolicyNumber, RuleKey};
use mtd_common::abi::{
    self, COUNTER_SLOTS, DROP_COUNTERS, Dataplane, GuardSettings, Route, RouteKey, Session, SessionState,
    Slot, stages,
};
use mtd_common::session_note::SessionNote;
use mtd_common::table::{self, Bucket, Layout};

use super::filter::{FILTER_RULES, POLICIES, SESSION_POLICY};
use super::settings::Capacity;
use super::stages::{RECEIVE_STAGES, SEND_STAGES, TAKE_STAGES};

/// Bytes of the ring buffer for drop events.
const EVENT_BYTES: u32 = 256 * 1024;

/// Bytes of the ring buffer for control messages.
const CONTROL_BYTES: u32 = 1024 * 1024;

/// Most inner prefixes of all peers together.
pub const MAX_ROUTES: u32 = 65_536;

/// The settings of the group `core`; all programs of a data plane use this map.
pub(super) const DATAPLANE: &str = "DATAPLANE";

/// The settings of the group `guard`.
pub(super) const GUARD: &str = "GUARD";

/// Maps whose layout shares one version, and that are taken over or replaced together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// The sessions.
    Core,
    /// Control records, which refer to sessions.
    Control,
    /// Policy and allow rules.
    Guard,
    /// Counters.
    Counters,
    /// Drop events.
    Events,
    /// Filters of sessions.
    Filter,
    /// The arrays of stages, which belong to one load of the programs.
    Stages,
}

impl Group {
    pub(super) const ALL: [Self; 7] =
        [Self::Core, Self::Control, Self::Guard, Self::Counters, Self::Events, Self::Filter, Self::Stages];

    /// Its name, without a hyphen: part of the names of its pins.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Control => "control",
            Self::Guard => "guard",
            Self::Counters => "counters",
            Self::Events => "events",
            Self::Filter => "filter",
            Self::Stages => "stages",
        }
    }

    /// Version of its layout.
    pub(super) const fn version(self) -> u32 {
        match self {
            Self::Core => abi::core::VERSION,
            Self::Control => abi::control_record::VERSION,
            Self::Guard => abi::guard::VERSION,
            Self::Counters => abi::counters::VERSION,
            Self::Events => abi::event::VERSION,
            Self::Filter => abi::filter::VERSION,
            Self::Stages => stages::VERSION,
        }
    }

    /// The group that the contents of this one refer to, if any.
    const fn goes_with(self) -> Option<Self> {
        match self {
            Self::Control | Self::Filter => Some(Self::Core),
            Self::Core | Self::Guard | Self::Counters | Self::Events | Self::Stages => None,
        }
    }

    /// The pin of one of its maps in the folder `maps`.
    pub(super) fn pin(self, maps: &Path, name: &str) -> PathBuf {
        maps.join(format!("{}-{}-{name}", self.name(), self.version()))
    }

    /// Whether an earlier controller's maps may be taken over at all.
    pub(super) const fn is_lasting(self) -> bool {
        !matches!(self, Self::Stages)
    }

    /// Checks that its maps are in this folder, with the right version and shapes; otherwise, returns the difference.
    fn check(self, maps: &Path, capacity: Capacity) -> Result<(), String> {
        if !self.is_lasting() {
            return Err("belongs to one load of the programs".to_owned());
        }
        let found = pinned(maps);
        let other = found.iter().find(|pin| pin.group == self.name() && pin.version != self.version());
        if let Some(other) = other {
            return Err(format!("layout version {} instead of {}", other.version, self.version()));
        }
        // Pinned by a version before groups.
        if found.is_empty() && maps.join(DATAPLANE).exists() {
            return Err(format!("layout version 5 or earlier instead of {}", self.version()));
        }
        shapes(capacity)
            .iter()
            .filter(|shape| shape.group == self)
            .try_for_each(|shape| shape.check(maps))?;
        if self == Self::Core { require_settings(maps) } else { Ok(()) }
    }
}

/// Whether the programs were ever told their settings. Without them the table of addresses has neither size nor key.
fn require_settings(maps: &Path) -> Result<(), String> {
    let unreadable = |error| format!("{DATAPLANE}: {error}");
    let map = MapData::from_pin(Group::Core.pin(maps, DATAPLANE)).map_err(unreadable)?;
    let map: Array<MapData, Dataplane> = Array::try_from(Map::Array(map)).map_err(unreadable)?;
    let found = map.get(&0, 0).map_err(unreadable)?;
    if found.table == Layout::default() {
        return Err("the programs were never told their settings: a start was killed before".to_owned());
    }
    Ok(())
}

/// The parts of a pin's name.
pub(super) struct Pin {
    /// Name of the group.
    pub(super) group: String,
    /// Version of its layout.
    pub(super) version: u32,
    /// Name of the map.
    pub(super) map: String,
    pub(super) path: PathBuf,
}

/// The pins in a folder whose names are those of a group.
pub(super) fn pinned(maps: &Path) -> Vec<Pin> {
    let pin = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let mut parts = name.splitn(3, '-');
        let (group, version, map) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        Some(Pin { group: group.to_owned(), version, map: map.to_owned(), path: entry.path() })
    };
    fs::read_dir(maps).map(|entries| entries.flatten().filter_map(pin).collect()).unwrap_or_default()
}

/// The pin of the settings that all programs of a data plane use, whichever version pinned it.
pub(super) fn any_settings(maps: &Path) -> Option<PathBuf> {
    let core = |pin: &Pin| pin.group == Group::Core.name() && pin.map == DATAPLANE;
    let before_groups = Some(maps.join(DATAPLANE)).filter(|path| path.exists());
    pinned(maps).into_iter().find(core).map(|pin| pin.path).or(before_groups)
}

/// A map that outlives the controller, and its shape.
pub(super) struct Shape {
    pub(super) group: Group,
    pub(super) name: &'static str,
    key_size: usize,
    value_size: usize,
    pub(super) max_entries: u32,
}

impl Shape {
    /// Checks that the map pinned in the folder `maps` has this shape; otherwise, returns the difference.
    fn check(&self, maps: &Path) -> Result<(), String> {
        let info = MapInfo::from_pin(self.group.pin(maps, self.name));
        let info = info.map_err(|error| format!("{}: {error}", self.name))?;
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        let wanted = (self.key_size, self.value_size, self.max_entries);
        if found == wanted { Ok(()) } else { Err(format!("{}: {found:?} instead of {wanted:?}", self.name)) }
    }
}

/// The pinned maps, with their shapes in a data plane of this capacity.
pub(super) fn shapes(capacity: Capacity) -> [Shape; 19] {
    let buckets = 1 << capacity.table_bits();
    let filter = table::words(capacity.table_bits()) as u32;
    let slots = capacity.sessions.saturating_mul(1 << capacity.ring_bits());
    let shape = |group, name, key_size, value_size, max_entries| Shape {
        group,
        name,
        key_size,
        value_size,
        max_entries,
    };
    let array = |group, name, value_size, entries| shape(group, name, 4, value_size, entries);
    let ring = |group, name, bytes| shape(group, name, 0, 0, bytes);
    let (key, route) = (size_of::<Key<RouteKey>>(), size_of::<Route>());
    [
        array(Group::Core, DATAPLANE, size_of::<Dataplane>(), 1),
        array(Group::Core, "FILTER", 8, filter),
        array(Group::Core, "ADDRESSES", size_of::<Bucket>(), buckets),
        array(Group::Core, "SLOTS", size_of::<Slot>(), slots),
        array(Group::Core, "SESSIONS", size_of::<Session>(), capacity.sessions),
        array(Group::Core, "SESSION_STATE", size_of::<SessionState>(), capacity.sessions),
        array(Group::Core, "SESSION_NOTES", size_of::<SessionNote>(), capacity.sessions),
        shape(Group::Core, "ROUTES", key, route, MAX_ROUTES),
        ring(Group::Control, "CONTROL", CONTROL_BYTES),
        array(Group::Guard, GUARD, size_of::<GuardSettings>(), 1),
        array(Group::Counters, "DROPS", 8, DROP_COUNTERS),
        array(Group::Counters, "COUNTERS", 8, COUNTER_SLOTS),
        ring(Group::Events, "EVENTS", EVENT_BYTES),
        array(Group::Filter, SESSION_POLICY, size_of::<PolicyNumber>(), capacity.sessions),
        shape(Group::Filter, POLICIES, 4, size_of::<Policy>(), MAX_POLICIES),
        shape(Group::Filter, FILTER_RULES, size_of::<Key<RuleKey>>(), size_of::<Mask>(), MAX_RULE_PREFIXES),
        array(Group::Stages, RECEIVE_STAGES, 4, stages::ENTRIES),
        array(Group::Stages, TAKE_STAGES, 4, stages::ENTRIES),
        array(Group::Stages, SEND_STAGES, 4, stages::ENTRIES),
    ]
}

/// The groups whose maps in this folder are not taken over, and why not.
pub(super) fn misfits(maps: &Path, capacity: Capacity) -> Vec<(Group, String)> {
    let mut found: Vec<(Group, String)> = Vec::new();
    for group in Group::ALL {
        let without = found.iter().find(|(other, _)| group.goes_with() == Some(*other));
        let why = match without {
            Some((other, _)) => Some(format!("goes with {}", other.name())),
            None => group.check(maps, capacity).err(),
        };
        found.extend(why.map(|why| (group, why)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_one_name_and_its_maps_are_no_others() {
        let capacity = Capacity { sessions: 1, slots: 4, lanes: 0 };
        let shapes = shapes(capacity);
        for group in Group::ALL {
            assert!(!group.name().contains('-'), "{group:?}");
            assert_eq!(Group::ALL.iter().filter(|other| other.name() == group.name()).count(), 1);
            assert!(shapes.iter().any(|shape| shape.group == group), "{group:?} has no map");
        }
        for shape in &shapes {
            assert_eq!(shapes.iter().filter(|other| other.name == shape.name).count(), 1, "{}", shape.name);
        }
    }

    #[test]
    fn names_of_pins_are_read_as_they_are_written_and_others_left_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let maps = folder.path();
        let pin = Group::Counters.pin(maps, "DROPS");
        assert_eq!(pin.file_name().unwrap(), format!("counters-{}-DROPS", abi::counters::VERSION).as_str());
        for name in ["DATAPLANE", "core-DATAPLANE", "core-x-DATAPLANE", "-"] {
            fs::write(maps.join(name), "").unwrap();
        }
        fs::write(&pin, "").unwrap();
        let found = pinned(maps);
        let [found] = found.as_slice() else { panic!("{} pins", found.len()) };
        let parts = (found.group.as_str(), found.version, found.map.as_str(), &found.path);
        assert_eq!(parts, ("counters", abi::counters::VERSION, "DROPS", &pin));
    }

    #[test]
    fn what_was_pinned_before_there_were_groups_is_known() {
        let folder = tempfile::TempDir::new().unwrap();
        let capacity = Capacity { sessions: 1, slots: 4, lanes: 0 };
        assert_eq!(any_settings(folder.path()), None);
        fs::write(folder.path().join(DATAPLANE), "").unwrap();
        assert_eq!(any_settings(folder.path()), Some(folder.path().join(DATAPLANE)));
        let misfits = misfits(folder.path(), capacity);
        assert_eq!(misfits.len(), Group::ALL.len());
        assert_eq!(misfits[0], (Group::Core, "layout version 5 or earlier instead of 7".to_owned()));
        // A map pinned by a later version has the version in its name.
        fs::write(folder.path().join("core-77-DATAPLANE"), "").unwrap();
        assert_eq!(self::misfits(folder.path(), capacity)[0].1, "layout version 77 instead of 7");
        assert_eq!(any_settings(folder.path()), Some(folder.path().join("core-77-DATAPLANE")));
    }
}
