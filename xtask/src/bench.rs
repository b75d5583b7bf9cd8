//! `cargo xtask bench`: builds and starts the benchmarks, the binary `mtd-bench` of the package mtd-tests.

use std::process::Command;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::console::stage;
use crate::privilege::{Privilege, diagnostic_variables, test_environment};
use crate::process;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                  everything
  cargo xtask bench drop                             only how fast strangers are dropped
  cargo xtask bench tunnel --rounds 10               more repetitions, less spread
  cargo xtask bench --json results.json              medians, spreads and ratios as one JSON object
  cargo xtask bench --report docs/benchmarks.md      the same as a page, with explanations and the aims
  cargo xtask bench -- --help                        all benchmarks and options

It runs as root, through `sudo -n` when you are not. What is not up to date is built first.";

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of benchmarks and options (`--rounds N`, `--json FILE`, `--report FILE`), passed on as they are.
    #[arg(value_name = "BENCH OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Carries the subcommand out: replaces xtask by the benchmarks.
///
/// # Errors
/// Root is not available, set-up or a build fails, or the benchmarks cannot be started.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let privilege = Privilege::detect();
    anyhow::ensure!(
        privilege.is_available(),
        "the benchmarks make network namespaces and load BPF programs, so they need root: {}",
        privilege.remedy()
    );
    setup::ensure(&workspace, Need::Benchmarks)?;
    let artifacts = build::ensure(&workspace, Profile::Release)?;
    stage("benchmark program", || {
        let mut command = build::host_cargo(&workspace, &artifacts);
        process::run_quietly(command.args(["build", "--release", "-p", "mtd-tests", "--bin", "mtd-bench"]))
    })?;
    let program = workspace.target().join("release").join("mtd-bench");
    let passed_on = diagnostic_variables();
    let environment = test_environment(&artifacts.mtd, &artifacts.ebpf_object, &passed_on);
    let mut command = privilege.command("the benchmarks", &program, &environment)?;
    if let Some(commit) = commit(&workspace) {
        command.args(["--commit", &commit]);
    }
    process::replace_by(command.args(&args.options))
}

/// The commit of the work tree; `None` if it is not a git clone, or git is not installed.
fn commit(workspace: &Workspace) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(workspace.root()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    process::capture(&mut git).ok().map(|commit| commit.trim().to_owned())
}
