//! Processes that end when their guard is dropped, and for whose output one can wait.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs::File, thread};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tempfile::TempDir;

use crate::wait_until;

/// How long a process may take to end by itself if it is dropped while it runs.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// Lines of log printed when a test panics.
const TAIL_LINES: usize = 60;

/// A running child process with its output in temporary files.
///
/// If this is dropped while the process runs, the process gets SIGTERM, after a short grace period SIGKILL, and is reaped.
/// If the drop is part of a panic, the end of the log goes to standard error. The process is in a process group of its own,
/// so that Ctrl-C does not reach it directly.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    logs: TempDir,
}

impl Running {
    /// Starts `command` (e.g. from [`crate::netns::Netns::command`]); messages call the process `name`.
    ///
    /// Standard input is empty; standard output and error go to files.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let logs = tempfile::Builder::new().prefix("mtdt-").tempdir().context("no directory for logs")?;
        let stdout = File::create(logs.path().join(STDOUT))?;
        let stderr = File::create(logs.path().join(STDERR))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().with_context(|| format!("could not start {name} ({command:?})"))?;
        Ok(Self { name: name.to_owned(), child, status: None, logs })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it has used so far, in user space and in the kernel.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The process's name, in brackets, may contain anything.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_secs_f64(ticks.iter().sum::<u64>() as f64 / hertz as f64))
    }

    /// Memory that it has allocated and used, in bytes, without pages of files and of the kernel's ring buffers.
    ///
    /// # Errors
    /// When it has ended.
    pub fn own_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Its standard output so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stdout(&self) -> Result<String> {
        self.read(STDOUT)
    }

    /// Its standard error so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stderr(&self) -> Result<String> {
        self.read(STDERR)
    }

    /// Standard output, then standard error, so far.
    pub fn log(&self) -> String {
        [self.stdout(), self.stderr()]
            .map(|part| part.unwrap_or_else(|error| format!("{error:#}\n")))
            .concat()
    }

    /// Waits for a whole line that contains `pattern` in either output, and returns it. Earlier output counts too.
    ///
    /// # Errors
    /// When `timeout` passes or the process ends without such a line; the error contains the end of the log.
    pub fn wait_for_line(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        let mut found = None;
        let waited = wait_until(&format!("{pattern:?} from {}", self.name), timeout, || {
            // The state is read first: if the process has ended, all of its output is in the file by now.
            let ended = self.try_wait()?;
            found = self.find_line(pattern)?;
            match ended {
                Some(status) if found.is_none() => {
                    bail!("{} ended ({status}) without printing {pattern:?}", self.name)
                }
                _ => Ok(found.is_some()),
            }
        });
        match waited {
            Ok(()) => found.ok_or_else(|| anyhow!("no line with {pattern:?}")),
            Err(error) => Err(error.context(format!("the log of {} ends in:\n{}", self.name, self.tail()))),
        }
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_until(&what, timeout, || Ok(self.try_wait()?.is_some()))?;
        self.status.with_context(|| format!("{} has no exit status", self.name))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!("{} has ended ({status}), it can get no {signal}", self.name);
        }
        // The child has not been reaped yet, so the id is still its own.
        kill(self.os_pid()?, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Kills it with SIGKILL, as a crash would, and reaps it.
    ///
    /// # Errors
    /// When it had already ended by itself, since a test that kills a process expects it to be alive.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        let status = self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        self.status = Some(status);
        ensure!(status.signal() == Some(libc::SIGKILL), "{} ended by itself: {status}", self.name);
        Ok(status)
    }

    /// Asks it to end with `signal` (SIGINT or SIGTERM) and waits; returns at once if it has ended already.
    ///
    /// # Errors
    /// When it does not end within `timeout`; it is then killed.
    pub fn terminate(&mut self, signal: Signal, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(signal)?;
        if let Err(error) = self.wait(timeout) {
            self.kill()?;
            return Err(error.context(format!(
                "{} ignored {signal}; its log ends in:\n{}",
                self.name,
                self.tail()
            )));
        }
        self.status.with_context(|| format!("{} has no exit status", self.name))
    }

    fn os_pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("process id out of range")?))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path: PathBuf = self.logs.path().join(file);
        let bytes = fs::read(&path).with_context(|| format!("cannot read the log of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn find_line(&self, pattern: &str) -> Result<Option<String>> {
        for text in [self.stdout()?, self.stderr()?] {
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| line.contains(pattern)) {
                return Ok(Some(line.trim_end().to_owned()));
            }
        }
        Ok(None)
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(None))
            && let Err(error) = self.terminate(Signal::SIGTERM, DROP_GRACE)
        {
            eprintln!("{error:#}");
        }
        if thread::panicking() {
            eprintln!("--- end of the log of {}:\n{}\n---", self.name, self.tail());
        }
    }
}

const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
