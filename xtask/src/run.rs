//! `cargo xtask run`: the demonstration, or mtd itself on this host.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::demo;
use crate::privilege::{Privilege, diagnostic_variables};
use crate::process;
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Options of the demonstration:
  --slots N | --seconds N            how long the traffic must survive (24 slots)
  --period TIME                      length of a slot, 1s to 1h (1s)
  --clients N                        registered clients, 1 to 8 (3)
  --mode encrypt|authenticate        how the tunnels protect payloads (encrypt)
  --delivery routed|on-link          how packets reach the protected prefixes (routed)
  --no-scan                          without the stranger who probes the server
  --json                             the last line of stdout is one JSON object

Examples:
  cargo xtask run                       the demonstration, in network namespaces
  cargo xtask run --json --seconds 30   the same for programs, for half a minute
  cargo xtask run -- status --json      on this host: mtd status --json
  cargo xtask run -- run -c mtd.toml    on this host: mtd run -c mtd.toml

Both run as root, through `sudo -n` when you are not. What is not up to date is built first.";

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Options of the demonstration, passed on as they are; see below.
    #[arg(value_name = "DEMO OPTIONS", allow_hyphen_values = true)]
    demo: Vec<String>,
    /// Arguments for mtd on this host.
    #[arg(value_name = "MTD ARGUMENTS", last = true)]
    mtd: Vec<String>,
}

impl Args {
    /// Options of the demonstration, and arguments for mtd. Once clap has seen an option, it leaves `--` and everything
    /// after it in `demo`.
    fn split(&self) -> (&[String], &[String]) {
        match self.demo.iter().position(|word| word == "--") {
            Some(dashes) => (&self.demo[..dashes], &self.demo[dashes + 1..]),
            None => (&self.demo, &self.mtd),
        }
    }
}

/// Runs the subcommand. The program takes xtask's place, so its exit code is the result.
///
/// # Errors
/// Set-up or a build fails, root is not available, or the program cannot be started.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let (demo, mtd) = args.split();
    if mtd.is_empty() {
        return demo::run(&workspace, demo);
    }
    anyhow::ensure!(
        demo.is_empty(),
        "options before `--` are for the demonstration, arguments after it for mtd on this host: give only one kind"
    );
    let artifacts = build::ensure(&workspace, Profile::Release)?;
    let passed_on = diagnostic_variables();
    let environment: Vec<_> = passed_on.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
    let mut command = Privilege::detect().command("mtd on this host", &artifacts.mtd, &environment)?;
    process::replace_by(command.args(mtd))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Args;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> (Vec<String>, Vec<String>) {
        let line = Line::try_parse_from(["run"].iter().chain(words)).unwrap();
        let (demo, mtd) = line.args.split();
        (demo.to_vec(), mtd.to_vec())
    }

    #[test]
    fn options_go_to_the_demonstration_as_they_are() {
        let (demo, mtd) = parse(&["--json", "--seconds", "30", "-v"]);
        assert_eq!(demo, ["--json", "--seconds", "30", "-v"]);
        assert!(mtd.is_empty());
    }

    #[test]
    fn what_follows_two_dashes_goes_to_mtd() {
        let (demo, mtd) = parse(&["--", "status", "--json"]);
        assert!(demo.is_empty());
        assert_eq!(mtd, ["status", "--json"]);
        assert_eq!(parse(&["--json", "--", "x"]), (vec!["--json".to_owned()], vec!["x".to_owned()]));
    }

    #[test]
    fn nothing_at_all_is_the_demonstration() {
        assert_eq!(parse(&[]), (vec![], vec![]));
        assert_eq!(parse(&["--"]), (vec![], vec![]));
    }
}
