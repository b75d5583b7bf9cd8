//! The interrupt handler takes over the whole process, so it is tested in a child process: this test program, running one
//! test.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::exists;
use crate::netns::Netns;
use crate::process::Running;
use crate::{cleanup, require_root};

const SECONDS: Duration = Duration::from_secs(10);

#[test]
#[ignore = "what the other tests of this module start"]
fn child() {
    cleanup::handle_interrupts().unwrap();
    assert!(cleanup::handle_interrupts().is_err());
    let netns = Netns::new("interrupted").unwrap();
    let mut inside = netns.command("sleep").unwrap().arg("60").spawn().unwrap();
    println!("made {} ", netns.name());
    while !cleanup::interrupted() {
        sleep(Duration::from_millis(5));
    }
    println!("noticed ");
    sleep(Duration::from_secs(2));
    drop(netns);
    inside.wait().unwrap();
}

fn start() -> (Running, String) {
    require_root();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "selftest::interrupts::child", "--ignored", "--nocapture"]);
    let mut child = Running::spawn("interrupted child", command).unwrap();
    let line = child.wait_for_line("made ", SECONDS).unwrap();
    let name = line.split("made ").nth(1).unwrap().trim().to_owned();
    assert!(exists(&name));
    (child, name)
}

#[test]
fn one_signal_lets_the_program_finish() {
    let (mut child, name) = start();
    child.signal(Signal::SIGINT).unwrap();
    child.wait_for_line("noticed", SECONDS).unwrap();
    assert!(exists(&name), "only asked to end");
    assert!(child.wait(SECONDS).unwrap().success());
    assert!(!exists(&name));
}

#[test]
fn a_second_signal_cleans_up_at_once() {
    let (mut child, name) = start();
    child.signal(Signal::SIGTERM).unwrap();
    child.wait_for_line("noticed", SECONDS).unwrap();
    child.signal(Signal::SIGINT).unwrap();
    assert_eq!(child.wait(SECONDS).unwrap().code(), Some(130));
    assert!(!exists(&name));
}
