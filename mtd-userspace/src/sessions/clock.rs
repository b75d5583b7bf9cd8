//! The two clocks that the controller reads.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::model::{BootNs, Reading, UnixNs};

/// Where the kernel tells its identifier of the present boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Reads boot time and wall clock.
pub trait Clock: Send + Sync {
    /// Both clocks, read at about the same instant.
    fn read(&self) -> Reading;

    /// The kernel's identifier of the present boot, within which boot times can be compared; empty if it is not known.
    fn boot_id(&self) -> String {
        String::new()
    }
}

/// The clocks of the system.
#[derive(Debug)]
pub struct SystemClock {
    offset_file: Option<PathBuf>,
}

impl SystemClock {
    /// The wall clock is shifted by the ns in `offset_file`, if given.
    pub const fn new(offset_file: Option<PathBuf>) -> Self {
        Self { offset_file }
    }

    fn offset(&self) -> i64 {
        let Some(path) = &self.offset_file else { return 0 };
        let read = || fs::read_to_string(path).ok()?.trim().parse().ok();
        read().unwrap_or_else(|| {
            warn!("{} holds no number of ns", path.display());
            0
        })
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux that mtd runs on; a failure here would be a broken libc.
    let time = clock_gettime(clock).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())).unwrap_or(0)
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        let boot = nanoseconds(ClockId::CLOCK_BOOTTIME);
        let wall = nanoseconds(ClockId::CLOCK_REALTIME).saturating_add_signed(self.offset());
        Reading { boot: BootNs(boot), wall: UnixNs(wall) }
    }

    fn boot_id(&self) -> String {
        fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn read(&self) -> Reading {
        (**self).read()
    }

    fn boot_id(&self) -> String {
        (**self).boot_id()
    }
}

/// A clock that stands still, for tests.
#[cfg(test)]
impl Clock for Reading {
    fn read(&self) -> Reading {
        *self
    }
}
