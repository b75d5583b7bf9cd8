//! `mtd debug`: reports for developers.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use mtd_common::keystream::LANES;

use super::output;
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
        /// Slots loaded at a time for each session.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=4096))]
        slots: u32,
        /// Another object than the one that is built in.
        #[arg(long, value_name = "FILE")]
        object: Option<PathBuf>,
    },
}

pub(super) fn run(args: &DebugArgs) -> anyhow::Result<()> {
    let Report::LoadReport { sessions, slots, object } = &args.report;
    let object = match object {
        Some(path) => Some(std::fs::read(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    let capacity = Capacity { sessions: *sessions, slots: *slots, lanes: LANES };
    output::print(&(report::load_report(object.as_deref(), capacity)? + "\n"))
}
