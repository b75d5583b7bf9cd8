//! Dropping privileges that are no longer needed, in every thread of the process.
//!
//! On Linux each thread has capabilities of its own, and by the time they are no longer needed, the runtime and libraries
//! have started many threads. Each thread is sent a signal whose handler drops the thread's own capabilities, as the C
//! library does for `setuid`. Whether it worked is read from `/proc`.
//!
//! A thread that is slow to answer is asked again, and may still have signals to come when all is done. So the signal is ignored
//! before it gets its earlier action back, by default the end of the process: that discards what is on its way.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::process;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// `CAP_NET_ADMIN`: needed for addresses and routes of the tunnel device, and to mark packets.
pub const NET_ADMIN: u64 = 1 << 12;

/// Highest number of a capability that a kernel may have.
const LAST_CAPABILITY: libc::c_ulong = 63;

/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const VERSION: u32 = 0x2008_0522;

/// Maximum number of rounds; each sends the signal to all threads that still have capabilities to drop. Ten seconds: on a host
/// that is very busy, a thread may not run for as long.
const ROUNDS: u32 = 160;

/// How long the first round waits for the threads to handle the signal …
const PAUSE: Duration = Duration::from_millis(2);
/// … and the longest that a later one does, each waiting twice as long as the one before.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// The capabilities that the signal handler keeps. A static, because a signal handler takes no other arguments.
static KEEP: AtomicU64 = AtomicU64::new(0);

/// Errno of a thread that could not drop its capabilities.
static FAILED: AtomicI32 = AtomicI32::new(0);

/// `struct __user_cap_header_struct` of capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct` of capset(2).
#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The privileges of a thread, as `/proc` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Privileges {
    permitted: u64,
    inheritable: u64,
    no_new: bool,
}

impl Privileges {
    fn of(thread: &str) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/status"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value
                .map(str::trim)
                .ok_or_else(|| io::Error::other(format!("no {name} in /proc/self/task/{thread}/status")))
        };
        let set = |name| u64::from_str_radix(field(name)?, 16).map_err(io::Error::other);
        Ok(Self {
            permitted: set("CapPrm")?,
            inheritable: set("CapInh")?,
            no_new: field("NoNewPrivs")? == "1",
        })
    }
}

/// Drops all capabilities except those in `keep`, in every thread and in everything that the threads start later. They
/// cannot be regained (`no_new_privs`).
///
/// # Errors
/// When the kernel refuses, or a thread does not answer.
pub fn give_up_all_but(keep: u64) -> io::Result<()> {
    let signal = libc::SIGRTMIN() + 5;
    KEEP.store(keep, Ordering::SeqCst);
    let before = install(signal, give_up_in_this_thread as *const () as libc::sighandler_t)?;
    let result = ask_until_done(signal, keep);
    if let Err(error) = install(signal, libc::SIG_IGN) {
        // The handler stays: whatever is still to come is harmless.
        warn!("cannot ignore a signal: {error}");
        return result;
    }
    restore(signal, &before);
    result
}

fn ask_until_done(signal: i32, keep: u64) -> io::Result<()> {
    let (mut clean, mut pause) = (0, PAUSE);
    for _ in 0..ROUNDS {
        let mut left = 0;
        for entry in fs::read_dir("/proc/self/task")? {
            let Ok(thread) = entry?.file_name().into_string() else { continue };
            // A thread that ends meanwhile has nothing left to drop.
            let Ok(found) = Privileges::of(&thread) else { continue };
            if found.permitted & !keep != 0 || found.inheritable != 0 || !found.no_new {
                left += 1;
                ask(&thread, signal)?;
            }
        }
        let errno = FAILED.load(Ordering::SeqCst);
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // Only after two clean rounds: a thread that had its capabilities may have started another one after the listing.
        clean = if left == 0 { clean + 1 } else { 0 };
        if clean == 2 {
            return Ok(());
        }
        thread::sleep(pause);
        pause = LONGEST_PAUSE.min(2 * pause);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "a thread did not give up its privileges"))
}

