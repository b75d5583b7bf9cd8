//! `mtd status`: shows what is running on this host, in the style of `wg show`.

mod guard;
mod human;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;

pub(super) use self::guard::would_be_dropped;
use self::human::{human, list};
use super::output::{self, Style};
use crate::control::{self, ControlError, ControlSocket};
use crate::device::bpffs;
use crate::health;
use crate::instance::{Instance, RUN_DIR};
use crate::status::{SCHEMA, Status};

/// Exit status: programs are attached somewhere without a running controller.
const NO_CONTROLLER: u8 = 3;

/// Exit status: nothing of mtd is attached.
const NOTHING: u8 = 4;

/// Show interfaces, peers, slots, traffic and drops
///
/// Without --interface or --socket: shows everything in this network namespace, including a data plane whose controller is
/// gone.
///
/// Exit status: 0 if all controllers answer, even with warnings; 1 if one does not answer; 2 for a wrong command line;
/// 3 if programs are attached without a controller; 4 if nothing is attached.
///
/// With --json: one object, {"schema": 1, "instances": [...]}, with one element for each interface whose controller
/// answered: none, one or several. Fields may be added to a schema, but are never changed or removed; docs/status.md says
/// what they mean.
///
/// With --watch, on a terminal: a view that is updated in place, with rates and the moving addresses of sessions; `q` or
/// Ctrl-C ends it. If standard output is not a terminal, each update is printed below the last.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd status\n  \
    sudo mtd status --interface eth0\n  \
    sudo mtd status --watch\n  \
    sudo mtd status --json | jq '.instances[].peers[] | {name, state}'")]
pub(super) struct StatusArgs {
    /// The controllers to ask.
    #[command(flatten)]
    pub select: Select,

    /// Print JSON
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,

    /// Show the status again every SECS seconds, 0.1 to 3600
    #[arg(short, long, value_name = "SECS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    pub watch: Option<Duration>,
}

/// Parses the number of seconds between two updates.
fn interval(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("not a number of seconds from 0.1 to 3600")
}

/// Options that select the controllers to ask.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Select {
    /// Underlay interface [default: all in this network namespace]
    #[arg(short, long, value_name = "IFACE", value_parser = interface_name)]
    pub interface: Option<String>,

    /// Control socket, if the configuration moved it
    #[arg(long, value_name = "PATH", conflicts_with = "interface")]
    pub socket: Option<PathBuf>,
}

impl Select {
    /// The sockets to ask in `run_dir`, existing or not.
    ///
    /// # Errors
    /// There is no socket, or the folder cannot be read.
    pub(super) fn sockets(&self, run_dir: &Path) -> Result<Vec<ControlSocket>, ControlError> {
        if let Some(path) = &self.socket {
            return Ok(vec![ControlSocket { interface: path.display().to_string(), path: path.clone() }]);
        }
        let sockets = control::find_sockets(run_dir, self.interface.as_deref())?;
        if sockets.is_empty() { Err(nothing_runs()) } else { Ok(sockets) }
    }
}

fn nothing_runs() -> ControlError {
    ControlError::NotRunning { owner: "any interface of this network namespace".to_owned() }
}

/// Parses the name of an interface, as the kernel allows it.
fn interface_name(name: &str) -> Result<String, &'static str> {
    let allowed = (1..=15).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
        && name != "."
        && name != "..";
    if allowed { Ok(name.to_owned()) } else { Err("not the name of an interface; see `ip link`") }
}

