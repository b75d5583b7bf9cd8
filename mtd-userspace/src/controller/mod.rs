//! The controller: brings up device and data plane, keeps the slots of all sessions loaded, answers the control
//! socket, and leaves nothing behind.

mod clock;
mod core;
mod detach;
mod events;
mod guard;
mod host;
mod lock;
mod machines;
mod meeting;
mod negotiated;
mod peer;
mod registrar;
mod tables;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use self::meeting::Meeting;
use self::registrar::{Consequences, Registrar};
use crate::config::Config;
use crate::control::server::Answer;
use crate::control::{self, Reason, Refusal};
use crate::dataplane::Plane;
use crate::device::{TunnelInfo, Underlay};
use crate::keys::PublicKey;
use crate::status::{self, Drop, Registered, Reload};

pub use self::core::Core;
pub use clock::{Clock, SystemClock};
pub use detach::{detach, detach_all};
pub use guard::{Enforcement, confirm, require_way_back, set_policy, watch};
pub use host::{Host, Stay, attach, offline_status};

/// How often slots are looked after. Every slot is loaded many ticks before it is needed.
const TICK: Duration = Duration::from_millis(100);

/// How often the underlay is looked at: a host that moves has another prefix.
const LOOK: Duration = Duration::from_millis(500);

/// Events that a slow reader of the control socket may lag behind before it loses some.
const EVENT_BACKLOG: usize = 1024;

/// How to run.
#[derive(Debug, Default)]
pub struct Options {
    /// The configuration file, of which `mtd reload` reads the registered clients again.
    pub config_file: Option<PathBuf>,
    /// File with a number of ns that is added to the wall clock, read again at each tick: for rehearsals of clock
    /// faults.
    pub wall_clock_offset_file: Option<PathBuf>,
    /// What to enforce.
    pub enforcement: Enforcement,
}

/// Runs in the foreground until SIGINT or SIGTERM, or until nobody has confirmed in time that the prefixes may be dark:
/// then everything is taken down, also what was to stay.
///
/// # Errors
/// When host, data plane or control socket cannot be set up: what had been set up by then is taken down again. When nobody
/// has confirmed.
pub async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let clock = Box::new(SystemClock::new(options.wall_clock_offset_file));
    let config_file = options.config_file;
    let interface = config.interface.clone();
    // First of all, so that no signal finds the work half done.
    let mut signals = Signals::new()?;
    let (host, plane, tunnel) = Host::up(&config, &options.enforcement).await?;
    let socket = config.socket.clone().unwrap_or_else(|| host.instance.socket());
    let running = match Running::start((config, config_file), clock, &host, (plane, tunnel), &socket) {
        Ok(running) => running,
        Err(error) => return Err(host.give_up(error).await),
    };
    info!("ready");
    let served = running.serve(&mut signals).await;
    let stopped = lock(&running.core).stop(&host);
    running.finish().await;
    if let Ok(End::Unconfirmed) = served {
        stopped.and(host.open().await)?;
        bail!(
            "nobody said `mtd confirm {interface}` in time: detached from it, and nothing is dark any more"
        );
    }
    let down = host.down().await;
    served.map(drop).and(stopped).and(down)
}

/// Why a controller stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A signal.
    Asked,
    /// Nobody has confirmed in time.
    Unconfirmed,
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
    interface: String,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), control::ControlError>>,
    watchers: Vec<JoinHandle<std::io::Result<()>>>,
    meeting: Option<JoinHandle<()>>,
}

