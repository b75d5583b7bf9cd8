//! The kernel's counters for this process, by the names that all exporters use.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

use crate::prometheus::{Kind, Text};

/// Writes the values that can be read; others are left out, as the rules for these names require.
pub(super) fn render(text: &mut Text) {
    let clock = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let stat = fs::read_to_string("/proc/self/stat").ok();
    if let (Some(hertz), Some(page), Some(stat)) = (clock, page, stat)
        && let Some(usage) = Usage::parse(&stat, hertz as f64, page as f64)
    {
        let help = "User and system CPU time spent.";
        text.single("process_cpu_seconds_total", Kind::Counter, help, usage.cpu_seconds);
        let help = "Resident memory size.";
        text.single("process_resident_memory_bytes", Kind::Gauge, help, usage.resident_bytes);
        if let Some(boot) = boot_time() {
            let help = "Start time of the process since the unix epoch.";
            text.single("process_start_time_seconds", Kind::Gauge, help, boot + usage.started_seconds);
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        text.single("process_open_fds", Kind::Gauge, "Number of open file descriptors.", entries.count());
    }
}

/// The fields of interest in `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    /// Time since the host was booted.
    started_seconds: f64,
    resident_bytes: f64,
}

impl Usage {
    /// `hertz`: the kernel's ticks a second; `page`: bytes of a page.
    fn parse(stat: &str, hertz: f64, page: f64) -> Option<Self> {
        // The name of the process may contain blanks and brackets; fields are numbered from 1 (proc(5)).
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / hertz,
            started_seconds: field(22)? / hertz,
            resident_bytes: field(24)? * page,
        })
    }
}

/// Unix time in s at which the host was booted.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 1200 99999 25 18446744073709551615 1";
        let usage = Usage { cpu_seconds: 3.0, started_seconds: 12.0, resident_bytes: 102_400.0 };
        assert_eq!(Usage::parse(stat, 100.0, 4096.0), Some(usage));
        assert_eq!(Usage::parse("7 (a", 100.0, 4096.0), None);
        assert_eq!(Usage::parse("7 (a) S 1", 100.0, 4096.0), None);
    }

    #[test]
    fn this_process_has_all_of_it() {
        let mut text = Text::default();
        render(&mut text);
        let text = text.finish();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
    }
}
