//! `cargo xtask torture`: the long form of the torture tests, whose short form is part of `cargo xtask test`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

const EXAMPLES: &str = "\
Examples:
  cargo xtask torture                    ten minutes for each torture test, and 1,000 restarts
  cargo xtask torture 3600               an hour for each
  cargo xtask torture 1 --restarts 5000  mainly restarts
  cargo xtask torture 60 --seed 17       repeat the random choices of an earlier run";

/// Arguments of `cargo xtask torture`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How long each torture test runs that is limited by time.
    #[arg(value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How often controllers are restarted in each torture test that counts restarts.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    restarts: u64,
    /// Repeat the random choices of the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the subcommand.
///
/// # Errors
/// A torture test failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut command = Command::new(program);
    command.args(["test", "--", "torture", "--nocapture"]);
    command.env(SECONDS_VARIABLE, args.seconds.to_string());
    command.env(RESTARTS_VARIABLE, args.restarts.to_string());
    if let Some(seed) = args.seed {
        command.env(SEED_VARIABLE, seed.to_string());
    }
    process::run_quietly(&mut command)
}

/// Variable that tells the torture tests how long to run.
pub(crate) const SECONDS_VARIABLE: &str = "MTD_TORTURE_SECONDS";
/// Variable that tells the torture tests how many restarts of controllers to make.
pub(crate) const RESTARTS_VARIABLE: &str = "MTD_TORTURE_RESTARTS";
/// Variable that tells the torture tests their seed.
pub(crate) const SEED_VARIABLE: &str = "MTD_TORTURE_SEED";
