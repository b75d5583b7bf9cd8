use super::*;

const ALL: Process =
    Process { capabilities: u64::MAX, is_root: true, has_own_users: false, bpf_is_filtered: false };
const NOBODY: Process = Process { capabilities: 0, is_root: false, ..ALL };

/// Root as the packaged unit has it, and less.
fn root_without(capabilities: &[Capability]) -> Process {
    let without = capabilities.iter().fold(u64::MAX, |all, capability| all & !capability.bit());
    Process { capabilities: without & !Capability::SYS_ADMIN.bit(), ..ALL }
}

const STATE: Doing = Doing::File("state_dir");
const METRICS: Doing = Doing::Listen("listen in [metrics]");

/// Operation, error, who; parts of the way out. Empty: there is none that is certain.
fn causes() -> Vec<(Doing, i32, Process, Vec<&'static str>)> {
    let container = Process { has_own_users: true, ..ALL };
    let filtered = Process { bpf_is_filtered: true, ..ALL };
    vec![
        (Doing::Bpf, libc::EPERM, NOBODY, vec!["sudo", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"]),
        (
            Doing::Bpf,
            libc::EPERM,
            root_without(&[Capability::BPF]),
            vec!["root has no CAP_BPF here", "container"],
        ),
        (Doing::Bpf, libc::EPERM, container, vec!["unprivileged container"]),
        (Doing::Bpf, libc::EPERM, filtered, vec!["seccomp", "SystemCallFilter="]),
        (Doing::Bpf, libc::EPERM, ALL, vec!["security module"]),
        (Doing::Bpf, libc::EMFILE, ALL, vec!["open files", "LimitNOFILE="]),
        (Doing::Bpf, libc::ENOMEM, ALL, vec!["memory", "MemoryMax="]),
        (Doing::Bpf, libc::ENOSYS, ALL, vec!["CONFIG_BPF_SYSCALL"]),
        (Doing::Bpf, libc::EINVAL, ALL, vec![]),
        (Doing::Network, libc::EPERM, NOBODY, vec!["sudo", "CAP_NET_ADMIN"]),
        (Doing::Network, libc::EPERM, container, vec!["unprivileged container"]),
        (Doing::Network, libc::ENFILE, ALL, vec!["fs.file-max"]),
        (Doing::Network, libc::ENODEV, ALL, vec![]),
        (
            Doing::RawSocket,
            libc::EPERM,
            root_without(&[Capability::NET_RAW]),
            vec!["root has no CAP_NET_RAW"],
        ),
        (Doing::Setting, libc::EROFS, ALL, vec!["ProtectKernelTunables=no"]),
        (Doing::Setting, libc::EACCES, NOBODY, vec!["CAP_NET_ADMIN"]),
        (Doing::Mount, libc::EPERM, root_without(&[]), vec!["CAP_SYS_ADMIN"]),
        (Doing::Mount, libc::EPERM, container, vec!["unprivileged container"]),
        (Doing::Mount, libc::ENODEV, ALL, vec!["CONFIG_BPF_SYSCALL"]),
        (STATE, libc::EACCES, NOBODY, vec!["sudo", "owner"]),
        (STATE, libc::EACCES, root_without(&[Capability::DAC_OVERRIDE]), vec!["another user's", "chown"]),
        (STATE, libc::EPERM, ALL, vec!["immutable"]),
        (STATE, libc::ENOSPC, ALL, vec!["make room"]),
        (STATE, libc::EDQUOT, ALL, vec!["make room"]),
        (STATE, libc::EROFS, ALL, vec!["read-only", "ReadWritePaths=", "another state_dir"]),
        (STATE, libc::EIO, ALL, vec!["disk"]),
        (STATE, libc::ENOTDIR, ALL, vec!["check state_dir"]),
        (STATE, libc::ENAMETOOLONG, ALL, vec!["too long", "state_dir"]),
        (STATE, libc::EMFILE, ALL, vec!["open files"]),
        (Doing::File(""), libc::ENOENT, ALL, vec!["missing"]),
        (METRICS, libc::EADDRINUSE, ALL, vec!["another program", "listen in [metrics]"]),
        (METRICS, libc::EADDRNOTAVAIL, ALL, vec!["no such address", "listen in [metrics]"]),
        (METRICS, libc::EACCES, root_without(&[Capability::NET_BIND_SERVICE]), vec!["CAP_NET_BIND_SERVICE"]),
        (METRICS, libc::EMFILE, ALL, vec!["open files"]),
        (Doing::Start, libc::EAGAIN, ALL, vec!["TasksMax="]),
    ]
}

#[test]
fn the_way_out_comes_from_the_cause() {
    for (doing, errno, process, parts) in causes() {
        let way = of(doing, errno, &process);
        let case = format!("{doing:?} {} {process:?}: {way:?}", io::Error::from_raw_os_error(errno));
        assert_eq!(way.is_none(), parts.is_empty(), "{case}");
        let way = way.unwrap_or_default();
        assert!(parts.iter().all(|part| way.contains(part)), "{case}");
    }
}

/// Who has what it takes is never told to become root, and nobody is told to upgrade the kernel.
#[test]
fn what_is_not_missing_is_not_asked_for() {
    for (doing, errno, ..) in causes() {
        let way = of(doing, errno, &ALL).unwrap_or_default();
        assert!(
            !way.contains("sudo") && !way.contains("CAP_") && !way.contains("6.1"),
            "{doing:?} {errno}: {way}"
        );
    }
}
