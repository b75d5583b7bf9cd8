//! The stages of the programs: see [`mtd_common::abi::stages`]. The arrays are filled once, before the programs are attached.

use aya::Ebpf;
use aya::maps::{Map, ProgramArray};
use aya::programs::{ProgramError, ProgramFd};
use mtd_common::abi::stages::{FILTER, SEAL};

use super::error::Error;
use super::object::{FILTER_RECEIVE, FILTER_SEND, FILTER_TAKE, SEND};
use super::plane::program_error;

/// The arrays, each for programs of one kind.
pub(super) const RECEIVE_STAGES: &str = "STAGES_RECEIVE";
pub(super) const TAKE_STAGES: &str = "STAGES_TAKE";
pub(super) const SEND_STAGES: &str = "STAGES_SEND";

/// Array, place, and program there.
const STAGES: [(&str, u32, &str); 4] = [
    (RECEIVE_STAGES, FILTER, FILTER_RECEIVE),
    (TAKE_STAGES, FILTER, FILTER_TAKE),
    (SEND_STAGES, FILTER, FILTER_SEND),
    (SEND_STAGES, SEAL, SEND),
];

/// Puts the programs of all stages into their places.
pub(super) fn fill(ebpf: &mut Ebpf) -> Result<(), Error> {
    for (array, place, program) in STAGES {
        let fd = fd(ebpf, program).map_err(program_error(program))?;
        map(ebpf, array)?.set(place, &fd, 0).map_err(Error::map(array))?;
    }
    Ok(())
}

fn fd(ebpf: &Ebpf, name: &'static str) -> Result<ProgramFd, ProgramError> {
    let program = ebpf.program(name).ok_or(ProgramError::NotLoaded)?;
    Ok(program.fd()?.try_clone()?)
}

fn map<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<ProgramArray<&'a mut aya::maps::MapData>, Error> {
    let map: &mut Map = ebpf.map_mut(name).ok_or(Error::Missing(name))?;
    ProgramArray::try_from(map).map_err(Error::map(name))
}
