//! Network namespaces that exist as long as the value that owns them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{io, panic, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use mtd::device::netns_tag;
use nix::sched::{CloneFlags, setns};

use crate::{cleanup, run_to_end, wait_until};

/// Prefix of every namespace name made here.
pub const NAME_PREFIX: &str = "mtdt-";

/// Where iproute2 keeps the handles of named namespaces.
pub(crate) const HANDLES: &str = "/run/netns";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace made by this process; deleted on drop, also when a test panics.
///
/// Processes that were started in it and are still running are ended first (SIGTERM, then SIGKILL). Sockets opened inside
/// belong to the namespace whichever thread uses them, and keep it alive in the kernel (without a name) until they close.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: OwnedFd,
}

impl Netns {
    /// Makes a namespace named `mtdt-<pid>-<counter>-<tag>` with its loopback interface up.
    ///
    /// # Errors
    /// When `tag` has characters other than ASCII letters, digits and `-`, or the namespace cannot be made, for example
    /// without root.
    pub fn new(tag: &str) -> Result<Self> {
        ensure!(
            !tag.is_empty() && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{tag:?} is no tag for a namespace: use ASCII letters, digits and `-`"
        );
        let nth = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{}-{nth}-{tag}", std::process::id());
        let mut add = Command::new("ip");
        add.args(["netns", "add", &name]);
        run_to_end(add)?;
        let path = PathBuf::from(HANDLES).join(&name);
        let handle = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?.into();
        let cookie = cookie(&handle)?;
        // From here on, dropping `netns` removes the namespace.
        let netns = Self { name, handle };
        cleanup::register_namespace(&netns.name, cookie)?;
        netns.run(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number for the namespace, which no other gets until the next boot.
    #[cfg(test)]
    pub(crate) fn cookie(&self) -> Result<u64> {
        cookie(&self.handle)
    }

    /// Runs `ip ARGUMENTS` within the namespace and returns its standard output.
    ///
    /// # Errors
    /// When `ip` fails; the error contains its standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name]).args(arguments);
        run_to_end(ip)
    }

    /// A command that will run in this network namespace and share everything else with the caller.
    ///
    /// This calls only `setns(CLONE_NEWNET)`. `ip netns exec` would also give the command a mount namespace of its own, in
    /// which pins in bpffs would be lost, and a fresh `/sys`. Therefore `/sys/class/net` is the caller's, while `/proc/net`
    /// and `/proc/sys/net` are the namespace's.
    ///
    /// # Errors
    /// When the handle of the namespace cannot be duplicated.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let handle = self.handle.try_clone().context("cannot duplicate the handle of the namespace")?;
        let mut command = Command::new(program);
        let enter = move || setns(&handle, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes a single system call on a descriptor that it owns; nothing
        // allocates, locks or panics.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs a closure on a new thread inside the namespace and waits for it. The calling thread stays in its namespace.
    ///
    /// Sockets made inside belong to the namespace and may be returned. A panic in the closure is passed on.
    ///
    /// # Errors
    /// When the thread cannot be started or cannot enter the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.handle, work)
            .with_context(|| format!("cannot enter the network namespace {}", self.name))
    }

    /// Sets a network sysctl of this namespace, e.g. `net/ipv6/conf/all/forwarding`.
    ///
    /// # Errors
    /// When the key does not start with `net/`, does not exist, or the kernel refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key)?;
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set the sysctl {key} to {value:?}"))
    }

    /// Reads a network sysctl of this namespace, without the final newline.
    ///
    /// # Errors
    /// When the key does not start with `net/` or does not exist.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key)?;
        let value = self.enter(|| fs::read_to_string(&path))?;
        Ok(value.with_context(|| format!("cannot read the sysctl {key}"))?.trim_end().to_owned())
    }

    /// Sends `count` echo requests from this namespace, 0.2 s apart, and waits up to a second for the last answer.
    ///
    /// Lost answers are a result, not an error.
    ///
    /// # Errors
    /// When `ping` cannot be run or prints no summary (bad address, no route).
    pub fn ping(&self, destination: IpAddr, count: u32) -> Result<PingReport> {
        let mut ping = self.command("ping")?;
        ping.args(["-n", "-q", "-i", "0.2", "-W", "1", "-c", &count.to_string(), &destination.to_string()]);
        let output = ping.output().context("could not start `ping`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        PingReport::parse(&text).ok_or_else(|| {
            anyhow!(
                "ping {destination} printed no summary: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Whether `destination` answers an IPv6 echo request of `length` bytes, including headers, that must not be fragmented.
    ///
    /// # Errors
    /// When `ping` cannot be run.
    pub fn carries(&self, destination: IpAddr, length: u32) -> Result<bool> {
        const HEADERS: u32 = 40 + 8;
        let mut ping = self.command("ping")?;
        ping.args(["-n", "-q", "-W", "1", "-c", "1", "-M", "do", "-s", &(length - HEADERS).to_string()]);
        let output = ping.arg(destination.to_string()).output().context("could not start `ping`")?;
        Ok(output.status.success())
    }

    /// Waits until `destination` answers an echo request, e.g. after links came up.
    ///
    /// # Errors
    /// When there is no answer within `timeout`.
    pub fn wait_reachable(&self, destination: IpAddr, timeout: Duration) -> Result<()> {
        let what = format!("an echo reply from {destination} in {}", self.name);
        wait_until(&what, timeout, || Ok(self.ping(destination, 1).is_ok_and(|report| report.received == 1)))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = cleanup::remove_namespace(&self.name) {
            eprintln!("could not clean up the network namespace {}: {error:#}", self.name);
        }
    }
}

/// The counts of `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingReport {
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies received.
    pub received: u32,
}

impl PingReport {
    /// Parses the summary line "3 packets transmitted, 3 received, …".
    fn parse(output: &str) -> Option<Self> {
        let summary = output.lines().find(|line| line.contains("packets transmitted"))?;
        let mut numbers =
            summary.split(", ").map(|part| part.split(' ').next().and_then(|word| word.parse().ok()));
        Some(Self { sent: numbers.next()??, received: numbers.next()?? })
    }
}

/// The kernel's number for a namespace, which no other gets until the next boot.
///
/// # Errors
/// When the handle is not that of a network namespace, or is that of the host's own.
pub(crate) fn cookie(handle: &OwnedFd) -> Result<u64> {
    within(handle, netns_tag)?.context("no cookie")?.context("this is the host's own network namespace")
}

/// [`Netns::enter`].
fn within<T: Send>(handle: &OwnedFd, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = || setns(handle, CloneFlags::CLONE_NEWNET).map(|()| work());
        let thread = thread::Builder::new().name("in a namespace".to_owned()).spawn_scoped(scope, inside)?;
        Ok(thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?)
    })
}

fn sysctl_path(key: &str) -> Result<PathBuf> {
    let inside = key.starts_with("net/") && key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    ensure!(inside, "{key:?} is no network sysctl: write it like net/ipv6/conf/all/forwarding");
    Ok(PathBuf::from("/proc/sys").join(key))
}
