//! Errors of the data plane.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use aya::pin::PinError;
use aya::programs::{ProgramError, links::LinkError};

use crate::files::way_out;

/// An error of the data plane; its text includes the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not let this process load programs.
    #[error(
        "not permitted to load BPF programs; run as root (sudo), or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted,
    /// The object or one of its maps was refused.
    #[error("cannot load the BPF object: {0}; {way}", way = way_out(errno(&**.0)).unwrap_or("mtd needs Linux 6.1 or newer"))]
    Object(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("the kernel refused the program {program}: {source}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// The error of the kernel.
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {source}{remedy}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The error of the kernel.
        source: Box<ProgramError>,
        /// The remedy, with its own punctuation in front; may be empty.
        remedy: &'static str,
    },
    /// A link could not be kept.
    #[error("cannot keep the link of {program}: {source}")]
    Link {
        /// Name of the program.
        program: &'static str,
        /// The error of the kernel.
        source: Box<LinkError>,
    },
    /// A pin could not be made.
    #[error("cannot pin {}: {source}", path.display())]
    Pin {
        /// Path of the pin.
        path: PathBuf,
        /// The error of the kernel.
        source: Box<PinError>,
    },
    /// A folder or pin could not be made, read or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The object has no map or program of this name: object and controller do not belong together.
    #[error("the BPF object has no {0}; build it again with `cargo xtask build`")]
    Missing(&'static str),
    /// An operation on a map failed.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The error of the kernel.
        source: Box<MapError>,
    },
    /// A map could not be mapped into this process's memory.
    #[error("cannot map {map} into memory: {source}")]
    Shared {
        /// Name of the map.
        map: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The maps of programs to be attached must be pinned, or they would end with this process.
    #[error("the maps are not pinned; load them with a folder of pins")]
    NotPinned,
    /// Nothing that this version of mtd can read is pinned.
    #[error("nothing is attached that this version of mtd knows; `mtd detach` takes away what is there")]
    NothingPinned,
    /// A map has no such element.
    #[error("map {0} has no element {1}")]
    NoElement(&'static str, u32),
    /// The operating system gave no random numbers for the key of the table of addresses.
    #[error(
        "the operating system gave no random numbers ({0}); allow the getrandom system call, or mount /dev/urandom"
    )]
    Random(getrandom::Error),
    /// A CPU cannot be given a queue for packets.
    #[error("cannot hand packets to other CPUs: {0}; set steering = \"off\"")]
    Steering(#[source] Box<XdpMapError>),
    /// The thread that makes key stream cannot be started.
    #[error("cannot make key stream ahead: {0}; set keystream = \"off\"")]
    KeyStream(#[source] io::Error),
    /// No room for another filter.
    #[error(
        "there is no room for the filters of all sessions; give more of them the same rules, or fewer networks and port ranges"
    )]
    Filters,
    /// No room for another address.
    #[error("the address table is full ({0} entries); raise max_sessions in the configuration")]
    Full(usize),
    /// Too many sessions derived one address.
    #[error(
        "{} sessions derived the same address; use a longer host part (a shorter prefix)",
        mtd_common::abi::MAX_SHARED
    )]
    Crowded,
}

impl Error {
    pub(super) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// The system error behind an error of aya, if there is one.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}
