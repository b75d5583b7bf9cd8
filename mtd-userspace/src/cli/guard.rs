//! `mtd confirm`, `mtd policy`, and the process that detaches an interface if nobody confirms.

use std::io::{BufRead as _, BufReader, Write as _, stdout};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output;
use crate::control::{self, ControlError, ControlSocket, NewPolicy, own_interfaces};
use crate::controller::{self};
use crate::device::bpffs;
use crate::instance::RUN_DIR;
use crate::model::{Enforcement, Policy};
use crate::status::Guard;

/// Shortest and longest time to confirm.
const CONFIRM_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// What the detaching process prints as soon as it no longer depends on its parent.
const READY: &str = "ready";

/// A policy, as written on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PolicyArg {
    /// Drop packets that are not valid.
    Dark,
    /// Count packets that are not valid by reason, and pass them to the kernel.
    Monitor,
}

impl From<PolicyArg> for Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Dark => Self::Dark,
            PolicyArg::Monitor => Self::Monitor,
        }
    }
}

/// Options for making prefixes dark.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct EnforceArgs {
    /// Undo it after this time unless `mtd confirm` is run before; 1s to 24h.
    #[arg(long, value_name = "TIME", value_parser = confirm_within)]
    confirm_within: Option<Duration>,
    /// Do it even if it cuts the SSH connection over which this command is run.
    #[arg(long)]
    force: bool,
}

impl EnforceArgs {
    /// The enforcement that these options ask for with this policy. `None`: the policy of the configuration, or the one in
    /// force.
    pub(super) fn with(self, policy: Option<PolicyArg>) -> Enforcement {
        let (confirm_within, force) = (self.confirm_within, self.force);
        Enforcement { policy: policy.map(Into::into), confirm_within, force, again: false }
    }
}

fn confirm_within(text: &str) -> Result<Duration, String> {
    let (least, most) = CONFIRM_RANGE;
    match humantime::parse_duration(text) {
        Ok(time) if (least..=most).contains(&time) => Ok(time),
        _ => Err("write a time from 1s to 24h, such as 60s".to_owned()),
    }
}

/// Arguments of `mtd confirm`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mtd attach eth0 --confirm-within 60s    try it: check from another host that you can still log in, and then
  mtd confirm                             keep it; otherwise it is undone after 60 seconds

What nobody confirmed is noted in state_dir: `mtd run` enforces nothing from then on, and `mtd status` says so. `mtd confirm`
enforces it after all; `mtd policy eth0 dark --confirm-within 60s` tries it again first.

Exit status: 0 if what is attached stays, 1 if it is too late or nothing is attached.")]
pub(super) struct ConfirmArgs {
    /// The underlay interface [default: all that wait for a confirmation].
    #[arg(value_name = "IFACE")]
    interface: Option<String>,
    /// Control socket, if the configuration moved it.
    #[arg(long, value_name = "PATH", conflicts_with = "interface")]
    socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `mtd policy`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mtd policy eth0 monitor                 packets that would be dropped pass, and are counted: see `mtd drops`
  mtd policy eth0 dark --confirm-within 60s

Programs and sessions continue without interruption. Works with and without a controller. If the configuration has a line
policy = \"...\", that applies again at the next start.")]
pub(super) struct PolicyArgs {
    /// The underlay interface.
    #[arg(value_name = "IFACE")]
    interface: String,
    /// What to do with packets for the protected prefixes that are not valid.
    #[arg(value_enum)]
    policy: PolicyArg,
    #[command(flatten)]
    enforce: EnforceArgs,
    /// Control socket, if the configuration moved it.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `mtd guard`.
#[derive(Args, Debug)]
pub(super) struct GuardArgs {
    /// The underlay interface.
    #[arg(value_name = "IFACE")]
    interface: String,
}

/// One interface in the output of `--json`.
#[derive(Serialize)]
struct Changed<'a> {
    interface: &'a str,
    guard: &'a Guard,
}

