//! The controller: brings up device and data plane, keeps the slots of all sessions loaded, answers the control
//! socket, and leaves nothing behind.

mod clock;
mod core;
mod detach;
mod events;
mod guard;
mod hooks;
mod host;
mod lock;
mod machines;
mod meeting;
mod negotiated;
mod paths;
mod peer;
mod registrar;
mod service;
mod tables;
mod tunnel;
mod wire;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use self::hooks::When;
use self::meeting::Meeting;
use self::registrar::{Consequences, Registrar};
use self::service::Watchdog;
use self::tunnel::Tunnel;
use crate::config::{self, Change, Config, ConfigError, Written};
use crate::control::server::Answer;
use crate::control::{self, Reason, Refusal};
use crate::dataplane::{Maker, Plane, Worker};
use crate::device::{TunnelInfo, Underlay};
use crate::keys::PublicKey;
use crate::model::Enforcement;
use crate::status::{self, Drop, Registered, Reload, Setting, Status};
use crate::{health, metrics, privilege, web};

pub use self::core::Core;
pub use clock::{Clock, SystemClock};
pub use detach::{detach, detach_all};
pub use guard::{confirm, require_way_back, set_policy, watch};
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
    /// Another BPF object than the one that is built in, such as one whose programs write log lines.
    pub object: Option<PathBuf>,
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
    let mut watchdog = Watchdog::new();
    hooks::run(&config, When::PreUp).await?;
    let (host, plane, tunnel) = Host::up(&config, &options.enforcement, options.object.as_deref()).await?;
    let socket = config.socket.clone().unwrap_or_else(|| host.instance.socket());
    let metrics = match metrics_listener(&config, &host).await {
        Ok(metrics) => metrics,
        Err(error) => return Err(host.give_up(error).await),
    };
    let settings = (config.clone(), config_file);
    let running = match Running::start(settings, clock, &host, (plane, tunnel), (&socket, metrics)) {
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
    service::stopping();
    hooks::run_all(&config, When::PreDown).await;
    let stopped = lock(&running.core).stop(&host);
    running.finish().await;
    if let Ok(End::Unconfirmed) = served {
        stopped.and(host.open().await)?;
        hooks::run_all(&config, When::PostDown).await;
        bail!(
            "nobody said `mtd confirm {interface}` in time: detached from it, and nothing is dark any more"
        );
    }
    let down = host.down().await;
    hooks::run_all(&config, When::PostDown).await;
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

/// Where metrics are served over TCP, if they are.
async fn metrics_listener(config: &Config, host: &Host) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.metrics else { return Ok(None) };
    let prefixes = host::protected_prefixes(config, &host.underlay, &[]);
    if prefixes.iter().any(|prefix| IpNet::V6(*prefix).contains(&address.ip())) {
        bail!(
            "metrics cannot be served at {address}, which lies in the protected prefix; choose another one"
        );
    }
    metrics::server::bind(address).await.map(Some)
}

/// What asks the controller for something.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Whether somebody sits in front of it.
    terminal: bool,
}

/// What a signal asks for.
enum Request {
    /// To stop, and why.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            terminal: std::io::stdin().is_terminal(),
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop("interrupted"),
            _ = self.terminate.recv() => Request::Stop("terminated"),
            // A terminal that is closed; nothing should be left behind then either.
            _ = self.hangup.recv() => if self.terminal { Request::Stop("hung up") } else { Request::Reload },
        }
    }
}

/// A controller with everything attached.
struct Running {
    core: Arc<Mutex<Core>>,
    source: Arc<Source>,
    interface: String,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), control::ControlError>>,
    metrics: Option<JoinHandle<()>>,
    web: Option<JoinHandle<()>>,
    watchers: Vec<JoinHandle<std::io::Result<()>>>,
    meeting: Option<JoinHandle<()>>,
    tunnel: Arc<Tunnel>,
    keystream: Option<Worker>,
}

