//! The folders of pins: finding, replacing and removing them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::groups::{self, Group, misfits, pinned};
use super::links;
use super::settings::Capacity;

/// Folders under the pins of an instance: maps, maps that will replace them, links.
const MAPS: &str = "maps";
const NEXT: &str = "next";
pub(super) const LINKS: &str = "links";

/// The folder of maps under the pins of an instance.
pub(super) fn maps(pins: &Path) -> PathBuf {
    pins.join(MAPS)
}

/// The place where the maps of a data plane are pinned while it is loaded.
pub(super) struct Place {
    pins: PathBuf,
    /// Whether there are maps to be taken over or replaced.
    found: bool,
    /// The groups whose maps are not taken over, and why not.
    misfits: Vec<(Group, String)>,
}

impl Place {
    /// Finds the pinned maps, and makes the folders. Maps that do not fit stay until [`settle`]: if the new data plane
    /// cannot be loaded, the one that they belong to goes on.
    pub(super) fn prepare(capacity: Capacity, pins: &Path) -> Result<Self, Error> {
        // Left by a start that was killed.
        remove_folder(&pins.join(NEXT))?;
        let found = pins.exists();
        let misfits = if found { misfits(&maps(pins), capacity) } else { Vec::new() };
        let next = (!misfits.is_empty()).then_some(NEXT);
        for folder in [MAPS, LINKS].into_iter().chain(next) {
            let folder = pins.join(folder);
            fs::create_dir_all(&folder).map_err(Error::file(folder))?;
        }
        Ok(Self { pins: pins.to_owned(), found, misfits })
    }

    /// Where a map of a group is pinned until [`settle`].
    pub(super) fn pin(&self, group: Group, map: &str) -> PathBuf {
        let folder = if self.misfit(group).is_some() { NEXT } else { MAPS };
        group.pin(&self.pins.join(folder), map)
    }

    /// Why the pinned maps of a group are not taken over.
    pub(super) fn misfit(&self, group: Group) -> Option<&str> {
        self.misfits.iter().find(|(other, _)| *other == group).map(|(_, why)| why.as_str())
    }

    /// Whether the present sessions go on.
    pub(super) fn adopts_sessions(&self) -> bool {
        self.found && self.misfit(Group::Core).is_none()
    }

    /// The groups that are replaced while the sessions go on.
    pub(super) fn replaced_beside(&self) -> impl Iterator<Item = &(Group, String)> {
        self.misfits.iter().filter(|(group, _)| self.adopts_sessions() && group.is_lasting())
    }

    /// Undoes [`Place::prepare`].
    pub(super) fn give_up(&self) -> Result<(), Error> {
        remove_folder(&self.pins.join(NEXT)).map(drop)
    }
}

/// Moves the maps of the attached programs into the place of the earlier ones, and removes all pins that belong to no map of
/// theirs.
///
/// All old pins of a group are removed before the first new one is moved: an interruption leaves an incomplete group, which
/// nobody takes over.
pub(super) fn settle(pins: &Path, capacity: Capacity) -> Result<(), Error> {
    let (maps, next) = (pins.join(MAPS), pins.join(NEXT));
    let new = pinned(&next);
    let replaced: BTreeSet<&str> = new.iter().map(|pin| pin.group.as_str()).collect();
    let kept: BTreeSet<PathBuf> = groups::shapes(capacity)
        .iter()
        .filter(|shape| !replaced.contains(shape.group.name()))
        .map(|shape| shape.group.pin(&maps, shape.name))
        .collect();
    for entry in fs::read_dir(&maps).map_err(Error::file(&maps))? {
        let path = entry.map_err(Error::file(&maps))?.path();
        if !kept.contains(&path) {
            fs::remove_file(&path).map_err(Error::file(path))?;
        }
    }
    for pin in &new {
        if let Some(name) = pin.path.file_name() {
            fs::rename(&pin.path, maps.join(name)).map_err(Error::file(&pin.path))?;
        }
    }
    remove_folder(&next).map(drop)
}

/// Removes the maps of a data plane that was loaded but not attached, and leaves those of the attached one.
///
/// # Errors
/// When something cannot be removed.
pub fn abandon(pins: &Path) -> Result<(), Error> {
    remove_folder(&pins.join(NEXT)).map(drop)
}

