//! Removing what this process has made, whichever way the process ends.
//!
//! Only namespaces registered by this process, or by a process that was killed, are ever touched. There is no clean-up by
//! name prefix, because another test process may be using what it would find.

mod ledger;
mod remains;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use ledger::Ledger;
pub(crate) use ledger::sweep;
#[cfg(test)]
pub(crate) use remains::of_namespace;

use crate::{netns, run_to_end, wait_until};

/// How long a process has to end by itself after SIGTERM before it is killed.
const TERMINATE_GRACE: Duration = Duration::from_secs(3);

/// How long the kernel may take to tear down a killed process.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// Exit code of a process ended by SIGINT, as shells report it.
const EXIT_INTERRUPTED: i32 = 130;

static MADE: Mutex<Made> = Mutex::new(Made { namespaces: BTreeMap::new(), ledger: None, swept: false });
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// The namespaces that this process has made and not removed yet.
struct Made {
    /// Their cookies, by name.
    namespaces: BTreeMap<String, u64>,
    /// The ledger, which exists as long as there are namespaces.
    ledger: Option<Ledger>,
    /// Whether the remains of killed processes have been removed.
    swept: bool,
}

/// A network namespace.
#[derive(Debug)]
struct Namespace {
    name: String,
    /// The kernel's number for the namespace, which no other gets until the next boot.
    cookie: u64,
}

/// Removes every namespace that this process still holds, after ending the processes inside.
///
/// For exits that run no destructors (`std::process::exit`). Returns the names that could not be removed.
pub fn remove_all() -> Vec<String> {
    let names: Vec<String> = made().namespaces.keys().cloned().collect();
    names.into_iter().filter(|name| remove_namespace(name).is_err()).collect()
}

/// Turns SIGINT and SIGTERM into an orderly end, for the demo.
///
/// The first signal only sets the flag that [`interrupted`] reads: the program finishes its step, prints its summary and
/// drops its guards. The second one removes the namespaces at once and exits with code 130. Processes started through
/// [`crate::process::Running`] are in process groups of their own, so Ctrl-C at a terminal does not reach them directly.
///
/// # Errors
/// When called twice, or when the handler cannot be installed.
pub fn handle_interrupts() -> Result<()> {
    ensure!(SIGNAL_PIPE.load(Ordering::SeqCst) < 0, "the interrupt handler is installed already");
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("no pipe for signals")?;
    SIGNAL_PIPE.store(leak(writer), Ordering::SeqCst);
    thread::Builder::new().name("interrupts".to_owned()).spawn(move || await_signals(reader))?;
    let action = SigAction::new(SigHandler::Handler(note_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only writes to a pipe and an atomic, both async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

/// Whether a signal has asked this process to end (see [`handle_interrupts`]).
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Registers a namespace that this process has made. The first call also removes what killed processes have left.
///
/// # Errors
/// When the namespace cannot be written to the ledger.
pub(crate) fn register_namespace(name: &str, cookie: u64) -> Result<()> {
    let mut made = made();
    made.namespaces.insert(name.to_owned(), cookie);
    if !made.swept {
        made.swept = true;
        sweep()?;
    }
    let mut ledger = made.ledger.take().map_or_else(Ledger::open, Ok)?;
    ledger.add(&Namespace { name: name.to_owned(), cookie })?;
    made.ledger = Some(ledger);
    Ok(())
}

/// Ends the processes in a registered namespace, removes what mtd has pinned for it, and deletes it. A second call for a
/// name does nothing.
pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    let Some(cookie) = made().namespaces.remove(name) else { return Ok(()) };
    Namespace { name: name.to_owned(), cookie }.remove()?;
    let mut made = made();
    if made.namespaces.is_empty() {
        made.ledger.take().map_or(Ok(()), Ledger::close)?;
    }
    Ok(())
}

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Namespace {
    /// Whether the name still stands for this namespace.
    fn exists(&self) -> bool {
        // Without a handle, there is no namespace of that name, or it is just being deleted.
        let Ok(handle) = File::open(Path::new(netns::HANDLES).join(&self.name)) else { return false };
        netns::cookie(&handle.into()).is_ok_and(|cookie| cookie == self.cookie)
    }

    /// Removes the namespace. Every step is tried, even if an earlier one failed.
    fn remove(&self) -> Result<()> {
        let ended = end_processes(&self.name);
        let removed = remains::remove(self.cookie);
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", &self.name]);
        run_to_end(delete)?;
        removed.context("cannot remove what mtd has pinned")?;
        ended
    }
}

/// Sends SIGTERM first, so that a controller can remove its pins, and SIGKILL to processes left after the grace period.
fn end_processes(namespace: &str) -> Result<()> {
    let stages = [(Signal::SIGTERM, TERMINATE_GRACE), (Signal::SIGKILL, KILL_GRACE)];
    for (signal, grace) in stages {
        let pids = processes_in(namespace)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context(format!("cannot send {signal} to process {pid}")),
            }
        }
        let gone = wait_until("the processes of a namespace to end", grace, || {
            Ok(processes_in(namespace)?.is_empty())
        });
        if signal == Signal::SIGKILL {
            gone?;
        }
    }
    Ok(())
}

/// Processes whose main thread is in the namespace, except this process. Zombies have no namespace and are not listed.
fn processes_in(namespace: &str) -> Result<Vec<Pid>> {
    let mut list = Command::new("ip");
    list.args(["netns", "pids", namespace]);
    let own = nix::unistd::getpid();
    let pids = run_to_end(list)?
        .split_whitespace()
        .map(|pid| pid.parse().map(Pid::from_raw).with_context(|| format!("`ip netns pids` printed {pid:?}")))
        .collect::<Result<Vec<_>>>()?;
    Ok(pids.into_iter().filter(|&pid| pid != own).collect())
}

/// Keeps the descriptor open for the rest of the process's life, since the signal handler may use it at any time.
fn leak(descriptor: OwnedFd) -> RawFd {
    let raw = descriptor.as_raw_fd();
    std::mem::forget(descriptor);
    raw
}

extern "C" fn note_signal(_signal: libc::c_int) {
    let saved = Errno::last();
    INTERRUPTED.store(true, Ordering::SeqCst);
    let byte = 0_u8;
    // SAFETY: writes one byte that lives on this stack to a pipe that is never closed.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
    saved.set();
}

fn await_signals(reader: OwnedFd) {
    let mut signals = File::from(reader);
    let mut byte = [0_u8; 1];
    for nth in 1_u32.. {
        if signals.read_exact(&mut byte).is_err() {
            return;
        }
        if nth == 1 {
            eprintln!("interrupted: finishing; once more to stop at once");
            continue;
        }
        for name in remove_all() {
            eprintln!("could not remove the network namespace {name}: `ip netns del {name}` does");
        }
        std::process::exit(EXIT_INTERRUPTED);
    }
}