impl Running {
    fn start(
        (config, config_file): (Config, Option<PathBuf>),
        clock: Box<dyn Clock>,
        host: &Host,
        (mut plane, tunnel): (Plane, TunnelInfo),
        (socket, metrics): (&Path, Option<TcpListener>),
    ) -> anyhow::Result<Self> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let listener = control::server::bind(socket)?;
        let web = config.web.map(|address| web::server::bind(address, &host.instance.web_link()));
        let web = web.transpose()?;
        let (ring, control_ring) = (plane.take_events()?, plane.take_control()?);
        let keystream = plane.take_maker().map(Maker::spawn).transpose()?;
        events::forward_program_logs(&mut plane);
        let settings_file =
            config_file.clone().map(|path| Ok::<_, ConfigError>((Written::read(&path)?, path)));
        let settings_file = settings_file.transpose()?;
        let mut registrar = Registrar::load(&config, config_file, host.instance.leases(&config.state_dir))?;
        let (effects, requests) = mpsc::unbounded_channel();
        let clients = registrar.as_mut().map(Registrar::all).unwrap_or_default();
        let negotiated = machines::build(&config, host, &tunnel, clients, effects, clock.read())?;
        let device = Arc::new(Tunnel::new(host.tunnel_device(&config)));
        let meeting = Meeting::new(&config, Arc::clone(&device)).map(Arc::new);
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
            settings: settings_file.map(Mutex::new),
            metrics: metrics::Cache::default(),
        });
        let metrics = metrics.map(|listener| {
            let source = Arc::clone(&source) as Arc<dyn control::server::Source>;
            tokio::spawn(metrics::server::serve(listener, source, until(stopped.clone())))
        });
        let web = web.map(|listener| {
            let shown = Arc::clone(&source) as Arc<dyn control::server::Source>;
            tokio::spawn(web::server::serve(listener, shown, until(stopped.clone())))
        });
        let answering = Arc::clone(&source);
        let server = tokio::spawn(control::server::serve(listener, answering, until(stopped.clone())));
        let watchers = vec![
            tokio::spawn(events::watch(ring, Arc::clone(&core), events, until(stopped.clone()))),
            tokio::spawn(events::watch_control(control_ring, Arc::clone(&core), until(stopped))),
        ];
        let meeting = meeting.map(|meeting| tokio::spawn(meeting.serve(Arc::clone(&core), requests)));
        Ok(Self {
            core,
            source,
            interface,
            stop,
            server,
            metrics,
            web,
            watchers,
            meeting,
            tunnel: device,
            keystream,
        })
    }

    /// What remains to be done once everything is attached: the administrator's commands, and giving up the privileges that
    /// nothing needs any more.
    async fn settle(&self, config: &Config) -> anyhow::Result<()> {
        hooks::run(config, When::PostUp).await?;
        privilege::give_up_all_but(privilege::NET_ADMIN).context("cannot give up privileges")
    }

    /// Looks after slots and clocks until a signal comes, or the time to confirm is over.
    async fn serve(&self, signals: &mut Signals, watchdog: &mut Watchdog) -> anyhow::Result<End> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut lost = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let changed = {
                        let mut core = lock(&self.core);
                        core.tick();
                        watchdog.feed();
                        if core.is_unconfirmed() {
                            return Ok(End::Unconfirmed);
                        }
                        core.take_tunnel_changed()
                    };
                    if changed {
                        self.tunnel.update(&self.core).await;
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
                request = signals.next() => match request {
                    Request::Stop(why) => {
                        info!("{why}: stopping");
                        return Ok(End::Asked);
                    }
                    Request::Reload => {
                        service::reloading();
                        match self.source.read_again() {
                            Ok(reload) => service::log(&reload),
                            Err(refusal) => warn!("not reloaded: {refusal}"),
                        }
                        service::ready();
                    }
                },
            }
        }
    }

    /// Ends the tasks. What went wrong with them is logged: it must not keep the rest from being taken down.
    async fn finish(self) {
        self.stop.send_replace(true);
        drop(self.keystream);
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
        if let Some(metrics) = self.metrics
            && let Err(error) = metrics.await
        {
            warn!("metrics: {error}");
        }
        if let Some(web) = self.web
            && let Err(error) = web.await
        {
            warn!("web view: {error}");
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
    /// The settings in force, and the file that they came from.
    settings: Option<Mutex<(Written, PathBuf)>>,
    metrics: metrics::Cache,
}

impl Source {
    /// Reads configuration and registry again. What is about clients takes effect, the rest is only told.
    fn read_again(&self) -> Result<Reload, Refusal> {
        let Some(settings) = &self.settings else { return self.change(Registrar::reload) };
        let mut settings = settings.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_force, path) = &mut *settings;
        // As a whole, before anything is changed.
        Config::read(path).map_err(anyhow::Error::from)?;
        let in_file = Written::read(path).map_err(anyhow::Error::from)?;
        let mut reload = match &self.registrar {
            Some(_) => self.change(Registrar::reload)?,
            None => Reload { schema: status::SCHEMA, ..Reload::default() },
        };
        for change in in_force.changes(&in_file) {
            if self.registrar.is_some() && config::reloads(&change.key) {
                in_force.apply(&change);
            } else {
                let Change { key, before, after } = change;
                reload.settings.push(Setting { key, in_force: before, in_file: after });
            }
        }
        Ok(reload)
    }

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

    /// What this process knows; with the single sessions, whose addresses have to be derived, if `all`.
    fn collect(&self, all: bool) -> Status {
        let registrar =
            self.registrar.as_ref().map(|registrar| registrar.lock().unwrap_or_else(PoisonError::into_inner));
        let name_of = |key: &PublicKey| {
            registrar.as_ref().and_then(|registrar| registrar.name_of(key)).map(str::to_owned)
        };
        let core = lock(&self.core);
        let mut status = if all { core.status(&name_of) } else { core.overview() };
        let now = core.unix_now();
        drop(core);
        status.clients_registered = registrar.as_ref().map(|registrar| registrar.count() as u64);
        status.rendezvous = self.meeting.as_ref().map(|meeting| meeting.status(now));
        status
    }
}

impl control::server::Source for Source {
    fn status(&self) -> control::server::StatusFuture<'_> {
        Box::pin(async { Ok(health::examine(self.collect(true)).await) })
    }

    fn metrics(&self) -> control::server::MetricsFuture<'_> {
        Box::pin(self.metrics.get(async || Ok(metrics::render(&health::examine(self.collect(false)).await))))
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
        Box::pin(async { self.read_again() })
    }

    fn confirm(&self) -> Answer<'_, status::Guard> {
        Box::pin(async { lock(&self.core).confirm().map_err(|error| too_late(&error)) })
    }

    fn set_policy(&self, asked: Enforcement) -> Answer<'_, status::Guard> {
        Box::pin(async move { Ok(lock(&self.core).set_policy(&asked)?) })
    }
}