/// Removes everything pinned under `pins`, which detaches the programs. False when there was nothing.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_pins(pins: &Path) -> Result<bool, Error> {
    let mut found = false;
    links::stop_advertising(pins)?;
    // Links first: programs that are detached need no maps.
    for folder in [LINKS, NEXT, MAPS, ""] {
        found |= remove_folder(&pins.join(folder))?;
    }
    // The folder above is removed with its last instance; while others are in it, removing it fails.
    if let Some(parent) = pins.parent().filter(|_| found) {
        let _ = fs::remove_dir(parent);
    }
    Ok(found)
}

/// Removes a folder with the pins and empty folders in it. False when there was none.
fn remove_folder(folder: &Path) -> Result<bool, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::file(folder)(error)),
    };
    for entry in entries {
        let path: PathBuf = entry.map_err(Error::file(folder))?.path();
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::file(path))?;
    }
    fs::remove_dir(folder).map_err(Error::file(folder))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::groups::DATAPLANE;

    const CAPACITY: Capacity = Capacity { sessions: 1, slots: 4, lanes: 0 };

    /// The names of the files in a folder.
    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Makes files in place of pins, each containing the name of its folder.
    fn fill(pins: &Path, folder: &str, names: impl IntoIterator<Item = PathBuf>) {
        fs::create_dir_all(pins.join(folder)).unwrap();
        for name in names {
            fs::write(pins.join(folder).join(name), folder).unwrap();
        }
    }

    fn pins_of(groups: &[Group]) -> Vec<PathBuf> {
        let shapes = groups::shapes(CAPACITY);
        let shapes = shapes.iter().filter(|shape| groups.contains(&shape.group));
        shapes.map(|shape| shape.group.pin(Path::new(""), shape.name)).collect()
    }

    #[test]
    fn the_maps_of_a_replaced_group_take_the_place_of_those_before_and_others_stay() {
        let folder = tempfile::TempDir::new().unwrap();
        let pins = folder.path();
        fill(pins, MAPS, pins_of(&Group::ALL));
        // Pins of other versions of the replaced group, and of groups that only those versions have.
        fill(pins, MAPS, ["events-5-EVENTS", "events-6-MORE", "later-1-MAP", DATAPLANE].map(PathBuf::from));
        fill(pins, NEXT, pins_of(&[Group::Events]));
        settle(pins, CAPACITY).unwrap();
        let of_all = pins_of(&Group::ALL).into_iter().map(|pin| pin.into_os_string().into_string().unwrap());
        assert_eq!(names(&pins.join(MAPS)), of_all.collect());
        assert!(!pins.join(NEXT).exists());
        let source = |group: Group, name| fs::read_to_string(group.pin(&pins.join(MAPS), name)).unwrap();
        assert_eq!(source(Group::Events, "EVENTS"), NEXT);
        assert_eq!(source(Group::Core, DATAPLANE), MAPS);
        settle(pins, CAPACITY).unwrap();
        assert_eq!(names(&pins.join(MAPS)).len(), groups::shapes(CAPACITY).len());
    }

    #[test]
    fn a_first_start_pins_at_once_and_a_group_that_does_not_fit_waits() {
        let folder = tempfile::TempDir::new().unwrap();
        let pins = folder.path().join("instance");
        let place = Place::prepare(CAPACITY, &pins).unwrap();
        assert!(!place.adopts_sessions() && place.misfits.is_empty());
        assert_eq!(place.pin(Group::Core, DATAPLANE), Group::Core.pin(&pins.join(MAPS), DATAPLANE));
        // Without maps in the folder, nothing is taken over.
        let place = Place::prepare(CAPACITY, &pins).unwrap();
        assert!(!place.adopts_sessions() && place.misfits.len() == Group::ALL.len());
        assert_eq!(place.replaced_beside().count(), 0, "all is replaced, which is said at once");
        assert_eq!(place.pin(Group::Core, DATAPLANE), Group::Core.pin(&pins.join(NEXT), DATAPLANE));
        place.give_up().unwrap();
        assert_eq!(names(&pins), [LINKS, MAPS].map(str::to_owned).into());
    }
}
