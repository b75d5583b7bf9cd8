//! Duration and random numbers of a torture test: short in `cargo xtask test`, as long as wanted in `cargo xtask torture`.

use std::time::{Duration, Instant};

/// How long the short form of a torture test runs.
const SHORT: Duration = Duration::from_secs(10);

/// Restarts of controllers in the short form of a torture test that counts them.
const FEW_RESTARTS: u64 = 20;

/// The longest wait for an answer that is allowed while a controller is killed and restarted, since packets continue to
/// flow. Long enough for a busy machine.
pub const UNDISTURBED: Duration = Duration::from_secs(5);

/// How long `cargo xtask torture` wants a test to run; `None`: it does not, and tests choose a short time.
pub fn wanted_length() -> Option<Duration> {
    number("MTD_TORTURE_SECONDS").map(Duration::from_secs)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// When a torture test ends, and its random numbers (`SplitMix64`: for choices, not for secrets).
#[derive(Debug)]
pub struct Campaign {
    deadline: Instant,
    restarts: u64,
    state: u64,
}

impl Campaign {
    /// As `MTD_TORTURE_SECONDS`, `MTD_TORTURE_RESTARTS` and `MTD_TORTURE_SEED` say. Without them it is short and has a
    /// random seed, which is printed so that the same choices can be repeated.
    pub fn from_environment() -> Self {
        let length = wanted_length().unwrap_or(SHORT);
        let seed = number("MTD_TORTURE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        let restarts = number("MTD_TORTURE_RESTARTS").unwrap_or(FEW_RESTARTS);
        println!(
            "torture for {} s, or {restarts} restarts; the same choices again: MTD_TORTURE_SEED={seed}",
            length.as_secs()
        );
        Self { deadline: Instant::now() + length, restarts, state: seed }
    }

    /// The number of restarts, for tests that are limited by restarts of controllers instead of time.
    pub const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether there is time left.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.deadline
    }

    /// A random number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Restarts of one kind.
#[derive(Debug, Default)]
pub struct Restarts {
    count: u64,
    longest_wait: Duration,
}

impl Restarts {
    /// How many.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Counts `count` more restarts, and the longest wait for an answer that they caused.
    pub fn note(&mut self, count: usize, waited: Duration) {
        self.count += count as u64;
        self.longest_wait = self.longest_wait.max(waited);
    }
}

impl std::fmt::Display for Restarts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} restarts (longest wait for an answer {:.1?})", self.count, self.longest_wait)
    }
}
