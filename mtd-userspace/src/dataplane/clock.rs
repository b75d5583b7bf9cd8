//! The clock of the programs, as a process reads it.

use std::fs;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

/// By how much the clocks of this process differ from the host's (`time_namespaces(7)`).
const OFFSETS: &str = "/proc/self/timens_offsets";

const SECOND: i128 = 1_000_000_000;

/// A reading of monotonic time may take this many ns, before it is repeated: the process may have been interrupted.
const QUICK: i128 = 10_000_000;

/// Boot time in ns, as the programs read it: the host's, also in a time namespace with another one. mtd does not run on a
/// kernel without this clock; 0 then.
pub fn boot_time() -> u64 {
    static OFFSET: OnceLock<i128> = OnceLock::new();
    // A process does not change its time namespace, nor does the namespace its offsets once a process is in it.
    let offset =
        *OFFSET.get_or_init(|| fs::read_to_string(OFFSETS).map_or(0, |text| offset(&text, "boottime")));
    u64::try_from(read(ClockId::CLOCK_BOOTTIME) - offset).unwrap_or(0)
}

/// For how many ns the host has slept since it booted: boot time goes on then, and monotonic time does not. In a time namespace
/// it begins with another number.
pub fn slept() -> i128 {
    loop {
        let before = read(ClockId::CLOCK_MONOTONIC);
        let boot = read(ClockId::CLOCK_BOOTTIME);
        if read(ClockId::CLOCK_MONOTONIC) - before < QUICK {
            return boot - before;
        }
    }
}

fn read(clock: ClockId) -> i128 {
    clock_gettime(clock).map_or(0, |time| i128::from(time.tv_sec()) * SECOND + i128::from(time.tv_nsec()))
}

/// The offset in ns of a clock in the kernel's table of offsets, in each line of which is a name, seconds and ns.
fn offset(table: &str, clock: &str) -> i128 {
    let line = |line: &str| {
        let [name, seconds, nanoseconds] = line.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        let (seconds, nanoseconds): (i128, i128) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
        (name == clock).then_some(seconds * SECOND + nanoseconds)
    };
    table.lines().find_map(line).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_found_in_the_kernels_table() {
        let table = "monotonic        -100         0\nboottime        86400        17\n";
        assert_eq!(offset(table, "boottime"), 86_400 * SECOND + 17);
        assert_eq!(offset(table, "monotonic"), -100 * SECOND);
        for unknown in ["", "boottime", "boottime x 1", "realtime 1 1"] {
            assert_eq!(offset(unknown, "boottime"), 0, "{unknown:?}");
        }
    }

    #[test]
    fn boot_time_goes_on_and_this_test_does_not_sleep() {
        let (before, slept_before) = (boot_time(), slept());
        assert!(before > 0 && boot_time() >= before);
        assert!(slept() - slept_before < SECOND);
    }
}
