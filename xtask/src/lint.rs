//! `cargo xtask lint`: format, clippy of all crates (the BPF programs with and without log lines), and checks of the
//! dependencies.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{self, Artifacts, Profile};
use crate::console::say;
use crate::process;
use crate::setup::{self, Need, dependency_check};
use crate::timing::Stages;
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Examples:
  cargo xtask lint    the first part of `cargo xtask test`, by itself

Known vulnerabilities of dependencies are looked up if cargo-deny can fetch its database; otherwise a line says so.";

/// Arguments of `cargo xtask lint`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

/// Runs the subcommand. Every check runs, even if an earlier one failed.
///
/// # Errors
/// Set-up, the build or a check fails.
pub(crate) fn run(_: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    setup::ensure(&workspace, Need::Lints)?;
    // mtd embeds the BPF object, so it does not compile without one.
    let object = build::ensure_object(&workspace, Profile::Release)?;
    let mut stages = Stages::default();
    all(&workspace, &Artifacts::new(&workspace, Profile::Release, object), &mut stages);
    let failed = stages.failed();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs every check as a stage.
pub(crate) fn all(workspace: &Workspace, artifacts: &Artifacts, stages: &mut Stages) {
    let cargo = |arguments: &[&str]| {
        let mut command = build::host_cargo(workspace, artifacts);
        command.args(arguments);
        command
    };
    for (name, arguments) in checks() {
        stages.check(name, || process::run_quietly(&mut cargo(&arguments)));
    }
    let deny = || {
        let mut command = cargo(&[]);
        dependency_check::on_path(&mut command);
        command.args(["deny", "--log-level", "error", "check"]);
        command
    };
    stages.check("licences, duplicates, sources", || {
        process::run_quietly(deny().args(["licenses", "bans", "sources"]))
    });
    stages.check("advisories", || advisories(deny()));
}

fn checks() -> [(&'static str, Vec<&'static str>); 3] {
    let clippy = |of: &[&'static str]| {
        [&["clippy", "--quiet", "--release", "--all-targets"], of, &["--", "-D", "warnings"]].concat()
    };
    [
        ("format", vec!["fmt", "--all", "--check"]),
        ("clippy", clippy(&["--workspace"])),
        // Debian's compiler for BPF has no clippy, so the programs are linted for the host, in both forms.
        ("clippy of the BPF programs with log lines", clippy(&["-p", "mtd-ebpf", "--features", "log"])),
    ]
}

/// Checks the dependencies for known vulnerabilities. Succeeds if the database of vulnerabilities cannot be fetched.
fn advisories(mut deny: Command) -> Result<()> {
    let mut fetch = Command::new(deny.get_program());
    dependency_check::on_path(&mut fetch);
    fetch.current_dir(deny.get_current_dir().unwrap_or(".".as_ref()));
    fetch.args(["deny", "--log-level", "error", "fetch", "db"]);
    match process::capture(&mut fetch) {
        Ok(_) => process::run_quietly(deny.args(["advisories"])),
        Err(error) => {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default();
            say(&format!("left out: advisories, because their database cannot be fetched here ({last})"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clippy_denies_warnings_and_sees_all_targets() {
        let clippies: Vec<_> = checks().into_iter().filter(|(_, words)| words[0] == "clippy").collect();
        assert_eq!(clippies.len(), 2);
        for (name, words) in clippies {
            assert!(words.ends_with(&["--", "-D", "warnings"]) && words.contains(&"--all-targets"), "{name}");
        }
    }
}
