use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::Running;

const SECONDS: Duration = Duration::from_secs(5);

fn shell(script: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Running::spawn("shell", command).unwrap()
}

#[test]
fn lines_are_waited_for_in_both_outputs() {
    let mut running = shell("sleep 0.1; echo one fish; echo two fish >&2; exec sleep 60");
    assert_eq!(running.wait_for_line("one", SECONDS).unwrap(), "one fish");
    assert_eq!(running.wait_for_line("two", SECONDS).unwrap(), "two fish");
    assert_eq!(running.stdout().unwrap(), "one fish\n");
    assert_eq!(running.log(), "one fish\ntwo fish\n");
    let error = running.wait_for_line("three", Duration::from_millis(50)).unwrap_err();
    assert!(format!("{error:#}").contains("two fish"), "{error:#}");
}

#[test]
fn a_process_that_ends_early_is_reported_at_once() {
    let start = Instant::now();
    let mut running = shell("echo why it failed >&2; exit 3");
    let error = format!("{:#}", running.wait_for_line("ready", SECONDS).unwrap_err());
    assert!(error.contains("why it failed") && error.contains("exit status: 3"), "{error}");
    assert!(start.elapsed() < SECONDS);
    assert!(running.signal(Signal::SIGTERM).is_err() && running.kill().is_err());
    assert_eq!(running.terminate(Signal::SIGTERM, SECONDS).unwrap().code(), Some(3));
}

#[test]
fn the_last_line_before_the_end_is_found() {
    for _ in 0..20 {
        shell("echo done").wait_for_line("done", SECONDS).unwrap();
    }
}

#[test]
fn signals_end_it_as_asked() {
    // Not SIGINT: a shell cannot trap a signal that was ignored when it started, as SIGINT is for background jobs.
    let mut polite = shell("trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done");
    polite.wait_for_line("up", SECONDS).unwrap();
    assert_eq!(polite.terminate(Signal::SIGUSR1, SECONDS).unwrap().code(), Some(7));

    let mut killed = shell("exec sleep 60");
    assert_eq!(killed.kill().unwrap().signal(), Some(9));
    assert_eq!(killed.wait(SECONDS).unwrap().signal(), Some(9));

    let mut stubborn = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
    stubborn.wait_for_line("up", SECONDS).unwrap();
    let error = stubborn.terminate(Signal::SIGTERM, Duration::from_millis(200)).unwrap_err();
    assert!(format!("{error:#}").contains("ignored SIGTERM"), "{error:#}");
    assert!(stubborn.try_wait().unwrap().is_some(), "it is not left running");
}

#[test]
fn dropping_ends_and_reaps() {
    let running = shell("exec sleep 60");
    let pid = Pid::from_raw(running.pid().try_into().unwrap());
    kill(pid, None).unwrap();
    drop(running);
    assert_eq!(kill(pid, None), Err(Errno::ESRCH));
}
