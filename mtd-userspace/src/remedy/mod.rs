//! What helps when the operating system refuses something: the one place where the number of an error, what was being done
//! and what this process may do become a way out. What is not known for certain is not said.

mod process;

use std::io;

pub use self::process::{Capability, Process};

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Loading programs and making maps: bpf(2).
    Bpf,
    /// Changing interfaces, addresses, routes, offloads, or attaching programs.
    Network,
    /// Opening a raw socket.
    RawSocket,
    /// Writing a setting in `/proc/sys`.
    Setting,
    /// Mounting the BPF file system.
    Mount,
    /// Reading, writing or removing a file, whose place this key of the configuration says; empty: no key does.
    File(&'static str),
    /// Listening at an address, which this key of the configuration says.
    Listen(&'static str),
    /// Starting a thread or a process.
    Start,
}

impl Doing {
    /// The capabilities without which the kernel refuses it.
    const fn needs(self) -> &'static [Capability] {
        match self {
            Self::Bpf => &[Capability::BPF, Capability::NET_ADMIN, Capability::PERFMON],
            Self::Network | Self::Setting => &[Capability::NET_ADMIN],
            Self::RawSocket => &[Capability::NET_RAW],
            Self::Mount => &[Capability::SYS_ADMIN],
            Self::File(_) => &[Capability::DAC_OVERRIDE],
            Self::Listen(_) => &[Capability::NET_BIND_SERVICE],
            Self::Start => &[],
        }
    }

    /// The key of the configuration that says where.
    fn key(self) -> Option<&'static str> {
        match self {
            Self::File("") => None,
            Self::File(key) | Self::Listen(key) => Some(key),
            _ => None,
        }
    }
}

/// What helps this process when `doing` has failed with this number; `None`: nothing that is known for certain.
pub fn remedy(doing: Doing, errno: Option<i32>) -> Option<String> {
    let errno = errno?;
    // Looked at only where it matters.
    let process = if is_refusal(errno) { Process::own() } else { Process::default() };
    of(doing, errno, &process)
}

/// The same, to be added to a sentence: with a semicolon in front, or empty.
pub fn clause(doing: Doing, cause: &io::Error) -> String {
    remedy(doing, cause.raw_os_error()).map_or_else(String::new, |remedy| format!("; {remedy}"))
}

const fn is_refusal(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::EACCES)
}

/// What helps such a process.
fn of(doing: Doing, errno: i32, process: &Process) -> Option<String> {
    if is_refusal(errno) {
        return refused(doing, errno, process);
    }
    Some(match (errno, doing) {
        (libc::EMFILE, _) => {
            "raise this process's limit of open files (`ulimit -n`, or LimitNOFILE= of its unit)".to_owned()
        }
        (libc::ENFILE, _) => "raise the system's limit of open files (sysctl fs.file-max)".to_owned(),
        (libc::ENOMEM, _) => {
            "free memory, or raise the limit of this process (`ulimit -v`) or of its unit (MemoryMax=)".to_owned()
        }
        (libc::EAGAIN, Doing::Start) => {
            "raise the limit of processes and threads (`ulimit -u`, TasksMax= of the unit, pids of the container)".to_owned()
        }
        (libc::ENOSYS, Doing::Bpf) => "this kernel has no bpf system call (CONFIG_BPF_SYSCALL)".to_owned(),
        (libc::ENOENT | libc::ENODEV, Doing::Mount) => {
            "this kernel has no BPF file system (CONFIG_BPF_SYSCALL), or sysfs is not mounted at /sys".to_owned()
        }
        (libc::EROFS, Doing::Setting) => {
            "/proc/sys is read-only here: a unit needs ProtectKernelTunables=no, a container a writable /proc/sys/net"
                .to_owned()
        }
        (libc::ENOSPC | libc::EDQUOT, Doing::File(_)) => "make room on that file system".to_owned(),
        (libc::EROFS, Doing::File(_)) => {
            let or = doing.key().map_or_else(String::new, |key| format!(", or another {key}"));
            format!("that file system is read-only here: make it writable (in a unit also: ReadWritePaths=){or}")
        }
        (libc::EIO, Doing::File(_)) => "the disk fails: see the kernel's log".to_owned(),
        (libc::ENAMETOOLONG, Doing::File(_)) => with_key(doing, "that path is too long"),
        (libc::ENOTDIR, Doing::File(_)) => with_key(doing, "a part of that path is a file where a folder should be"),
        (libc::EISDIR, Doing::File(_)) => with_key(doing, "that is a folder where a file should be"),
        (libc::ELOOP, Doing::File(_)) => with_key(doing, "links there lead in a circle"),
        (libc::ENOENT, Doing::File(_)) => with_key(doing, "a part of that path is missing"),
        (libc::EADDRINUSE, Doing::Listen(key)) => {
            format!("another program listens there (`ss -ltnp` names it): choose another address with {key}")
        }
        (libc::EADDRNOTAVAIL, Doing::Listen(key)) => {
            format!("this host has no such address: choose another address with {key}")
        }
        (libc::EAFNOSUPPORT, Doing::Listen(key)) => {
            format!("this host does not have that version of IP: choose another address with {key}")
        }
        _ => return None,
    })
}

fn with_key(doing: Doing, what: &str) -> String {
    doing.key().map_or_else(|| what.to_owned(), |key| format!("{what}: check {key} in the configuration"))
}

/// Somebody does not let this process.
fn refused(doing: Doing, errno: i32, process: &Process) -> Option<String> {
    let missing: Vec<_> = doing.needs().iter().filter(|needed| !process.has(**needed)).collect();
    let names = join(missing.iter().map(|capability| capability.name()));
    if missing.is_empty() {
        return beyond_capabilities(doing, errno, process);
    }
    Some(match doing {
        Doing::File(_) if process.is_root => {
            "the file or its folder is another user's, and this process may not pass over that (root without \
             CAP_DAC_OVERRIDE): give it to root with chown, or change its mode"
                .to_owned()
        }
        Doing::File(_) => "run as root (sudo), or as the owner".to_owned(),
        Doing::Listen(key) => {
            format!("ports below 1024 need {names}: choose another one with {key}, or add that capability")
        }
        Doing::Start => return None,
        Doing::Mount => {
            format!(
                "have the host's root do it once (`mount -t bpf bpf /sys/fs/bpf`), or run mtd with {names}"
            )
        }
        _ if process.is_root => format!(
            "root has no {names} here: add it to the container's capabilities, or to CapabilityBoundingSet= of the unit"
        ),
        _ => format!("run as root (sudo), or with {names}"),
    })
}

/// It has the capabilities, so something else refuses.
fn beyond_capabilities(doing: Doing, errno: i32, process: &Process) -> Option<String> {
    let of_the_host = !matches!(doing, Doing::File(_) | Doing::Listen(_) | Doing::Start);
    Some(if of_the_host && process.has_own_users {
        "root of an unprivileged container or user namespace may not do that here: run it on the host, or in a privileged \
         container"
            .to_owned()
    } else if doing == Doing::Bpf && process.bpf_is_filtered {
        "a seccomp filter refuses the bpf system call: allow it (SystemCallFilter= of the unit, or the container's profile)"
            .to_owned()
    } else if matches!(doing, Doing::File(_)) && errno == libc::EPERM {
        "the file may be immutable (`lsattr`): chattr -i".to_owned()
    } else if doing == Doing::Start {
        return None;
    } else {
        // With the capabilities, on the host's own users, and with no filter, nothing else is left.
        "a security module (SELinux, AppArmor or lockdown) refuses it: see the kernel's log".to_owned()
    })
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
