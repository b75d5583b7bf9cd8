//! What this process may do, as far as the kernel tells.

use std::fs;

/// A capability, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(u8, &'static str);

impl Capability {
    pub(super) const BPF: Self = Self(39, "CAP_BPF");
    pub(super) const DAC_OVERRIDE: Self = Self(1, "CAP_DAC_OVERRIDE");
    pub(super) const NET_ADMIN: Self = Self(12, "CAP_NET_ADMIN");
    pub(super) const NET_BIND_SERVICE: Self = Self(10, "CAP_NET_BIND_SERVICE");
    pub(super) const NET_RAW: Self = Self(13, "CAP_NET_RAW");
    pub(super) const PERFMON: Self = Self(38, "CAP_PERFMON");
    pub(super) const SYS_ADMIN: Self = Self(21, "CAP_SYS_ADMIN");

    /// Its name in capabilities(7).
    pub const fn name(self) -> &'static str {
        self.1
    }

    pub(super) const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// What a process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its effective capabilities.
    pub(super) capabilities: u64,
    /// Its effective user is root.
    pub(super) is_root: bool,
    /// It is in another user namespace than the host's own.
    pub(super) has_own_users: bool,
    /// A seccomp filter refuses bpf(2).
    pub(super) bpf_is_filtered: bool,
}

impl Process {
    /// The present thread. What cannot be read counts as the usual.
    pub fn own() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        // SAFETY: takes nothing, and cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        Self {
            capabilities: field(&status, "CapEff")
                .and_then(|set| u64::from_str_radix(set, 16).ok())
                .unwrap_or(0),
            is_root,
            has_own_users: !map.is_empty() && !is_of_the_host(&map),
            bpf_is_filtered: field(&status, "Seccomp") == Some("2") && bpf_is_refused(),
        }
    }

    /// Whether it has this capability. `CAP_SYS_ADMIN` includes what was split off it.
    pub(super) const fn has(&self, capability: Capability) -> bool {
        let admin = if matches!(capability.0, 38 | 39) { Capability::SYS_ADMIN.bit() } else { 0 };
        self.capabilities & (capability.bit() | admin) != 0
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The host's own user namespace maps every user to itself.
fn is_of_the_host(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether a call of bpf(2) that means nothing is refused: the kernel itself would find fault with its arguments.
fn bpf_is_refused() -> bool {
    // SAFETY: an unknown command with an empty argument does nothing.
    let result = unsafe { libc::syscall(libc::SYS_bpf, u32::MAX, std::ptr::null::<u8>(), 0_u32) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    result < 0 && errno.is_none_or(|errno| errno != libc::EINVAL && errno != libc::E2BIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_understood() {
        let status = "Name:\tmtd\nCapEff:\t000001ffffffffff\nSeccomp:\t0\nSeccomp_filters:\t0\n";
        assert_eq!(field(status, "CapEff"), Some("000001ffffffffff"));
        assert_eq!(field(status, "Seccomp"), Some("0"));
        assert!(is_of_the_host("         0          0 4294967295\n"));
        assert!(!is_of_the_host("         0     100000      65536\n"));
        let process = |capabilities| Process { capabilities, ..Process::default() };
        assert!(process(1 << 39).has(Capability::BPF) && process(1 << 21).has(Capability::BPF));
        assert!(!process(1 << 21).has(Capability::NET_ADMIN));
        // Nobody filters the tests.
        assert!(!Process::own().bpf_is_filtered);
    }
}
