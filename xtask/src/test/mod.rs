//! `cargo xtask test`: lints, unit tests, and the tests that need root.
//!
//! Each test is a process of its own ([`pool`] says why), so that scenarios in network namespaces can run in parallel and
//! the time of each is known. With a filter, as little as possible is built: the test programs that can have a matching
//! test, and the files for which the tests ask.

mod closing;
mod filter;
mod output;
mod pool;
mod report;
mod runner;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{self, Artifacts, Profile};
use crate::lint;
use crate::privilege::Privilege;
use crate::setup::{self, Need};
use crate::timing::Stages;
use crate::workspace::Workspace;

use closing::Tally;
use filter::Filter;
use report::{Record, Times};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                        everything
  cargo xtask test --unprivileged         only what needs no root
  cargo xtask test --report tests.json    everything, and a report with the time and the result of each test
  cargo xtask test -- replay              the tests with `replay` in their names; no lints
  cargo xtask test -- replay --nocapture  the same, one at a time and with their output

If you are not root, the tests that need root run through `sudo -n`; where that is impossible, they fail.";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Leave out the tests that need root.
    #[arg(long)]
    unprivileged: bool,
    /// Write name, program, seconds and result of each test, and the seconds of each stage, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Run this number of tests in parallel, instead of the number that suits the test program.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    jobs: Option<u8>,
    /// Run only tests with one of these in their names; options of the test harness work as well.
    #[arg(value_name = "FILTER", last = true)]
    filter: Vec<String>,
}

/// Runs the subcommand. Every stage runs even if an earlier one failed, unless that was a build.
///
/// # Errors
/// A stage failed, no test ran, or the report cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let privilege = Privilege::detect();
    let root_tests = !args.unprivileged;
    let mut stages = Stages::default();
    // Without root, installing the programs would fail first, with a less helpful message than that of the stage.
    let need = if root_tests && privilege.is_available() { Need::Tests } else { Need::ToolChain };
    let lints = args.filter.is_empty();
    let set_up = || -> Result<()> {
        setup::ensure(&workspace, need)?;
        if lints {
            setup::ensure(&workspace, Need::Lints)?;
        }
        Ok(())
    };
    stages.check("set-up", set_up).context("the set-up failed")?;
    let artifacts =
        stages.check("build", || build::ensure(&workspace, Profile::Release)).context("the build failed")?;
    if lints {
        lint::all(&workspace, &artifacts, &mut stages);
    }
    let session =
        Session { workspace, artifacts, filter: Filter::new(&args.filter), jobs: args.jobs.map(usize::from) };
    let mut results = Results { stages, records: vec![], others: Tally::default() };
    results.unit_tests(&session);
    if root_tests {
        results.privileged(&session, privilege);
    }
    results.close(&session, args.report.as_deref())
}

/// The data that the stages of one run share.
struct Session {
    workspace: Workspace,
    artifacts: Artifacts,
    filter: Filter,
    /// The number of tests in parallel, if the caller gave one.
    jobs: Option<usize>,
}

impl Session {
    /// The file in which the times of the tests are kept from run to run.
    fn times_file(&self) -> PathBuf {
        self.workspace.target().join("test-times.json")
    }
}

/// The results of all stages.
struct Results {
    stages: Stages,
    records: Vec<Record>,
    /// The count of tests without a record of their own.
    others: Tally,
}

impl Results {
    fn unit_tests(&mut self, session: &Session) {
        let built = self.stages.check("build of unit tests", || runner::build_programs(session, false));
        if let Some(programs) = self.built(built) {
            self.run("unit tests", || runner::unit_tests(session, &programs));
        }
        if session.filter.is_empty() {
            let documentation = self.stages.check("documentation tests", || runner::documentation(session));
            let tally = documentation.unwrap_or(Tally { failed: 1, ..Tally::default() });
            self.others += tally;
            if tally.failed > 0 {
                self.stages.fail_last();
            }
        }
    }

    fn privileged(&mut self, session: &Session, privilege: Privilege) {
        let built = self.stages.check("build of tests as root", || {
            if !privilege.is_available() {
                bail!(
                    "these tests make network namespaces and load BPF programs, which needs root: {}. \
                     `cargo xtask test --unprivileged` leaves them out",
                    privilege.remedy()
                );
            }
            runner::build_programs(session, true)
        });
        let Some(programs) = self.built(built) else { return };
        let name = |program: &targets::TestProgram| match program.name.as_str() {
            "bpf" => "BPF fixtures",
            "netns" => "namespace scenarios",
            "package" => "tests of the package",
            "dht" => "tests of the DHT",
            _ => "tests of the programs for tests",
        };
        for program in programs {
            let stage = name(&program);
            self.run(stage, || runner::privileged(session, &[program], privilege));
        }
    }

    /// Passes on what was built. A build that failed counts as one failed test.
    fn built<T>(&mut self, built: Option<T>) -> Option<T> {
        self.others.failed += u64::from(built.is_none());
        built
    }

    fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<Vec<Record>>) {
        match self.stages.check(name, work) {
            Some(records) => {
                if report::tally(&records).failed > 0 {
                    self.stages.fail_last();
                }
                self.records.extend(records);
            }
            None => self.others.failed += 1,
        }
    }

    fn close(self, session: &Session, report: Option<&Path>) -> Result<()> {
        let mut tally = report::tally(&self.records);
        tally += self.others;
        // A failure does no harm: the times only let the next run begin with the longest tests.
        let kept = Times::read(&session.times_file()).update(&self.records, &session.times_file());
        if let Some(file) = report {
            let text = serde_json::to_string_pretty(&report::json(&self.records, &self.stages, tally))?;
            fs::write(file, text + "\n").with_context(|| format!("could not write {}", file.display()))?;
        }
        println!("{}\n{tally}", report::summary(&self.records, &self.stages));
        let failed = self.stages.failed();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        if tally.passed == 0 {
            bail!("no test ran: no test's name contains any of {:?}", session.filter.words());
        }
        kept
    }
}
