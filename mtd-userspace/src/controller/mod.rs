//! The controller: brings up device and data plane, keeps the slots of all sessions loaded, answers the control
//! socket, and leaves nothing behind.

mod clock;
mod core;
mod events;
mod host;
mod peer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::config::Config;
use crate::control;
use crate::status::Drop;

pub use self::core::Core;
pub use clock::{Clock, SystemClock};
pub use host::{Host, Stay, attach, detach, offline_status};

/// How often slots are looked after. Every slot is loaded many ticks before it is needed.
const TICK: Duration = Duration::from_millis(250);

/// Events that a slow reader of the control socket may lag behind before it loses some.
const EVENT_BACKLOG: usize = 1024;

/// How to run.
#[derive(Debug, Default)]
pub struct Options {
    /// File with a number of ns that is added to the wall clock, read again at each tick: for rehearsals of clock
    /// faults.
    pub wall_clock_offset_file: Option<PathBuf>,
}

/// Runs in the foreground until SIGINT or SIGTERM.
///
/// # Errors
/// When host, data plane or control socket cannot be set up. What had been set up by then is taken down again.
pub async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let clock = Box::new(SystemClock::new(options.wall_clock_offset_file));
    let (host, plane) = Host::up(&config).await?;
    let socket = config.socket.clone().unwrap_or_else(|| host.instance.socket());
    let result = serve(config, clock, &host, plane, &socket).await;
    let down = host.down().await;
    result.and(down)
}

async fn serve(
    config: Config,
    clock: Box<dyn Clock>,
    host: &Host,
    mut plane: crate::dataplane::Plane,
    socket: &std::path::Path,
) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (events, _) = broadcast::channel(EVENT_BACKLOG);
    let listener = control::server::bind(socket)?;
    let ring = plane.take_events()?;
    events::forward_program_logs(&mut plane);
    let mut core = Core::start(config, clock, host, plane)?;
    // The receive program comes last: from here on the prefixes are dark.
    core.attach(host)?;
    let core = Arc::new(Mutex::new(core));

    let (stop, stopped) = watch::channel(false);
    let source = Arc::new(Source { core: Arc::clone(&core), events: events.clone() });
    let server = tokio::spawn(control::server::serve(listener, source, until(stopped.clone())));
    let watcher = tokio::spawn(events::watch(ring, Arc::clone(&core), events, until(stopped)));

    info!("ready");
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => lock(&core).tick(),
            _ = interrupted.recv() => break info!("interrupted: stopping"),
            _ = terminated.recv() => break info!("terminated: stopping"),
        }
    }
    stop.send_replace(true);
    watcher.await.context("event watcher")?.context("event watcher")?;
    server.await.context("control socket")?.context("control socket")?;
    lock(&core).stop(host)
}

/// The lock cannot be poisoned for good: a panic while it was held is a bug that is already reported, and the state
/// behind it is brought up to date by the next tick.
fn lock(core: &Mutex<Core>) -> std::sync::MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(|poisoned| {
        warn!("going on after a panic");
        poisoned.into_inner()
    })
}

/// Ends when the value becomes true, or its sender goes.
async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender has gone, which ends the wait just as well.
    let _ = stopped.wait_for(|&stopped| stopped).await;
}

/// What the control socket serves.
struct Source {
    core: Arc<Mutex<Core>>,
    events: broadcast::Sender<Arc<Drop>>,
}

impl control::server::Source for Source {
    fn status(&self) -> control::server::StatusFuture<'_> {
        Box::pin(async { Ok(lock(&self.core).status()) })
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Drop>> {
        self.events.subscribe()
    }
}
