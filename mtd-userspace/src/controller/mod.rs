//! The controller: brings up device and data plane, starts all subsystems, keeps the slots of all sessions loaded, and
//! leaves nothing behind.

mod board;
mod bypass;
mod detach;
mod hooks;
pub(crate) mod host;
mod lock;
pub(crate) mod reload;
mod running;
mod service;
mod signals;
mod unattended;
mod wait;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use tracing::{info, warn};

use self::hooks::When;
use self::lock::Lock;
use self::running::{End, Parts, Running};
use self::service::Watchdog;
use self::signals::Signals;
use self::wait::Waited;
use crate::config::Config;
use crate::device;
use crate::instance::Instance;
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
    /// File with a number of ns that is added to the wall clock, and perhaps a second one for which the host counts as having
    /// slept, read again at each tick: for rehearsals of clock faults.
    pub wall_clock_offset_file: Option<PathBuf>,
    /// File that stands for the identifier of the virtual machine's generation, read again at each tick: for rehearsals of
    /// copies.
    pub vm_generation_file: Option<PathBuf>,
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
    let clock = Arc::new(SystemClock::new(options.wall_clock_offset_file.clone()));
    let interface = config.interface.clone();
    // Before anything else, so that no signal kills the process in the middle of the set-up.
    let mut signals = Signals::new()?;
    let mut watchdog = Watchdog::new();
    hooks::run(&config, When::PreUp).await?;
    // Boxed: the future of a whole start is large.
    let start = Box::pin(start(&config, &options, clock, (&mut signals, &mut watchdog)));
    let started = device::patiently(start).await?;
    let Some((host, running)) = started else {
        service::stopping();
        hooks::run_all(&config, When::PostDown).await;
        return Ok(());
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
        stopped.and(device::patiently(Box::pin(host.open())).await)?;
        hooks::run_all(&config, When::PostDown).await;
        return Err(Unconfirmed { interface }.into());
    }
    let down = device::patiently(Box::pin(host.down())).await;
    hooks::run_all(&config, When::PostDown).await;
    if let Ok(End::Replaced) = served {
        stopped.and(down)?;
        bail!(
            "{interface} was removed and made anew, and the programs went with the old one: stopped, so that the next \
             `mtd run` attaches them to the new one (the unit of the package starts again by itself)"
        );
    }
    served.map(drop).and(stopped).and(down)
}

/// Waits for the interface, prepares the host and attaches everything. `None`: it was asked to stop while it waited.
async fn start(
    config: &Config,
    options: &Options,
    clock: Arc<SystemClock>,
    (signals, watchdog): (&mut Signals, &mut Watchdog),
) -> anyhow::Result<Option<(Host, Running)>> {
    let instance = Instance::of(&config.interface)?;
    let mut patience = wait::Patience::of(config);
    loop {
        let lock = Lock::take(&instance)?;
        if patience.until_there(config, &instance, (&mut *signals, &mut *watchdog)).await? == Waited::Asked {
            return Ok(None);
        }
        let failed = match bring_up(config, options, Arc::clone(&clock), (instance.clone(), lock)).await {
            Ok(started) => return Ok(Some(started)),
            Err(error) => error,
        };
        // It may go again while the programs are loaded.
        if !patience.goes_on(config).await {
            return Err(failed);
        }
        warn!("{} has gone during the start: {failed:#}", config.interface);
    }
}

async fn bring_up(
    config: &Config,
    options: &Options,
    clock: Arc<SystemClock>,
    names: (Instance, Lock),
) -> anyhow::Result<(Host, Running)> {
    let (host, plane, tunnel) =
        Host::up(config, &options.enforcement, options.object.as_deref(), names).await?;
    let (config_file, generation) = (options.config_file.clone(), options.vm_generation_file.clone());
    let parts = Parts { config: config.clone(), config_file, generation, clock, plane, tunnel };
    match Running::start(parts, &host) {
        Ok(running) => Ok((host, running)),
        Err(error) => Err(host.give_up(error).await),
    }
}
