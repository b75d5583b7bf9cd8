//! The controller: brings up device and data plane, keeps the slots of all sessions loaded, answers the control
//! socket, and leaves nothing behind.

mod clock;
mod core;
mod events;
mod host;
mod peer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::config::Config;
use crate::control;
use crate::dataplane::Plane;
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
    // First of all, so that no signal finds the work half done.
    let mut signals = Signals::new()?;
    let (host, plane) = Host::up(&config).await?;
    let socket = config.socket.clone().unwrap_or_else(|| host.instance.socket());
    let running = match Running::start(config, clock, &host, plane, &socket) {
        Ok(running) => running,
        Err(error) => return Err(host.give_up(error).await),
    };
    info!("ready");
    let served = running.serve(&mut signals).await;
    let stopped = lock(&running.core).stop(&host);
    running.finish().await;
    let down = host.down().await;
    served.and(stopped).and(down)
}

/// What asks the controller to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // A terminal that is closed; nothing should be left behind then either.
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.hangup.recv() => "hung up",
        }
    }
}

/// A controller with everything attached.
struct Running {
    core: Arc<Mutex<Core>>,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), control::ControlError>>,
    watcher: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(
        config: Config,
        clock: Box<dyn Clock>,
        host: &Host,
        mut plane: Plane,
        socket: &Path,
    ) -> anyhow::Result<Self> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let listener = control::server::bind(socket)?;
        let ring = plane.take_events()?;
        events::forward_program_logs(&mut plane);
        let mut core = Core::start(config, clock, host, plane)?;
        // The receive program comes last: from here on the prefixes are dark.
        if let Err(error) = core.attach(host) {
            core.abandon(host);
            return Err(error);
        }
        let core = Arc::new(Mutex::new(core));
        let (stop, stopped) = watch::channel(false);
        let source = Arc::new(Source { core: Arc::clone(&core), events: events.clone() });
        let server = tokio::spawn(control::server::serve(listener, source, until(stopped.clone())));
        let watcher = tokio::spawn(events::watch(ring, Arc::clone(&core), events, until(stopped)));
        Ok(Self { core, stop, server, watcher })
    }

    /// Looks after slots and clocks until a signal comes.
    async fn serve(&self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => lock(&self.core).tick(),
                what = signals.next() => {
                    info!("{what}: stopping");
                    return Ok(());
                }
            }
        }
    }

    /// Ends the tasks. What went wrong with them is logged: it must not keep the rest from being taken down.
    async fn finish(self) {
        self.stop.send_replace(true);
        match self.watcher.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("event watcher: {error}"),
            Err(error) => warn!("event watcher: {error}"),
        }
        match self.server.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("control socket: {error}"),
            Err(error) => warn!("control socket: {error}"),
        }
    }
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