impl Running {
    fn start(
        (config, config_file): (Config, Option<PathBuf>),
        clock: Box<dyn Clock>,
        host: &Host,
        (mut plane, tunnel): (Plane, TunnelInfo),
        socket: &Path,
    ) -> anyhow::Result<Self> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let listener = control::server::bind(socket)?;
        let (ring, control_ring) = (plane.take_events()?, plane.take_control()?);
        events::forward_program_logs(&mut plane);
        let mut registrar = Registrar::load(&config, config_file, host.instance.leases(&config.state_dir))?;
        let (effects, requests) = mpsc::unbounded_channel();
        let clients = registrar.as_mut().map(Registrar::all).unwrap_or_default();
        let negotiated = machines::build(&config, host, &tunnel, clients, effects, clock.read())?;
        let meeting = Meeting::new(&config, host.tunnel_device(&config)).map(Arc::new);
        let settings = host.settings(&config, &host.underlay, &tunnel);
        let interface = config.interface.clone();
        let mut core = Core::start(config, clock, host, (plane, settings), negotiated)?;
        // The receive program comes last: from here on the prefixes are dark.
        if let Err(error) = core.attach(host) {
            core.abandon(host);
            return Err(error);
        }
        let core = Arc::new(Mutex::new(core));
        let (stop, stopped) = watch::channel(false);
        let source = Arc::new(Source {
            core: Arc::clone(&core),
            events: events.clone(),
            meeting: meeting.clone(),
            registrar: registrar.map(Mutex::new),
        });
        let server = tokio::spawn(control::server::serve(listener, source, until(stopped.clone())));
        let watchers = vec![
            tokio::spawn(events::watch(ring, Arc::clone(&core), events, until(stopped.clone()))),
            tokio::spawn(events::watch_control(control_ring, Arc::clone(&core), until(stopped))),
        ];
        let meeting = meeting.map(|meeting| tokio::spawn(meeting.serve(Arc::clone(&core), requests)));
        Ok(Self { core, interface, stop, server, watchers, meeting })
    }

    /// Looks after slots and clocks until a signal comes, or the time to confirm is over.
    async fn serve(&self, signals: &mut Signals) -> anyhow::Result<End> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut lost = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let mut core = lock(&self.core);
                    core.tick();
                    if core.is_unconfirmed() {
                        return Ok(End::Unconfirmed);
                    }
                }
                _ = looks.tick() => match Underlay::inspect(&self.interface).await {
                    Ok(underlay) => {
                        lost = false;
                        lock(&self.core).handle_underlay(&underlay);
                    }
                    Err(error) => {
                        if !lost {
                            warn!("{error}");
                        }
                        lost = true;
                    }
                },
                what = signals.next() => {
                    info!("{what}: stopping");
                    return Ok(End::Asked);
                }
            }
        }
    }

    /// Ends the tasks. What went wrong with them is logged: it must not keep the rest from being taken down.
    async fn finish(self) {
        self.stop.send_replace(true);
        if let Some(meeting) = self.meeting {
            meeting.abort();
        }
        for watcher in self.watchers {
            match watcher.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("event watcher: {error}"),
                Err(error) => warn!("event watcher: {error}"),
            }
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

fn too_late(error: &anyhow::Error) -> Refusal {
    Refusal::new(Reason::Conflict, format!("{error:#}"))
}

/// What the control socket serves.
struct Source {
    core: Arc<Mutex<Core>>,
    events: broadcast::Sender<Arc<Drop>>,
    meeting: Option<Arc<Meeting>>,
    registrar: Option<Mutex<Registrar>>,
}

impl Source {
    /// Works on the registry, and tells the sessions what follows from it.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Registrar) -> Result<(T, Consequences), Refusal>,
    ) -> Result<T, Refusal> {
        let registrar = self.registrar.as_ref().ok_or_else(Refusal::not_a_server)?;
        let mut registrar = registrar.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, consequences) = work(&mut registrar)?;
        lock(&self.core).apply(consequences);
        Ok(answer)
    }
}

impl control::server::Source for Source {
    fn status(&self) -> control::server::StatusFuture<'_> {
        Box::pin(async {
            let registrar = self
                .registrar
                .as_ref()
                .map(|registrar| registrar.lock().unwrap_or_else(PoisonError::into_inner));
            let name_of = |key: &PublicKey| {
                registrar.as_ref().and_then(|registrar| registrar.name_of(key)).map(str::to_owned)
            };
            let mut status = lock(&self.core).status(&name_of);
            status.clients_registered = registrar.as_ref().map(|registrar| registrar.count() as u64);
            let now = lock(&self.core).unix_now();
            status.rendezvous = self.meeting.as_ref().map(|meeting| meeting.status(now));
            Ok(status)
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Drop>> {
        self.events.subscribe()
    }

    fn peers(&self) -> Answer<'_, Registered> {
        Box::pin(async { self.change(|registrar| Ok((registrar.document(), Consequences::default()))) })
    }

    fn add_peer(&self, name: String, key: PublicKey) -> Answer<'_, status::Client> {
        Box::pin(async move { self.change(|registrar| registrar.add(&name, key)) })
    }

    fn remove_peer(&self, name: String) -> Answer<'_, status::Client> {
        Box::pin(async move { self.change(|registrar| registrar.remove(&name)) })
    }

    fn reload(&self) -> Answer<'_, Reload> {
        Box::pin(async { self.change(Registrar::reload) })
    }

    fn confirm(&self) -> Answer<'_, status::Guard> {
        Box::pin(async { lock(&self.core).confirm().map_err(|error| too_late(&error)) })
    }

    fn set_policy(&self, asked: Enforcement) -> Answer<'_, status::Guard> {
        Box::pin(async move { Ok(lock(&self.core).set_policy(&asked)?) })
    }
}
