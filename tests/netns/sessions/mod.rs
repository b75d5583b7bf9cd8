//! Sessions between real controllers, under real traffic: what they survive, and what they refuse.

mod clear;
mod clocks;
mod copies;
mod crashes;
pub(crate) mod filter;
mod keystream;
mod marks;
mod metrics;
mod path_mtu;
mod readers;
mod restarts;
mod secrets;
mod steady;
mod steering;
mod tasks;
mod torture;
mod two;
mod upgrade;
mod web;
pub(crate) mod world;
mod wrong;

use std::time::Duration;

use anyhow::{Result, anyhow};

/// Length of the slots in most of these tests.
const SLOT: Duration = Duration::from_secs(1);

/// How long echo requests are repeated while a session should open.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drop reasons that never occur in a session between two correct ends.
pub(super) const SESSION_REASONS: [&str; 11] = [
    "unknown_address",
    "stale_slot",
    "wrong_port",
    "wrong_peer",
    "session_ended",
    "invalid_sequence",
    "replayed",
    "bad_tag",
    "bad_checksum",
    "receive_failed",
    "send_no_slot",
];

/// Runs all cases at the same time, each in a thread and with a network of its own. Reports the errors of all.
pub(crate) fn at_once<T: Sync>(cases: &[T], run: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(move || run(case))).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    if failures.is_empty() { Ok(()) } else { Err(anyhow!(failures.join("\n\n"))) }
}
