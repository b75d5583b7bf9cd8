//! Copies of this machine: a virtual machine that is set back to a snapshot, or started twice from one. Its memory says that
//! keys were used less than they were. The hypervisor tells by another identifier of the machine's generation (vmgenid), and
//! the kernel by an event of the device; from then on no key of before is used, as in WireGuard.
//!
//! Not every hypervisor tells, and older kernels only mix the identifier into their random numbers.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Interval at which a file of a rehearsal is read.
const LOOK: Duration = Duration::from_millis(100);

/// The multicast group of the kernel's own events.
const KERNEL: u32 = 1;

/// Longest event in bytes; the kernel's are shorter.
const MAX_EVENT: usize = 8192;

/// What the kernel tells when the generation has changed.
const CHANGED: &[u8] = b"NEW_VMGENID=1";

/// Watches the generation of the virtual machine.
pub struct Copies {
    /// Stands for the identifier, in rehearsals.
    file: Option<PathBuf>,
}

impl Copies {
    /// `file`: what stands for the identifier, in rehearsals.
    pub fn new(file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { file })
    }
}

impl Subsystem for Copies {
    fn name(&self) -> &'static str {
        "copies of the machine"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let (name, own) = (self.name(), context.clone());
        context.tasks.spawn(name, AfterEnd::Restart, move || watch(self.file.clone(), own.clone()));
        Ok(())
    }
}

/// Ends all keys whenever the generation changes, until the shutdown.
async fn watch(file: Option<PathBuf>, context: Context) -> anyhow::Result<()> {
    let events = open()?;
    let read = || file.as_ref().and_then(|file| fs::read(file).ok());
    let mut generation = read();
    loop {
        let changed = tokio::select! {
            () = context.shutdown().begun() => return Ok(()),
            changed = next(&events) => changed?,
            () = sleep(LOOK), if file.is_some() => {
                let now = read();
                now.is_some() && std::mem::replace(&mut generation, now.clone()) != now
            }
        };
        if changed {
            warn!("this machine was copied or set back to a snapshot: no key of before is used any more");
            context.sessions().handle_copied();
            info!("all sessions begin anew");
        }
    }
}

/// The kernel's events, for this network namespace.
fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let events = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
    // SAFETY: the socket is owned by the `AsyncFd`, which closes it only after it was taken off the poller.
    Ok(unsafe { AsyncFd::register(events) }?)
}

/// Waits for the next event. Returns whether it is about the generation.
async fn next(events: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    let mut buffer = [0; MAX_EVENT];
    loop {
        let mut ready = events.readable().await?;
        let received = ready.try_io(|events| receive(events.get_ref(), &mut buffer));
        match received {
            // More came than the socket holds. To end all sessions each time that many devices come and go would be worse.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
            Ok(received) => return received,
            Err(_not_ready) => {}
        }
    }
}

/// Reads one event.
fn receive(events: &OwnedFd, buffer: &mut [u8]) -> io::Result<bool> {
    let (length, from) = recvfrom::<NetlinkAddr>(events.as_raw_fd(), buffer)?;
    // Other processes may send to the group, too.
    let is_kernel = from.is_some_and(|from| from.pid() == 0);
    Ok(is_kernel && is_change(&buffer[..length]))
}

/// Whether an event of the kernel says that the generation has changed: fields that end with a zero byte.
fn is_change(event: &[u8]) -> bool {
    event.split(|byte| *byte == 0).any(|field| field == CHANGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_of_the_generation_is_told_from_others() {
        let event = |fields: &[&str]| fields.join("\0").into_bytes();
        let device = "change@/devices/LNXSYSTM:00/LNXSYBUS:00/QEMUVGID:00";
        assert!(is_change(&event(&[device, "ACTION=change", "SUBSYSTEM=acpi", "NEW_VMGENID=1", "SEQNUM=7"])));
        // What somebody writes into the file `uevent` of a device has another name.
        assert!(!is_change(&event(&[device, "ACTION=change", "SYNTH_ARG_NEW_VMGENID=1"])));
        assert!(!is_change(b"") && !is_change(b"NEW_VMGENID=10\0"));
    }

    #[tokio::test]
    async fn what_is_not_from_the_kernel_changes_nothing() {
        let events = open().unwrap();
        let mut buffer = [0; 16];
        assert!(
            receive(events.get_ref(), &mut buffer)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        );
    }
}
