//! Processes whose clocks differ from the host's.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Lets a command run in a time namespace of its own (`time_namespaces(7)`), whose boot time is `ahead` seconds ahead of the
/// host's.
pub fn in_time_namespace(command: &mut Command, ahead: u32) {
    let offsets = format!("boottime {ahead} 0\n");
    let enter = move || {
        // SAFETY: takes a number.
        succeeded(unsafe { libc::unshare(libc::CLONE_NEWTIME) })?;
        fs::write("/proc/self/timens_offsets", &offsets)?;
        let namespace = File::open("/proc/self/ns/time_for_children")?;
        // SAFETY: takes a descriptor, which is open, and a number.
        succeeded(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWTIME) })
    };
    // SAFETY: between fork and exec, the closure makes system calls with data that it owns and with short paths, which are
    // copied to the stack; nothing allocates, locks or panics.
    unsafe { command.pre_exec(enter) };
}

fn succeeded(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
