//! Errors of the data plane.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use aya::pin::PinError;
use aya::programs::{ProgramError, links::LinkError};
use aya::util::KernelVersion;

use crate::remedy::{Doing, clause, remedy};

/// An error of the data plane; its text includes the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not let this process load programs.
    #[error("not permitted to load BPF programs{}", way(Some(libc::EPERM)))]
    NotPermitted,
    /// The object or one of its maps was refused.
    #[error("cannot load the BPF object: {}{}", said(&**.0), way(errno(&**.0)))]
    Object(Box<EbpfError>),
    /// A program was refused.
    #[error("the kernel refused the program {program}: {}", refusal(cause))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// The error of the kernel.
        cause: Box<ProgramError>,
    },
    /// No thread could be started to load a program.
    #[error("cannot start a thread to load a program: {0}{remedy}", remedy = clause(Doing::Start, .0))]
    Thread(io::Error),
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {}{remedy}", said(&**cause))]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The error of the kernel.
        cause: Box<ProgramError>,
        /// The remedy, with its own punctuation in front; may be empty.
        remedy: String,
    },
    /// A link could not be kept.
    #[error("cannot keep the link of {program}: {}", said(&**cause))]
    Link {
        /// Name of the program.
        program: &'static str,
        /// The error of the kernel.
        cause: Box<LinkError>,
    },
    /// A pin could not be made.
    #[error("cannot pin {}: {}{}", path.display(), said(&**cause), file_way(errno(&**cause)))]
    Pin {
        /// Path of the pin.
        path: PathBuf,
        /// The error of the kernel.
        cause: Box<PinError>,
    },
    /// A folder or pin could not be made, read or removed.
    #[error("{}: {cause}{}", path.display(), clause(Doing::File(""), cause))]
    File {
        /// Its path.
        path: PathBuf,
        /// The error of the kernel.
        cause: io::Error,
    },
    /// The object has no map or program of this name: object and controller do not belong together.
    #[error("the BPF object has no {0}; build it again with `cargo xtask build`")]
    Missing(&'static str),
    /// An operation on a map failed.
    #[error("map {map}: {}", said(&**cause))]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The error of the kernel.
        cause: Box<MapError>,
    },
    /// A map could not be mapped into this process's memory.
    #[error("cannot map {map} into memory: {cause}{}", clause(Doing::Bpf, cause))]
    Shared {
        /// Name of the map.
        map: &'static str,
        /// The error of the kernel.
        cause: io::Error,
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
    #[error("cannot hand packets to other CPUs: {}{}; mtd works without that, too: steering = \"off\"", said(&**.0), way(errno(&**.0)))]
    Steering(Box<XdpMapError>),
    /// The thread that makes key stream cannot be started.
    #[error("cannot make key stream ahead: {0}{remedy}; mtd works without that, too: keystream = \"off\"", remedy = clause(Doing::Start, .0))]
    KeyStream(io::Error),
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
        move |cause| Self::Map { map, cause: Box::new(cause) }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
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

/// What an error and its causes say. None of them is marked as a source above, since the texts contain this already.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// The oldest kernel whose programs and maps are those that mtd uses.
const OLDEST: KernelVersion = KernelVersion::new(6, 1, 0);

/// What helps against a refusal of bpf(2), with its own punctuation in front; may be empty.
fn way(errno: Option<i32>) -> String {
    match remedy(Doing::Bpf, errno) {
        Some(remedy) => format!("; {remedy}"),
        None if KernelVersion::current().is_ok_and(|kernel| kernel < OLDEST) => {
            "; mtd needs Linux 6.1 or newer, and this kernel is older".to_owned()
        }
        None => String::new(),
    }
}

/// The same for a file.
fn file_way(errno: Option<i32>) -> String {
    errno.map_or_else(String::new, |errno| clause(Doing::File(""), &io::Error::from_raw_os_error(errno)))
}

/// Why the kernel refused a program: what its verifier says if it has found fault with it, otherwise the error itself.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return format!("{}{}", said(error), way(errno(error)));
    };
    // Whatever else has gone wrong, the log has no verdict but the whole course of the check.
    let of_the_verifier =
        matches!(io_error.raw_os_error(), Some(libc::EACCES | libc::EINVAL | libc::EPERM | libc::E2BIG));
    match verdict(&verifier_log.to_string()).filter(|_| of_the_verifier) {
        Some(verdict) => {
            format!("{io_error}; its verifier says: {verdict}; please report this with the kernel's version")
        }
        None => format!("{io_error}{}", way(io_error.raw_os_error())),
    }
}

/// The last line of a verifier's log that is no statistics.
fn verdict(log: &str) -> Option<&str> {
    let statistics = ["processed ", "verification time ", "stack depth ", "max_states_per_insn "];
    let is_verdict =
        |line: &&str| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start));
    log.lines().map(str::trim).rfind(is_verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_last_line_of_the_log_that_is_no_statistics() {
        let log = "0: R1=ctx()\n7: (71) r2 = *(u8 *)(r1 +14)\ninvalid access to packet, off=14 size=1, R1(id=0,off=14,r=0)\n\
                   processed 8 insns (limit 1000000) max_states_per_insn 0 total_states 0\n";
        assert!(verdict(log).is_some_and(|line| line.starts_with("invalid access to packet")));
        assert_eq!((verdict(""), verdict("processed 8 insns\n")), (None, None));
    }
}
