//! Messages for people: plain lines on stderr.

use std::time::{Duration, Instant};

/// Prints one line (or block) with xtask's prefix.
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// Announces a stage, runs it, and says how long it took.
pub(crate) fn stage<T>(name: &str, work: impl FnOnce() -> T) -> T {
    say(&format!("== {name}"));
    let start = Instant::now();
    let value = work();
    say(&format!("== {name}: {}", seconds(start.elapsed())));
    value
}

/// A duration for people: `0.4 s`, `75.0 s`.
pub(crate) fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}
