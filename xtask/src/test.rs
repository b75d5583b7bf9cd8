//! `cargo xtask test`: lints, unit tests, and the tests that need root.

mod closing;
mod privileged;
mod runner;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::build::{self, Artifacts, Profile};
use crate::console::{say, stage};
use crate::package;
use crate::privilege::Privilege;
use crate::process::{self, find_program};
use crate::setup::{self, Need};
use crate::workspace::Workspace;

use closing::Tally;

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                        everything
  cargo xtask test --unprivileged         only what needs no root
  cargo xtask test -- replay              the tests with `replay` in their names; no lints
  cargo xtask test -- replay --nocapture  the same, with their output

Not root: the tests that need it run through `sudo -n`; where that is impossible, they fail.";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Leave out the tests that need root.
    #[arg(long)]
    unprivileged: bool,
    /// Run only tests with one of these in their names; options of the test harness work as well.
    #[arg(value_name = "FILTER", last = true)]
    filter: Vec<String>,
}

/// Carries the subcommand out. Every stage runs, whatever became of the one before; builds excepted.
///
/// # Errors
/// A stage failed, or no test ran.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let privilege = Privilege::detect();
    let root_tests = !args.unprivileged;
    // Without root, set-up of the programs would fail first and say less than the stage does.
    let need = if root_tests && privilege.is_available() { Need::Tests } else { Need::ToolChain };
    setup::ensure(&workspace, need)?;
    let artifacts = build::ensure(&workspace, Profile::Release)?;
    let mut session = Session {
        workspace,
        artifacts,
        filter: &args.filter,
        log_object: None,
        package: None,
        tally: Tally::default(),
        failed: vec![],
    };
    if args.filter.is_empty() {
        session.lint();
    }
    session.tests("unit tests", runner::unit_tests);
    if root_tests {
        session.log_lines();
        session.package();
        session.tests("tests as root", |session| privileged::run(session, privilege));
    }
    session.close()
}

/// One run of the tests.
struct Session<'a> {
    workspace: Workspace,
    artifacts: Artifacts,
    filter: &'a [String],
    /// The BPF programs with log lines, once they are built.
    log_object: Option<PathBuf>,
    /// The Debian package of the artifacts, once it is made.
    package: Option<PathBuf>,
    tally: Tally,
    failed: Vec<&'static str>,
}

impl Session<'_> {
    fn lint(&mut self) {
        let deny_warnings = ["--", "-D", "warnings"];
        let clippy = ["clippy", "--quiet", "--release", "--all-targets"];
        self.check("format", &["fmt", "--all", "--check"]);
        self.check("clippy", &[&clippy[..], &["--workspace"], &deny_warnings].concat());
        // Debian's compiler for BPF has no clippy, so the programs are linted for the host, in both forms.
        let log = ["-p", "mtd-ebpf", "--features", "log"];
        self.check(
            "clippy of the BPF programs with log lines",
            &[&clippy[..], &log, &deny_warnings].concat(),
        );
        if find_program("cargo-deny").is_some() {
            self.check("licences, advisories, duplicates", &["deny", "check"]);
        } else {
            say("left out: cargo deny check, because cargo-deny is not installed");
        }
    }

    fn check(&mut self, name: &'static str, arguments: &[&str]) {
        let mut command = build::host_cargo(&self.workspace, &self.artifacts);
        self.stage(name, |_| process::run_quietly(command.args(arguments)));
    }

    /// The tests that want these programs fail without them; the others need not.
    fn log_lines(&mut self) {
        self.log_object =
            self.stage("BPF programs with log lines", |session| build::log_object(&session.workspace));
    }

    /// The same with a package.
    fn package(&mut self) {
        self.package =
            self.stage("Debian package", |session| package::make(&session.workspace, &session.artifacts));
    }

    fn stage<T>(&mut self, name: &'static str, work: impl FnOnce(&Self) -> Result<T>) -> Option<T> {
        stage(name, || work(self))
            .inspect_err(|error| {
                say(&format!("FAILED: {name}: {error:#}"));
                self.failed.push(name);
            })
            .ok()
    }

    fn tests(&mut self, name: &'static str, work: impl FnOnce(&Self) -> Result<Tally>) {
        match stage(name, || work(self)) {
            Ok(tally) => {
                if tally.failed > 0 {
                    self.failed.push(name);
                }
                self.tally += tally;
            }
            Err(error) => {
                say(&format!("FAILED: {name}: {error:#}"));
                self.failed.push(name);
                self.tally.failed += 1;
            }
        }
    }

    fn close(self) -> Result<()> {
        println!("{}", self.tally);
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        if self.tally.passed == 0 {
            bail!("no test ran: no test's name contains any of {:?}", self.filter);
        }
        Ok(())
    }
}
