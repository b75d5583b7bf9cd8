//! Runs the test programs: unit tests as the caller, those of mtd-tests as root.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use super::Session;
use super::closing::Tally;
use super::output;
use super::pool::{Case, Line, Pool, Start};
use super::report::{Record, Times};
use super::targets::{self, TestProgram};
use crate::build::{self, host_cargo};
use crate::console::say;
use crate::package;
use crate::privilege::{Privilege, diagnostic_variables, test_environment};
use crate::process;

/// Test programs whose tests mostly wait: for slots, time-outs, each other. More of these run in parallel than there are
/// processors.
const WAITING: [&str; 2] = ["netns", "dht"];
/// How many more than there are processors. With two more, on two processors, a scenario occasionally misses a deadline.
const WAITING_BESIDE: usize = 1;

/// The packages with documentation tests.
const DOCUMENTED: [&str; 2] = ["mtd-common", "mtd-userspace"];

/// The files that a test may request.
#[derive(Clone, Copy)]
enum Asked {
    /// The BPF programs with log lines.
    LogObject,
    /// The Debian package.
    Package,
}

impl Asked {
    const ALL: [Self; 2] = [Self::LogObject, Self::Package];

    fn variable(self) -> &'static str {
        match self {
            Self::LogObject => "MTD_EBPF_LOG_OBJECT",
            Self::Package => "MTD_PACKAGE",
        }
    }

    fn make(self, session: &Session) -> Result<PathBuf> {
        match self {
            Self::LogObject => build::log_object(&session.workspace),
            Self::Package => package::make(&session.workspace, &session.artifacts),
        }
    }
}

/// Builds the test programs that the filter can match: those of the packages that need no root, or those of mtd-tests.
///
/// # Errors
/// The test programs do not compile.
pub(super) fn build_programs(session: &Session, privileged: bool) -> Result<Vec<TestProgram>> {
    let mut targets = targets::that_can_match(targets::all(&session.workspace)?, &session.filter.words())?;
    targets.retain(|target| target.is_privileged() == privileged);
    targets::build(&session.workspace, &session.artifacts, &targets)
}

/// Runs unit tests.
///
/// # Errors
/// A test program cannot be started.
pub(super) fn unit_tests(session: &Session, programs: &[TestProgram]) -> Result<Vec<Record>> {
    let start = |line: &Line, variables: &[(&str, OsString)]| {
        let mut command = Command::new(&line.executable);
        command.args(&line.arguments).env("MTD_BIN", &session.artifacts.mtd);
        command.env("CARGO_MANIFEST_DIR", &line.directory);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    };
    run(session, programs, &start)
}

/// Runs the tests of mtd-tests.
///
/// # Errors
/// Root is not available, or a test program cannot be started.
pub(super) fn privileged(
    session: &Session,
    programs: &[TestProgram],
    privilege: Privilege,
) -> Result<Vec<Record>> {
    let passed_on = diagnostic_variables();
    let own = test_environment(&session.artifacts.mtd, &session.artifacts.ebpf_object, &passed_on);
    if privilege == Privilege::Sudo && !programs.is_empty() {
        say("each of these tests runs as root, through sudo");
    }
    let start = |line: &Line, variables: &[(&str, OsString)]| {
        let mut environment = own.clone();
        environment.extend(variables.iter().map(|(name, value)| (*name, value.as_os_str())));
        let mut command = privilege.quiet_command("a test program", &line.executable, &environment)?;
        command.args(&line.arguments);
        Ok(command)
    };
    run(session, programs, &start)
}

fn run(session: &Session, programs: &[TestProgram], start: Start<'_>) -> Result<Vec<Record>> {
    let times = Times::read(&session.times_file());
    let made: Mutex<Vec<(&'static str, PathBuf)>> = Mutex::default();
    let provide = |name: &str| -> Result<PathBuf> {
        let asked = Asked::ALL.into_iter().find(|asked| asked.variable() == name);
        let asked = asked.with_context(|| format!("a test asks for {name}, which nobody makes"))?;
        // The first to need the file makes it, and the others wait.
        let mut made = made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, file)) = made.iter().find(|(variable, _)| *variable == name) {
            return Ok(file.clone());
        }
        let file = asked.make(session)?;
        made.push((asked.variable(), file.clone()));
        Ok(file)
    };
    let mut records = Vec::new();
    for program in programs {
        let mut cases = cases(session, program, start)?;
        cases.sort_by_key(|case| times.turn(&case.program, &case.name));
        let live = session.filter.shows_output();
        let jobs = if live { 1 } else { session.jobs.unwrap_or_else(|| jobs(&program.name)) };
        let scratch = session.workspace.target().join("test-output");
        records.extend(Pool { jobs, live, scratch, command: start, provide: &provide }.run(cases)?);
    }
    Ok(records)
}

fn jobs(program: &str) -> usize {
    let processors = available_parallelism().map_or(1, usize::from);
    if WAITING.contains(&program) { processors + WAITING_BESIDE } else { processors }
}

fn cases(session: &Session, program: &TestProgram, start: Start<'_>) -> Result<Vec<Case>> {
    let line = |arguments| Line {
        executable: program.executable.clone(),
        arguments,
        directory: program.directory.clone(),
    };
    let mut command = start(&line(vec![]), &[])?;
    command.current_dir(&program.directory);
    let names = session.filter.list(command)?;
    let case = |name: String| Case {
        program: program.name.clone(),
        command: line(session.filter.exactly(&name)),
        name,
    };
    Ok(names.into_iter().map(case).collect())
}

/// Runs documentation tests, which only cargo can run.
///
/// # Errors
/// cargo cannot be started, or succeeded without a closing line.
pub(super) fn documentation(session: &Session) -> Result<Tally> {
    let mut command = host_cargo(&session.workspace, &session.artifacts);
    command.args(["test", "--release", "--quiet", "--no-fail-fast", "--doc"]);
    command.args(DOCUMENTED.into_iter().flat_map(|package| ["-p", package]));
    let line = process::describe(&command);
    let ended = output::live(&mut command).with_context(|| format!("could not run `{line}`"))?;
    counted(ended.status.success(), ended.tally()).with_context(|| format!("of `{line}`"))
}

/// A program that failed without counting a failure (it crashed, or did not compile) counts as one failed test.
fn counted(succeeded: bool, tally: Option<Tally>) -> Result<Tally> {
    match (succeeded, tally) {
        (true, None) => bail!("it ended without a line `test result: …`"),
        (true, Some(tally)) => Ok(tally),
        (false, tally) => {
            let tally = tally.unwrap_or_default();
            Ok(Tally { failed: tally.failed.max(1), ..tally })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_a_failed_test_and_a_counted_failure_is_not_counted_twice() {
        assert_eq!(counted(false, None).unwrap(), Tally { failed: 1, ..Tally::default() });
        let tally = Tally { passed: 4, failed: 2, ignored: 0 };
        assert_eq!(counted(false, Some(tally)).unwrap(), tally);
    }

    #[test]
    fn a_program_that_says_nothing_is_not_taken_for_success() {
        assert!(counted(true, None).unwrap_err().to_string().contains("test result"));
    }

    #[test]
    fn scenarios_wait_and_fixtures_work() {
        assert_eq!(jobs("netns"), jobs("bpf") + WAITING_BESIDE);
    }
}