pub(super) async fn confirm(args: ConfirmArgs) -> anyhow::Result<()> {
    let sockets = match (&args.socket, &args.interface) {
        (Some(path), _) => {
            vec![ControlSocket { interface: path.display().to_string(), path: path.clone() }]
        }
        (None, Some(interface)) => vec![ControlSocket::of(Path::new(RUN_DIR), interface)?],
        (None, None) => all()?,
    };
    ensure!(!sockets.is_empty(), "nothing of mtd is attached in this network namespace");
    let mut changed = Vec::new();
    for socket in sockets {
        if args.socket.is_none() {
            controller::require_way_back_after_confirming(&socket.interface)?;
        }
        let guard = match control::client::confirm(&socket.path).await {
            Err(ControlError::NotRunning { .. }) if args.socket.is_none() => {
                controller::confirm(&socket.interface)?
            }
            answer => answer?,
        };
        changed.push((socket.interface, guard));
    }
    report(&changed, args.json, |guard| format!("confirmed: {} to stay", guard.policy))
}

/// The control sockets of everything that is attached in this network namespace.
fn all() -> Result<Vec<ControlSocket>, ControlError> {
    let pins = own_interfaces(&Path::new(bpffs::DEFAULT_PATH).join("mtd"), "")?;
    // Names in bpffs have colons in place of dots.
    pins.iter().map(|name| ControlSocket::of(Path::new(RUN_DIR), &name.replace(':', "."))).collect()
}

pub(super) async fn policy(args: PolicyArgs) -> anyhow::Result<()> {
    let asked = args.enforce.with(Some(args.policy));
    controller::require_way_back(&args.interface, &asked)?;
    let socket = match args.socket {
        Some(path) => path,
        None => ControlSocket::of(Path::new(RUN_DIR), &args.interface)?.path,
    };
    let document = NewPolicy {
        policy: Policy::from(args.policy).to_string(),
        confirm_within_ms: asked.confirm_within.map(|within| within.as_millis() as u64),
    };
    let guard = match control::client::set_policy(&socket, &document).await {
        Err(ControlError::NotRunning { .. }) => {
            let guard = controller::set_policy(&args.interface, &asked)?;
            if guard.confirm_seconds_left.is_some() {
                spawn(&args.interface)?;
            }
            guard
        }
        answer => answer?,
    };
    report(&[(args.interface, guard)], args.json, |guard| format!("policy {}", guard.policy))
}

fn report(changed: &[(String, Guard)], json: bool, say: impl Fn(&Guard) -> String) -> anyhow::Result<()> {
    if json {
        let instances: Vec<_> =
            changed.iter().map(|(interface, guard)| Changed { interface, guard }).collect();
        return output::print(&super::status::json(instances)?);
    }
    let line = |(interface, guard): &(String, Guard)| {
        let left = guard.confirm_seconds_left.map_or_else(String::new, |left| {
            format!("; open again in {left:.0} s unless you say `mtd confirm {interface}`")
        });
        format!("{interface}: {}{left}\n", say(guard))
    };
    output::print(&changed.iter().map(line).collect::<Vec<_>>().concat())
}

/// Starts the process that detaches an interface if nobody confirms. It outlives this process, its terminal and its login
/// session.
pub(super) fn spawn(interface: &str) -> anyhow::Result<()> {
    // Runs this very program, even if its file has been replaced.
    let mut child = Command::new("/proc/self/exe")
        .arg0("mtd")
        .args(["guard", interface])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the process that detaches the interface if nobody confirms")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.trim() != READY {
        bail!("the process that detaches the interface if nobody confirms ended at once ({})", child.wait()?);
    }
    Ok(())
}

/// `mtd guard`.
pub(super) async fn guard(args: GuardArgs) -> anyhow::Result<()> {
    // In a session of its own, so that closing the terminal does not end it.
    nix::unistd::setsid().context("cannot begin a session")?;
    let mut output = stdout();
    writeln!(output, "{READY}").and_then(|()| output.flush()).context("nobody waits for this process")?;
    controller::watch(&args.interface).await
}
