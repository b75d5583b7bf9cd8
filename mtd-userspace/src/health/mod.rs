//! Looking at the host around the data plane, and deriving the warnings of the status.

mod checks;

use mtd_common::abi;
use nix::errno::Errno;
use nix::sys::utsname::uname;

use crate::dataplane::{program_name, programs};
use crate::device::{self, Underlay};
use crate::status::{Status, WallClock, Warning};

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
        }
    }
}

/// Adds to a status what is not part of the controller's own state: host, kernel, programs, warnings.
pub async fn examine(mut status: Status) -> Status {
    let look = Look::at(&status.interface, &status.device).await;
    env!("MTD_COMMIT").clone_into(&mut status.commit);
    status.abi = abi::VERSION;
    status.kernel = kernel();
    // A running controller has filled in its programs, since it has given up the privilege to look them up here.
    if status.programs.is_empty() {
        status.programs = programs(&status.pins);
    }
    status.clock = wall_clock();
    status.warnings = warnings(&status, &look);
    status
}

/// Release of the running kernel.
pub fn kernel() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The state of the wall clock, as the kernel knows it.
pub fn wall_clock() -> Option<WallClock> {
    // SAFETY: the structure consists of numbers, for which zero is a valid value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer leads to a live structure; with no mode set, the call changes nothing else.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    Errno::result(state).ok()?;
    Some(WallClock {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        max_error_seconds: timex.maxerror as f64 / 1e6,
    })
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
