//! Low limits and missing rights: the error names what is missing here, and nothing that is not.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;

use super::bench::{Bench, PATIENCE};

/// What no error of this file may say: everybody here is root, on a new kernel.
const GUESSES: [&str; 3] = ["sudo", "Linux 6.1", "newer"];

/// Runs `PROGRAM ARGUMENTS… mtd run -c CONFIG` on the host, which must fail with a last line that contains all of `parts`,
/// and leave nothing.
fn fails_under(bench: &Bench, wrapper: &[&str], parts: &[&str]) -> Result<()> {
    let mut command = bench.netns().command(wrapper[0])?;
    command.args(&wrapper[1..]).arg(mtd_program()?).arg("run").arg("-c").arg(bench.setup.write()?);
    fails(bench, command, parts).with_context(|| format!("{wrapper:?}"))
}

fn fails(bench: &Bench, command: Command, parts: &[&str]) -> Result<()> {
    let before = bench.inventory()?;
    let mut process = Running::spawn("mtd with too little", command)?;
    let status = process.wait(PATIENCE).with_context(|| process.log())?;
    let log = process.log();
    let last = log.lines().rev().find(|line| line.starts_with("mtd: ")).context("no error")?;
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(parts.iter().all(|part| last.contains(part)), "{parts:?}: {last}");
    ensure!(GUESSES.iter().all(|guess| !last.contains(guess)), "a guess: {last}");
    before.assert_same(&bench.inventory()?);
    Ok(())
}

#[test]
fn a_missing_capability_is_named_by_its_own_name() -> Result<()> {
    let bench = Bench::new()?;
    let without = |set: &str, parts: &[&str]| {
        fails_under(&bench, &["setpriv", &format!("--bounding-set={set}")], parts).context(set.to_owned())
    };
    without("-bpf,-sys_admin", &["not permitted to load BPF programs", "root has no CAP_BPF here"])?;
    without("-net_admin", &["CAP_NET_ADMIN"])?;
    without("-net_raw", &["root has no CAP_NET_RAW here"])
}

#[test]
fn root_of_a_user_namespace_is_told_that_it_is_that() -> Result<()> {
    let bench = Bench::new()?;
    fails_under(&bench, &["unshare", "--user", "--map-root-user"], &["user namespace"])
}

#[test]
fn a_filter_of_system_calls_is_told_from_a_missing_right() -> Result<()> {
    let bench = Bench::new()?;
    let mut command = bench.netns().command(mtd_program()?)?;
    command.arg("run").arg("-c").arg(bench.setup.write()?);
    // SAFETY: between fork and exec it makes two system calls with numbers and data on its own stack.
    unsafe { command.pre_exec(refuse_bpf) };
    fails(&bench, command, &["not permitted to load BPF programs", "seccomp", "SystemCallFilter="])
}

/// Refuses bpf(2) to this process and its children, as a container's profile does.
fn refuse_bpf() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        // The number of the system call stands first.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_bpf as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes a number, and a structure that lives on this stack.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_bpf_file_system_that_is_missing_or_read_only_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let script = |first: &str, then: &str| {
        format!("set -e; mount --make-rprivate /; {first}; exec {then} \"$0\" \"$@\"")
    };
    let read_only = script("mount -o remount,bind,ro /sys/fs/bpf", "env");
    fails_under(&bench, &["unshare", "--mount", "sh", "-c", &read_only], &["/sys/fs/bpf/mtd", "read-only"])?;
    // With the right to do so it would mount its own.
    let missing = script("mount -t tmpfs none /sys/fs/bpf", "setpriv --bounding-set=-sys_admin");
    fails_under(
        &bench,
        &["unshare", "--mount", "sh", "-c", &missing],
        &["mount the BPF file system", "mount -t bpf bpf /sys/fs/bpf", "CAP_SYS_ADMIN"],
    )
}

#[test]
fn a_file_of_somebody_else_is_no_matter_of_being_root() -> Result<()> {
    let bench = Bench::new()?;
    let config = bench.setup.write()?;
    let key = bench.setup.folder().join("peer0.key");
    std::os::unix::fs::chown(&key, Some(65534), Some(65534))?;
    let mut command = bench.netns().command("setpriv")?;
    let without = "--bounding-set=-dac_override,-dac_read_search";
    command.arg(without).arg(mtd_program()?).arg("check").arg("-c").arg(config);
    let output = command.output()?;
    let text = String::from_utf8(output.stderr)? + &String::from_utf8(output.stdout)?;
    ensure!(!output.status.success() && text.contains("another user's") && text.contains("chown"), "{text}");
    ensure!(!text.contains("sudo") && !text.contains("as the owner"), "{text}");
    Ok(())
}

#[test]
fn an_address_for_metrics_that_cannot_be_had_says_why() -> Result<()> {
    let mut bench = Bench::new()?;
    let taken = bench.netns().enter(|| std::net::TcpListener::bind("[::1]:24633"))??;
    let cases = [
        ("[::1]:24633", "-sys_boot", &["another program listens there", "ss -ltnp", "[metrics]"][..]),
        ("[2001:db8:dead::1]:24633", "-sys_boot", &["no such address", "[metrics]"]),
        ("[::1]:633", "-net_bind_service", &["CAP_NET_BIND_SERVICE", "1024"]),
    ];
    for (address, without, parts) in cases {
        // Above the first table there is only this.
        bench.setup.extra = format!("metrics = {{ listen = \"{address}\" }}\n");
        let without = format!("--bounding-set={without}");
        fails_under(&bench, &["setpriv", &without], parts).context(address)?;
    }
    drop(taken);
    Ok(())
}

#[test]
fn a_folder_that_belongs_to_nobody_here_is_named_with_its_key() -> Result<()> {
    let bench = Bench::new()?;
    let state = bench.setup.folder().join("state");
    fs::write(&state, "a file where the folder should be")?;
    fails_under(&bench, &["env"], &["state", "a file where a folder should be", "check state_dir"])
}
