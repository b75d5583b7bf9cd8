//! Running a test program: its output live on the terminal, its closing lines added up.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};

use super::Session;
use super::closing::{ClosingLines, Tally};
use crate::build::host_cargo;
use crate::console::say;
use crate::process;

/// The packages whose tests need no root.
const UNPRIVILEGED: [&str; 6] = ["-p", "mtd-common", "-p", "mtd-userspace", "-p", "xtask"];

/// Unit and documentation tests of the packages that need no root.
///
/// # Errors
/// cargo cannot be started, or its output cannot be read.
pub(super) fn unit_tests(session: &Session<'_>) -> Result<Tally> {
    let mut command = host_cargo(&session.workspace, &session.artifacts);
    command.args(["test", "--release", "--no-fail-fast"]).args(UNPRIVILEGED);
    command.env("MTD_BIN", &session.artifacts.mtd).arg("--").args(session.filter);
    run(&mut command)
}

/// Runs a test program and adds up its closing lines. A program that failed without counting a failure (it crashed,
/// or did not compile) counts as one failed test.
///
/// # Errors
/// The program cannot be started, its output cannot be read, or it ended well without any closing line.
pub(super) fn run(command: &mut Command) -> Result<Tally> {
    run_into(io::stdout().lock(), command)
}

fn run_into(terminal: impl Write, command: &mut Command) -> Result<Tally> {
    let line = process::describe(command);
    let (status, tally) = stream(terminal, command).with_context(|| format!("could not run `{line}`"))?;
    let mut counted = tally.unwrap_or_default();
    if status.success() {
        return tally.ok_or_else(|| anyhow!("`{line}` ended without a line `test result: …`"));
    }
    if counted.failed == 0 {
        say(&format!("`{line}` failed ({status}) without counting a failed test"));
        counted.failed = 1;
    }
    Ok(counted)
}

fn stream(mut terminal: impl Write, command: &mut Command) -> io::Result<(ExitStatus, Option<Tally>)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = ClosingLines::default();
    if let Some(mut output) = child.stdout.take() {
        let mut buffer = [0; 8192];
        let mut last = b'\n';
        loop {
            let length = output.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            terminal.write_all(&buffer[..length])?;
            terminal.flush()?;
            lines.feed(&buffer[..length]);
            last = buffer[length - 1];
        }
        if last != b'\n' {
            // A crash in the middle of a line; the summary must stand alone on its own.
            terminal.write_all(b"\n")?;
        }
    }
    Ok((child.wait()?, lines.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Into a sink: these closing lines must not be counted by the run that these tests are part of.
    fn shell(script: &str) -> Result<Tally> {
        run_into(io::sink(), Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_crash_is_a_failed_test() {
        assert_eq!(shell("kill -SEGV $$").unwrap(), Tally { failed: 1, ..Tally::default() });
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_ended() {
        let mut terminal = Vec::new();
        run_into(&mut terminal, Command::new("sh").args(["-c", "printf 'test a ... '; exit 1"])).unwrap();
        assert_eq!(terminal, b"test a ... \n");
    }

    #[test]
    fn failures_that_were_counted_are_not_counted_twice() {
        let script = "echo 'test result: FAILED. 4 passed; 2 failed; 0 ignored'; exit 101";
        assert_eq!(shell(script).unwrap(), Tally { passed: 4, failed: 2, ignored: 0 });
    }

    #[test]
    fn a_runner_that_says_nothing_is_not_taken_for_success() {
        assert!(shell("true").unwrap_err().to_string().contains("test result"));
    }
}
