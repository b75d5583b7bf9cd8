//! The folders of pins: what is there, what takes its place, and taking it away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mtd_common::abi;

use super::error::Error;
use super::maps;
use super::pinned;
use super::plane::Capacity;

/// Folders under the pins of an instance: maps, maps that are to take their place, links.
const MAPS: &str = "maps";
const NEXT: &str = "next";
const LINKS: &str = "links";

/// Where the maps of a data plane that is about to be loaded are pinned.
pub(super) struct Place {
    pub(super) maps: PathBuf,
    /// The maps that are there are used.
    pub(super) adopted: bool,
    /// Why what is there is not used.
    pub(super) misfit: Option<String>,
}

impl Place {
    /// Looks at what is there, and makes the folders. What does not fit stays until [`settle`]: the data plane that it
    /// belongs to goes on if the new one cannot be loaded.
    pub(super) fn prepare(capacity: Capacity, pins: &Path) -> Result<Self, Error> {
        let (mut maps, next) = (pins.join(MAPS), pins.join(NEXT));
        // Of a start that was killed.
        remove_folder(&next)?;
        let found = pins.exists();
        let misfit = if found { check(capacity, pins).err() } else { None };
        if misfit.is_some() {
            maps = next;
        }
        for folder in [&maps, &pins.join(LINKS)] {
            fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        Ok(Self { maps, adopted: found && misfit.is_none(), misfit })
    }

    /// Takes back what [`Place::prepare`] did to a data plane that is there.
    pub(super) fn give_up(&self) -> Result<(), Error> {
        if self.misfit.is_some() {
            remove_folder(&self.maps)?;
        }
        Ok(())
    }
}

/// Puts the maps of the attached programs into the place of those before.
pub(super) fn settle(pins: &Path) -> Result<(), Error> {
    let (maps, next) = (pins.join(MAPS), pins.join(NEXT));
    if !next.exists() {
        return Ok(());
    }
    remove_folder(&maps)?;
    fs::rename(&next, &maps).map_err(Error::file(next))
}

/// Removes the maps of a data plane that was loaded and not attached, beside one that stays.
///
/// # Errors
/// When something cannot be removed.
pub fn abandon(pins: &Path) -> Result<(), Error> {
    remove_folder(&pins.join(NEXT)).map(drop)
}

/// Whether all maps pinned under `pins` are there and of the right shape and version; otherwise, what differs.
fn check(capacity: Capacity, pins: &Path) -> Result<(), String> {
    // First of all: the shapes follow from it.
    match pinned::version(pins) {
        Some(abi::VERSION) | None => {}
        Some(found) => return Err(format!("layout version {found} instead of {}", abi::VERSION)),
    }
    for shape in maps::shapes(capacity) {
        shape.check(&pins.join(MAPS).join(shape.name))?;
    }
    Ok(())
}

/// Removes everything pinned under `pins`, which detaches the programs. False when there was nothing.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_pins(pins: &Path) -> Result<bool, Error> {
    let mut found = false;
    // Links first: what is not attached any more needs no maps.
    for folder in [LINKS, NEXT, MAPS, ""] {
        found |= remove_folder(&pins.join(folder))?;
    }
    // The folder above goes with its last instance; while there are others it is not empty, and stays.
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
