//! Runs tests, each in a process of its own, several in parallel.
//!
//! Rust's harness runs the tests of a program in threads of one process, and does not report how long each took. nextest
//! does both better, but building it takes minutes on every new machine, and tests cannot ask it to run alone on the
//! machine. What is needed is small: the harness can list a program's tests, and run a single one.
//!
//! A test may *request* something before it does anything else: to run alone on the machine, or a file that it needs. It
//! writes the request to the file that [`REQUEST_VARIABLE`] names and fails; then it is run again with the request granted
//! (`mtd_tests::runner`). That way each test itself says what it needs, and files that no test requests are not made.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::closing::Tally;
use super::output;
use super::report::{Record, Verdict};
use crate::console::seconds;

/// Variable that names the file for a request.
pub(super) const REQUEST_VARIABLE: &str = "MTD_TEST_REQUEST";
/// Variable that is set if no other test is running.
pub(super) const ALONE_VARIABLE: &str = "MTD_TEST_ALONE";
/// The request to run alone. Any other request is the name of a variable that must name a file.
const ALONE: &str = "alone";

/// A test: its program, and its name in the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) program: String,
    pub(super) name: String,
    /// The command that runs exactly this test.
    pub(super) command: Line,
}

/// A command that can be started more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) executable: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: PathBuf,
}

/// Makes the command that runs a [`Line`] with these variables set.
pub(super) type Start<'a> = &'a (dyn Fn(&Line, &[(&str, OsString)]) -> Result<Command> + Sync);

/// How the tests of a pool are run.
pub(super) struct Pool<'a> {
    /// Number of tests in parallel.
    pub(super) jobs: usize,
    /// Whether output is shown while a test runs, instead of after a failure. Requires one job.
    pub(super) live: bool,
    /// Folder for output and requests.
    pub(super) scratch: PathBuf,
    /// Makes the command of a test with these variables set.
    pub(super) command: Start<'a>,
    /// Makes the file that a test has requested by the name of a variable.
    pub(super) provide: &'a (dyn Fn(&str) -> Result<PathBuf> + Sync),
}

/// How one run of a test ended.
struct Run {
    verdict: Verdict,
    elapsed: Duration,
    output: Vec<u8>,
    /// What the test requests, if anything.
    request: Option<String>,
}

impl Pool<'_> {
    /// Runs all tests; those that request to run alone come after the others. Reports each when it has ended.
    ///
    /// # Errors
    /// Output cannot be kept, or a test program cannot be started.
    pub(super) fn run(&self, cases: Vec<Case>) -> Result<Vec<Record>> {
        fs::create_dir_all(&self.scratch)
            .with_context(|| format!("could not make {}", self.scratch.display()))?;
        let queue = Mutex::new(VecDeque::from(cases));
        let (records, later) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let work = |worker: usize| -> Result<()> {
            // A closure, so that the lock is not held while the test runs.
            let next = || lock(&queue).pop_front();
            while let Some(case) = next() {
                match self.settle(worker, &case, self.jobs == 1)? {
                    Some(record) => lock(&records).push(record),
                    None => lock(&later).push(case),
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|n| scope.spawn(move || work(n))).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut records = records.into_inner().unwrap_or_default();
        for case in later.into_inner().unwrap_or_default() {
            records.extend(self.settle(0, &case, true)?);
        }
        Ok(records)
    }

    /// Runs a test, again after each request that can be granted now. `None` if the test must run alone, later.
    fn settle(&self, worker: usize, case: &Case, alone: bool) -> Result<Option<Record>> {
        let mut provided: Vec<(String, OsString)> = Vec::new();
        loop {
            let mut run = self.once(worker, case, alone, &provided)?;
            match run.request.take() {
                Some(request) if request == ALONE && !alone => return Ok(None),
                Some(name) if !provided.iter().any(|(given, _)| *given == name) && name != ALONE => {
                    match (self.provide)(&name) {
                        Ok(file) => {
                            provided.push((name, file.into_os_string()));
                            continue;
                        }
                        Err(error) => run.output.extend(format!("{error:#}\n").bytes()),
                    }
                }
                _ => {}
            }
            let record = Record {
                program: case.program.clone(),
                name: case.name.clone(),
                elapsed: run.elapsed,
                verdict: run.verdict,
                alone: alone && self.jobs > 1,
            };
            tell(&record, (!self.live).then_some(&run.output[..]));
            return Ok(Some(record));
        }
    }

    fn once(&self, worker: usize, case: &Case, alone: bool, provided: &[(String, OsString)]) -> Result<Run> {
        let request = self.scratch.join(format!("request-{worker}"));
        let kept = self.scratch.join(format!("output-{worker}"));
        // A file of an earlier run may belong to root.
        let _ = fs::remove_file(&request);
        let mut variables: Vec<(&str, OsString)> = vec![(REQUEST_VARIABLE, request.clone().into())];
        variables.extend(provided.iter().map(|(name, file)| (name.as_str(), file.clone())));
        if alone {
            variables.push((ALONE_VARIABLE, "1".into()));
        }
        let mut command = (self.command)(&case.command, &variables)?;
        command.current_dir(&case.command.directory);
        let start = Instant::now();
        let ended = if self.live { output::live(&mut command) } else { output::kept(&mut command, &kept) };
        let ended = ended.with_context(|| format!("could not run {}", case.command.executable.display()))?;
        let (elapsed, succeeded) = (start.elapsed(), ended.status.success());
        let verdict = judge(succeeded, ended.tally().unwrap_or_default());
        Ok(Run { verdict, elapsed, output: ended.output, request: wish(&request, succeeded) })
    }
}

/// The request of a test that has failed.
fn wish(request: &Path, succeeded: bool) -> Option<String> {
    let text = fs::read_to_string(request).ok()?;
    (!succeeded && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The verdict of a run. After a crash there is no closing line, and if the program has no test of that name, the closing
/// line counts none.
fn judge(succeeded: bool, tally: Tally) -> Verdict {
    match (succeeded, tally) {
        (true, Tally { passed: 1, failed: 0, .. }) => Verdict::Passed,
        (true, Tally { passed: 0, failed: 0, ignored: 1 }) => Verdict::Ignored,
        _ => Verdict::Failed,
    }
}

/// Prints how a test has ended, and its output if that was kept and the test has failed.
fn tell(record: &Record, output: Option<&[u8]>) {
    let verdict = match record.verdict {
        Verdict::Passed => "ok",
        Verdict::Ignored => "skipped",
        Verdict::Failed => "FAILED",
    };
    let alone = if record.alone { ", alone" } else { "" };
    let line =
        format!("{} {} ... {verdict} ({}{alone})", record.program, record.name, seconds(record.elapsed));
    if let (Verdict::Failed, Some(output)) = (record.verdict, output) {
        println!("{line}\n---- output of {}\n{}----", record.name, String::from_utf8_lossy(output));
    } else {
        println!("{line}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
