//! `mtd debug`: reports for developers, and the generated files of a package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Subcommand, ValueEnum};
use clap_complete::Shell;
use mtd_common::keystream::LANES;

use super::output;
use crate::config::{FORMAT, MAX_SESSIONS};
use crate::dataplane::{Capacity, report};
use crate::schema;

/// Arguments of `mtd debug`.
#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the programs once and print what that cost: time, verifier work, memory.
    LoadReport {
        /// Number of sessions that the maps have room for.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SESSIONS)))]
        sessions: u32,
        /// Number of slots loaded at a time for each session.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=4096))]
        slots: u32,
        /// Load this BPF object instead of the built-in one.
        #[arg(long, value_name = "FILE")]
        object: Option<PathBuf>,
    },
    /// Print the reference of every key of the configuration file.
    #[command(hide = true)]
    Configuration {
        /// Format: Markdown (docs/configuration.md), or the manual page mtd.toml(5).
        #[arg(long, value_enum, default_value_t = Format::Markdown)]
        format: Format,
    },
    /// Write the manual pages: mtd.1, one for each subcommand, and mtd.toml.5.
    #[command(hide = true)]
    Man {
        /// Folder, which is created if it is missing.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Write the completions for bash (mtd.bash), zsh (_mtd) and fish (mtd.fish).
    #[command(hide = true)]
    Completions {
        /// Folder, which is created if it is missing.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Markdown,
    Man,
}

/// Runs `mtd debug`.
///
/// # Errors
/// When the kernel refuses the programs, or a file or standard output cannot be written.
pub(super) fn run(args: &DebugArgs) -> anyhow::Result<()> {
    match &args.command {
        Command::LoadReport { sessions, slots, object } => {
            load_report(Capacity { sessions: *sessions, slots: *slots, lanes: LANES }, object.as_deref())
        }
        Command::Configuration { format: Format::Markdown } => output::print(&schema::markdown(&FORMAT)),
        Command::Configuration { format: Format::Man } => output::print(&schema::manual_page(&FORMAT)),
        Command::Man { folder } => man(folder),
        Command::Completions { folder } => completions(folder),
    }
}

fn load_report(capacity: Capacity, object: Option<&Path>) -> anyhow::Result<()> {
    let object = match object {
        Some(path) => Some(fs::read(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    output::print(&(report::load_report(object.as_deref(), capacity)? + "\n"))
}

fn man(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(super::Cli::command(), folder))
        .and_then(|()| fs::write(folder.join("mtd.toml.5"), schema::manual_page(&FORMAT)))
        .with_context(|| format!("cannot write manual pages to {}", folder.display()))
}

fn completions(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write completions to {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut super::Cli::command(), "mtd", folder).with_context(cannot)?;
    }
    Ok(())
}
