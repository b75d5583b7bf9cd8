//! The programs of an attached data plane, as the kernel knows them.

use std::path::Path;
use std::time::UNIX_EPOCH;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};

use super::groups::any_settings;
use super::pins::maps;
use crate::model::Program;

/// The programs that work on the maps pinned under `pins`, in the order in which they were loaded. None where nothing is
/// attached, or the kernel does not tell.
pub fn programs(pins: &Path) -> Vec<Program> {
    // All programs of a data plane use this map.
    let settings = any_settings(&maps(pins)).and_then(|pin| MapInfo::from_pin(pin).ok());
    let Some(map) = settings else { return Vec::new() };
    let uses_it =
        |program: &ProgramInfo| program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&map.id()));
    // Programs of others may be unloaded while they are listed.
    loaded_programs().filter_map(Result::ok).filter(uses_it).map(|program| describe(&program)).collect()
}

/// The name of the program with this number, if it exists and has a name.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

pub(super) fn describe(program: &ProgramInfo) -> Program {
    let since_epoch = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).ok();
    Program {
        name: program.name_as_str().unwrap_or_default().to_owned(),
        id: program.id(),
        tag: format!("{:016x}", program.tag()),
        loaded: program.loaded_at().and_then(since_epoch).map(|time| time.as_secs_f64()),
        runs: program.run_count(),
        run_seconds: program.run_time().as_secs_f64(),
    }
}
