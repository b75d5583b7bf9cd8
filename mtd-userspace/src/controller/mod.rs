//! The controller: brings up device and data plane, starts all subsystems, keeps the slots of all sessions loaded, and
//! leaves nothing behind.

mod board;
mod detach;
mod hooks;
pub(crate) mod host;
mod lock;
pub(crate) mod reload;
mod running;
mod service;
mod signals;
mod unattended;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use tracing::info;

use self::hooks::When;
use self::running::{End, Parts, Running};
use self::service::Watchdog;
use self::signals::Signals;
use crate::config::Config;
use crate::model::Enforcement;
use crate::sessions;

pub use crate::sessions::{Clock, SystemClock};
pub use detach::{detach, detach_all};
pub use host::{Host, Stay, attach, offline_status};
pub use unattended::{confirm, require_way_back, require_way_back_after_confirming, set_policy, watch};

/// The options of a run.
#[derive(Debug, Default)]
pub struct Options {
    /// The configuration file, of which `mtd reload` reads the registered clients again.
    pub config_file: Option<PathBuf>,
    /// File with a number of ns that is added to the wall clock, read again at each tick: for rehearsals of clock
    /// faults.
    pub wall_clock_offset_file: Option<PathBuf>,
    /// What to enforce.
    pub enforcement: Enforcement,
    /// Another BPF object than the one that is built in, such as one whose programs write log lines.
    pub object: Option<PathBuf>,
}

/// Nobody has confirmed the enforcement in time. The program has an exit status of its own for it: whoever starts the
/// controller again makes nothing dark until somebody has confirmed, or decided otherwise.
#[derive(Debug, thiserror::Error)]
#[error(
    "nobody said `mtd confirm {interface}` in time: detached from it, and nothing is dark any more; the next start enforces \
     nothing either until somebody confirms, or starts it with --policy dark"
)]
pub struct Unconfirmed {
    interface: String,
}

/// Runs in the foreground until SIGINT or SIGTERM. If nobody confirms in time that the prefixes may be dark, it stops and
/// removes everything, even a data plane that was to stay. If a task ends that the controller cannot do without, it stops as
/// in a crash: sessions go on as long as slots are loaded, and the prefixes stay dark.
///
/// # Errors
/// When host, data plane or control socket cannot be set up: what had been set up by then is taken down again. When nobody
/// has confirmed, or a task has ended.
pub async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock::new(options.wall_clock_offset_file));
    let interface = config.interface.clone();
    // Before anything else, so that no signal kills the process in the middle of the set-up.
    let mut signals = Signals::new()?;
    let mut watchdog = Watchdog::new();
    hooks::run(&config, When::PreUp).await?;
    let (host, plane, tunnel) = Host::up(&config, &options.enforcement, options.object.as_deref()).await?;
    let parts = Parts { config: config.clone(), config_file: options.config_file, clock, plane, tunnel };
    let running = match Running::start(parts, &host) {
        Ok(running) => running,
        Err(error) => return Err(host.give_up(error).await),
    };
    let served = match running.settle(&config).await {
        Ok(()) => {
            info!("ready");
            service::ready();
            running.serve(&mut signals, &mut watchdog).await
        }
        Err(error) => Err(error),
    };
    if let Ok(End::Failed(task)) = served {
        running.finish().await;
        bail!(
            "stopping, since task {task} has ended (see the log); what is attached to {interface} stays as after a crash, \
             and the next `mtd run` takes it over"
        );
    }
    service::stopping();
    hooks::run_all(&config, When::PreDown).await;
    let stopped = sessions::stop(running.sessions()).await;
    running.finish().await;
    if let Ok(End::Unconfirmed) = served {
        stopped.and(host.open().await)?;
        hooks::run_all(&config, When::PostDown).await;
        return Err(Unconfirmed { interface }.into());
    }
    let down = host.down().await;
    hooks::run_all(&config, When::PostDown).await;
    served.map(drop).and(stopped).and(down)
}