fn ask(thread: &str, signal: i32) -> io::Result<()> {
    let thread: libc::pid_t = thread.parse().map_err(io::Error::other)?;
    // SAFETY: takes only numbers; the thread is one of this process, which has a handler for the signal.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process::id(), thread, signal) };
    let error = io::Error::last_os_error();
    if sent == 0 || error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// The signal handler, which runs in each thread. It makes only system calls, since nothing else is allowed in a handler.
extern "C" fn give_up_in_this_thread(_signal: libc::c_int) {
    // Saved and restored, since the interrupted code may be about to read it.
    // SAFETY: the address of this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let failed = give_up();
    if failed != 0 {
        FAILED.store(failed, Ordering::SeqCst);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Drops the capabilities of the current thread. Returns 0, or the errno of the call that failed.
fn give_up() -> i32 {
    // SAFETY: the address of this thread's errno.
    let errno = || unsafe { *libc::__errno_location() };
    // This fails without CAP_SETPCAP, and for numbers above the last capability of this kernel. Neither matters, since the
    // calls below make sure that nothing can be regained.
    for capability in 0..=LAST_CAPABILITY {
        if KEEP.load(Ordering::SeqCst) & (1 << capability) == 0 {
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return errno();
    }
    let mut header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both pointers lead to structures as this version of the call reads and writes them.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } != 0 {
        return errno();
    }
    let keep = KEEP.load(Ordering::SeqCst);
    for (set, keep) in sets.iter_mut().zip([keep as u32, (keep >> 32) as u32]) {
        set.permitted &= keep;
        set.effective &= keep;
        set.inheritable = 0;
    }
    // SAFETY: both pointers lead to structures as this version of the call reads them.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } != 0 {
        return errno();
    }
    0
}

/// Sets what is done at the signal: a function that does nothing but system calls, or one of the numbers for it.
fn install(signal: i32, handler: libc::sighandler_t) -> io::Result<libc::sigaction> {
    // SAFETY: all zero is a valid value of this plain structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    // Interrupted system calls are restarted.
    action.sa_flags = libc::SA_RESTART;
    let mut before = MaybeUninit::uninit();
    // SAFETY: both pointers are valid; the handler does nothing but system calls.
    if unsafe { libc::sigaction(signal, &raw const action, before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and has therefore filled it.
    Ok(unsafe { before.assume_init() })
}

fn restore(signal: i32, before: &libc::sigaction) {
    // SAFETY: both pointers are valid or null where that is allowed.
    if unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) } != 0 {
        warn!("cannot restore a signal's action: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::sync::mpsc;

    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

    use super::*;

    /// Set in the process that gives up its privileges.
    const INSIDE: &str = "MTD_TEST_GIVES_UP";

    /// A thread that does not get around to its signals: it drops its capabilities itself, and has several signals left when
    /// everything is done.
    #[test]
    fn signals_that_are_left_when_all_is_done_do_not_kill_the_process() {
        if std::env::var_os(INSIDE).is_some() {
            return with_a_slow_thread();
        }
        // In a process of its own, since nobody gets privileges back.
        let name = "privilege::tests::signals_that_are_left_when_all_is_done_do_not_kill_the_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
        assert_eq!(output.status.signal(), None, "{output:?}");
        assert!(output.status.success(), "{output:?}");
    }

    fn with_a_slow_thread() {
        let ((ready, blocked), (done, finish)) = (mpsc::channel(), mpsc::channel::<()>());
        let slow = thread::spawn(move || {
            let mut before = SigSet::empty();
            pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before)).unwrap();
            ready.send(()).unwrap();
            // Meanwhile it is asked some times.
            thread::sleep(PAUSE * 20);
            assert_eq!(give_up(), 0);
            finish.recv().unwrap();
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).unwrap();
            thread::sleep(PAUSE * 20);
        });
        blocked.recv().unwrap();
        give_up_all_but(0).unwrap();
        done.send(()).unwrap();
        slow.join().unwrap();
    }
}