/// Shows the status of the selected controllers. `offline` returns what is known about an instance whose data plane is
/// attached without a running controller.
///
/// # Errors
/// Standard output cannot be written. If a controller is missing or does not answer, that is no error here: the exit status
/// and standard error say so.
pub(super) async fn run(
    args: &StatusArgs,
    offline: impl Fn(&Instance) -> Option<Status>,
) -> anyhow::Result<ExitCode> {
    let look = async || {
        let mut answers = Answers::collect(&args.select, &Places::default(), &offline).await;
        for status in answers.statuses.iter_mut().filter(|status| status.pid.is_none()) {
            *status = health::examine(std::mem::take(status)).await;
        }
        answers
    };
    if let Some(every) = args.watch {
        return watch::run(every, look).await;
    }
    let answers = look().await;
    let code = answers.exit_code();
    if args.json {
        output::print(&json(answers.statuses)?)?;
    } else if !answers.statuses.is_empty() {
        output::print(&human(&answers.statuses, Style::of_stdout(), unix_now()))?;
    }
    if let Err(error) = joined(answers.failures.into_iter().map(Into::into).collect()) {
        super::complain(&error);
    }
    Ok(code)
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The folders in which running instances can be found.
pub(super) struct Places {
    /// The folder of the control sockets.
    pub(super) run: PathBuf,
    /// The folder that has a folder of pins for each instance.
    pub(super) pins: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { run: RUN_DIR.into(), pins: Path::new(bpffs::DEFAULT_PATH).join("mtd") }
    }
}

/// The answers of the selected controllers.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the interfaces.
    pub(super) statuses: Vec<Status>,
    /// Why the other controllers gave no status.
    pub(super) failures: Vec<ControlError>,
}

impl Answers {
    /// Asks the selected controllers, and `offline` about those that are not running. Having no controller to ask is a
    /// failure too.
    pub(super) async fn collect(
        select: &Select,
        places: &Places,
        offline: impl Fn(&Instance) -> Option<Status>,
    ) -> Self {
        Self::try_collect(select, places, offline)
            .await
            .unwrap_or_else(|failure| Self { statuses: Vec::new(), failures: vec![failure] })
    }

    async fn try_collect(
        select: &Select,
        places: &Places,
        offline: impl Fn(&Instance) -> Option<Status>,
    ) -> Result<Self, ControlError> {
        let mut answers = Self { statuses: Vec::new(), failures: Vec::new() };
        if let Some(socket) = &select.socket {
            answers.add(control::client::status(socket).await);
            return Ok(answers);
        }
        let interfaces = match &select.interface {
            Some(interface) => BTreeSet::from([interface.clone()]),
            None => control::find_sockets(&places.run, None)?
                .into_iter()
                .map(|socket| socket.interface)
                .chain(control::own_interfaces(&places.pins, "")?)
                .collect(),
        };
        for interface in &interfaces {
            let socket = ControlSocket::of(&places.run, interface)?;
            let answer = match control::client::status(&socket.path).await {
                Err(ControlError::NotRunning { .. }) => {
                    let instance = Instance::of(interface).map_err(ControlError::Namespace)?;
                    offline(&instance).ok_or(ControlError::NotRunning { owner: interface.clone() })
                }
                answer => answer,
            };
            answers.add(answer);
        }
        if interfaces.is_empty() { Err(nothing_runs()) } else { Ok(answers) }
    }

    /// The exit status for these answers.
    fn exit_code(&self) -> ExitCode {
        let absent = |failure: &ControlError| matches!(failure, ControlError::NotRunning { .. });
        if !self.failures.iter().all(absent) {
            ExitCode::FAILURE
        } else if self.statuses.is_empty() {
            NOTHING.into()
        } else if !self.failures.is_empty() || self.statuses.iter().any(|status| status.pid.is_none()) {
            NO_CONTROLLER.into()
        } else {
            ExitCode::SUCCESS
        }
    }

    fn add(&mut self, answer: Result<Status, ControlError>) {
        match answer {
            Ok(status) => self.statuses.push(status),
            Err(error) => self.failures.push(error),
        }
    }
}

/// Success if there are no failures, otherwise all of them as one error.
///
/// # Errors
/// There are failures.
pub(super) fn joined(mut failures: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => {
            let texts: Vec<_> = failures.iter().map(|failure| format!("{failure:#}")).collect();
            Err(anyhow::Error::msg(texts.join("\n")))
        }
    }
}

/// The document that `--json` prints: the same shape for any number of instances.
///
/// # Errors
/// Never in practice: every document can be written as JSON.
pub(super) fn json<T: Serialize>(instances: Vec<T>) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Document<T> {
        schema: u32,
        instances: Vec<T>,
    }
    Ok(serde_json::to_string_pretty(&Document { schema: SCHEMA, instances })? + "\n")
}

#[cfg(test)]
pub(super) mod tests;
