//! `mtd debug`: reports for developers.

use clap::{Args, Subcommand};

use crate::dataplane::{Capacity, report};

/// Arguments of `mtd debug`.
#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    #[command(subcommand)]
    report: Report,
}

#[derive(Debug, Subcommand)]
enum Report {
    /// Load the programs once and print what that cost: time, verifier work, memory.
    LoadReport {
        /// Sessions that the maps have room for.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        sessions: u32,
        /// Slots loaded ahead for each session.
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
        ring: u32,
    },
}

pub(super) fn run(args: &DebugArgs) -> anyhow::Result<()> {
    match args.report {
        Report::LoadReport { sessions, ring } => {
            println!("{}", report::load_report(Capacity { sessions, ring })?);
        }
    }
    Ok(())
}
