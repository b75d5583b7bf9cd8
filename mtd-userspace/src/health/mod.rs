//! Looking at the host around the data plane, and deriving the warnings of the status.

mod checks;
mod clock;

use std::path::Path;

use mtd_common::abi;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::utsname::uname;

use crate::dataplane::{program_name, programs};
use crate::device::{self, Underlay};
use crate::status::{ClockSource, Status, Warning};

pub use clock::{Signs, wall_clock};

/// What was found on the host.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The underlay interface; `None` if it does not exist any more.
    pub underlay: Option<Underlay>,
    /// IPv6 is off on the underlay.
    pub ipv6_off: bool,
    /// The underlay drops IPv4 packets whose way back is another interface.
    pub strict_filter: bool,
    /// Receive offloads of the underlay that may merge datagrams, as [`device::merging`] finds them.
    pub merging: Vec<&'static str>,
    /// Offloads of the tunnel device that are not as they must be: interface, offload, whether it is on.
    pub misfits: Vec<(String, String, bool)>,
    /// The file system for what must outlive a restart.
    pub room: Option<Room>,
    /// What is seen of time services.
    pub clock: Signs,
}

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What root can still write, in bytes.
    pub free: u64,
    /// Nothing can be written at all.
    pub read_only: bool,
}

impl Room {
    /// That of the file system with this folder; `None`: it cannot be told.
    fn at(folder: &Path) -> Option<Self> {
        let found = statvfs(folder).ok()?;
        let read_only = found.flags().contains(FsFlags::ST_RDONLY);
        Some(Self { free: found.blocks_free().saturating_mul(found.fragment_size()), read_only })
    }
}

impl Look {
    /// Looks at these interfaces. A setting that cannot be read is taken to be right.
    pub async fn at(underlay: &str, device: &str) -> Self {
        Self {
            underlay: Underlay::inspect(underlay).await.ok(),
            ipv6_off: device::ipv6_is_off(underlay),
            strict_filter: device::filters_strictly(underlay),
            merging: device::merging(underlay).unwrap_or_default(),
            misfits: device::misfits(device).unwrap_or_default(),
            room: None,
            clock: Signs::here(),
        }
    }
}

/// Adds to a status what is not part of the controller's own state: host, kernel, programs, warnings.
pub async fn examine(mut status: Status) -> Status {
    let mut look = Look::at(&status.interface, &status.device).await;
    look.room = status.saved.as_ref().and_then(|saved| Room::at(&saved.folder));
    env!("MTD_COMMIT").clone_into(&mut status.commit);
    status.abi = abi::VERSION;
    status.kernel = kernel();
    // A running controller has filled in its programs, since it has given up the privilege to look them up here.
    if status.programs.is_empty() {
        status.programs = programs(&status.pins);
    }
    // A running controller has filled in what the operator says of it.
    let trusted = status.clock.is_some_and(|clock| clock.source == Some(ClockSource::Operator));
    status.clock = wall_clock(trusted, look.clock);
    status.warnings = warnings(&status, &look);
    status
}

/// Release of the running kernel.
pub fn kernel() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The warnings, the most serious first.
pub fn warnings(status: &Status, look: &Look) -> Vec<Warning> {
    let mut found = Vec::new();
    for check in checks::CHECKS {
        check(status, look, &mut found);
    }
    found
}

/// A program in words: name and number. The kernel tells the name only to privileged processes.
pub fn program_label(id: u32) -> String {
    match program_name(id) {
        Some(name) => format!("the XDP program {name} (number {id})"),
        None => format!("the XDP program with the number {id}"),
    }
}

#[cfg(test)]
mod tests;
