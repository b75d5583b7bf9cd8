//! The command line of the demonstration.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use mtd_tests::topology::Delivery;

use crate::network::MOST_CLIENTS;

/// The slot lengths that controllers accept (requirement MT-04).
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// Number of slots if neither `--slots` nor `--seconds` is given.
const DEFAULT_SLOTS: u32 = 24;

/// Longest demonstration.
const LONGEST: Duration = Duration::from_hours(24);

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                         24 slots of one second
  cargo xtask run --period 3s --slots 20  slots of the length that mtd has by default
  cargo xtask run --clients 8             more clients at the server
  cargo xtask run --mode authenticate     payloads are authenticated, not encrypted: the capture finds the marker
  cargo xtask run --json                  the last line of stdout is one JSON object

Everything happens in network namespaces that the demonstration makes and removes; no packet leaves this host.
Exit code: 0 if everything worked as claimed, 1 if something did not (the summary says what), 130 after Ctrl-C.";

/// A server and its clients, who know only each other's public keys, find each other through a private DHT and keep TCP and
/// UDP alive through tunnels whose addresses change every slot, while a stranger on the server's link looks for them.
#[derive(Debug, Parser)]
#[command(name = "mtd-demo", bin_name = "cargo xtask run", after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(flatten)]
    length: Length,
    /// Length of a slot, 1s to 1h.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_period)]
    pub(crate) period: Duration,
    /// Registered clients, 1 to 8.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_CLIENTS)))]
    pub(crate) clients: u8,
    /// How the tunnels protect payloads.
    #[arg(long, value_enum, default_value_t = Mode::Encrypt)]
    pub(crate) mode: Mode,
    /// How packets for a protected prefix reach its host.
    #[arg(long, value_enum, default_value_t = Link::Routed)]
    pub(crate) delivery: Link,
    /// Print the result as one JSON object in the last line of stdout; everything else goes to stderr.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the stranger out.
    #[arg(long)]
    pub(crate) no_scan: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Length {
    /// Number of slots that the traffic must survive [default: 24].
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroU32>,
    /// The same in seconds, rounded up to whole slots.
    #[arg(long, value_name = "N")]
    seconds: Option<NonZeroU32>,
}

/// See [`Options::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Encrypted and authenticated.
    Encrypt,
    /// Only authenticated: fast, but readable on the way.
    Authenticate,
}

impl Mode {
    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Authenticate => "authenticate",
        }
    }
}

/// See [`Options::delivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// The router has a route for the prefix through the host's ordinary address.
    Routed,
    /// The prefix is on the link: neighbours solicit every address.
    OnLink,
}

impl From<Link> for Delivery {
    fn from(link: Link) -> Self {
        match link {
            Link::Routed => Self::Routed,
            Link::OnLink => Self::OnLink,
        }
    }
}

impl Options {
    /// Number of whole slots that the traffic must survive.
    pub(crate) fn slots(&self) -> u32 {
        let seconds = |seconds: NonZeroU32| {
            let slots =
                Duration::from_secs(u64::from(seconds.get())).as_nanos().div_ceil(self.period.as_nanos());
            u32::try_from(slots).unwrap_or(u32::MAX)
        };
        match (self.length.slots, self.length.seconds) {
            (Some(slots), _) => slots.get(),
            (None, Some(length)) => seconds(length),
            (None, None) => DEFAULT_SLOTS,
        }
    }

    /// How long the traffic runs.
    ///
    /// # Errors
    /// When that is longer than a day.
    pub(crate) fn duration(&self) -> anyhow::Result<Duration> {
        self.period.checked_mul(self.slots()).filter(|&duration| duration <= LONGEST).ok_or_else(|| {
            anyhow::anyhow!(
                "{} slots of {} are longer than a day: give fewer --slots or a shorter --period",
                self.slots(),
                humantime::format_duration(self.period)
            )
        })
    }
}

fn parse_period(text: &str) -> Result<Duration, String> {
    let period =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 1s or 500ms"))?;
    if PERIODS.contains(&period) { Ok(period) } else { Err("a slot lasts from 1s to 1h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["demo"].iter().chain(words))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_length_is_in_whole_slots() {
        let slots = |words: &[&str]| parse(words).unwrap().slots();
        assert_eq!(slots(&[]), DEFAULT_SLOTS);
        assert_eq!(slots(&["--slots", "7"]), 7);
        assert_eq!(slots(&["--seconds", "30"]), 30);
        assert_eq!(slots(&["--seconds", "10", "--period", "3s"]), 4);
        assert_eq!(slots(&["--seconds", "1", "--period", "1h"]), 1);
        let most = parse(&["--slots", "4294967295", "--period", "1h"]).unwrap();
        assert!(most.duration().unwrap_err().to_string().contains("--slots"));
    }

    #[test]
    fn impossible_options_are_refused() {
        for words in [
            ["--slots", "0"],
            ["--seconds", "-1"],
            ["--period", "999ms"],
            ["--period", "2h"],
            ["--period", "soon"],
            ["--clients", "0"],
            ["--clients", "9"],
            ["--mode", "none"],
            ["--delivery", "bridged"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
        assert!(parse(&["--slots", "3", "--seconds", "3"]).is_err());
    }
}
