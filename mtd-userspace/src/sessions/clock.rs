//! The two clocks that the controller reads.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::dataplane::{boot_time, slept};
use crate::model::{BootNs, Reading, UnixNs};

/// Where the kernel tells its identifier of the present boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Reads boot time and wall clock.
pub trait Clock: Send + Sync {
    /// Both clocks, read at about the same instant.
    fn read(&self) -> Reading;

    /// For how many ns the host has slept, from some instant on.
    fn slept(&self) -> i128 {
        0
    }

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
    /// The wall clock is shifted by the ns in `offset_file`, if given. A second number there is a time in ns for which the host
    /// counts as having slept.
    pub const fn new(offset_file: Option<PathBuf>) -> Self {
        Self { offset_file }
    }

    /// The numbers in the file.
    fn offsets(&self) -> [i64; 2] {
        let Some(path) = &self.offset_file else { return [0; 2] };
        let read = || {
            let text = fs::read_to_string(path).ok()?;
            let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next().unwrap_or(Some(0))?])
        };
        read().unwrap_or_else(|| {
            warn!("{} holds no number of ns", path.display());
            [0; 2]
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
        let (boot, [offset, _]) = (boot_time(), self.offsets());
        let wall = nanoseconds(ClockId::CLOCK_REALTIME).saturating_add_signed(offset);
        Reading { boot: BootNs(boot), wall: UnixNs(wall) }
    }

    fn slept(&self) -> i128 {
        let [_, rehearsed] = self.offsets();
        slept() + i128::from(rehearsed)
    }

    fn boot_id(&self) -> String {
        fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn read(&self) -> Reading {
        (**self).read()
    }

    fn slept(&self) -> i128 {
        (**self).slept()
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
