//! Starting a test program with its output in a file, or live on the terminal.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::closing::{ClosingLines, Tally};

/// How a test program has ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its output, including standard error if that was kept too.
    pub(super) output: Vec<u8>,
}

impl Ended {
    /// The sum of its closing lines; `None` if there was none.
    pub(super) fn tally(&self) -> Option<Tally> {
        let mut lines = ClosingLines::default();
        lines.feed(&self.output);
        lines.finish()
    }
}

/// Runs the command with both outputs in a file. With a pipe, this would wait for any process that a test leaves running.
///
/// # Errors
/// The command cannot be started, or the file cannot be written or read.
pub(super) fn kept(command: &mut Command, file: &Path) -> io::Result<Ended> {
    let sink = File::create(file)?;
    let status = command.stdin(Stdio::null()).stdout(sink.try_clone()?).stderr(sink).status()?;
    Ok(Ended { status, output: fs::read(file)? })
}

/// Runs the command with its output on the terminal.
///
/// # Errors
/// The command cannot be started, or its output cannot be read or shown.
pub(super) fn live(command: &mut Command) -> io::Result<Ended> {
    live_on(io::stdout().lock(), command)
}

fn live_on(mut terminal: impl Write, command: &mut Command) -> io::Result<Ended> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        let mut buffer = [0; 8192];
        loop {
            let length = pipe.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            terminal.write_all(&buffer[..length])?;
            terminal.flush()?;
            output.extend(&buffer[..length]);
        }
        if output.last().is_some_and(|&last| last != b'\n') {
            // The program crashed in the middle of a line. The summary must begin a new one.
            terminal.write_all(b"\n")?;
        }
    }
    Ok(Ended { status: child.wait()?, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_are_kept() {
        let file = std::env::temp_dir().join(format!("xtask-output-{}", std::process::id()));
        let ended = kept(&mut shell("echo out; echo err >&2; exit 3"), &file).unwrap();
        assert_eq!((ended.status.code(), ended.output.as_slice()), (Some(3), &b"out\nerr\n"[..]));
        assert_eq!(ended.tally(), None);
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_ended() {
        let mut terminal = Vec::new();
        let ended = live_on(&mut terminal, &mut shell("printf 'test a ... '; exit 1")).unwrap();
        assert_eq!((terminal.as_slice(), ended.status.success()), (&b"test a ... \n"[..], false));
    }

    #[test]
    fn closing_lines_are_counted_live_too() {
        // The output is discarded, since the run that these tests are part of must not count these closing lines.
        let mut script = shell("echo 'test result: FAILED. 4 passed; 2 failed; 0 ignored'; exit 101");
        let ended = live_on(io::sink(), &mut script).unwrap();
        assert_eq!(ended.tally(), Some(Tally { passed: 4, failed: 2, ignored: 0 }));
    }
}
