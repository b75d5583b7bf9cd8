//! A controller with everything attached: start, work and end of its parts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::board::Board;
use super::hooks::{self, When};
use super::host::Host;
use super::reload::Reloader;
use super::service::{self, Watchdog};
use super::signals::{Request, Signals};
use crate::claims::Claims;
use crate::config::Config;
use crate::control;
use crate::copies::Copies;
use crate::dataplane::Plane;
use crate::device::{TunnelInfo, Underlay};
use crate::events::Bus;
use crate::keystream::KeyStream;
use crate::neighbours::Neighbours;
use crate::registry::Registrations;
use crate::rendezvous::Meeting;
use crate::resolver::Resolver;
use crate::rings::{self, Rings};
use crate::sessions::{self, Clock, Sessions, first_prefixes};
use crate::subsystem::{Context, Shutdown, Subsystem, Tasks, Tunnel};
use crate::upkeep::Upkeep;
use crate::{metrics, privilege, web};

/// Interval at which slots are loaded and unloaded. Every slot is loaded many ticks before it is needed.
const TICK: Duration = Duration::from_millis(100);

/// Interval at which the underlay is checked: a host that moves gets another prefix.
const LOOK: Duration = Duration::from_millis(500);

/// What a controller is started with.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) config_file: Option<PathBuf>,
    pub(super) generation: Option<PathBuf>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) plane: Plane,
    pub(super) tunnel: TunnelInfo,
}

/// Why a controller stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A signal.
    Asked,
    /// Nobody has confirmed in time.
    Unconfirmed,
    /// The interface was removed, and there is another one of its name.
    Replaced,
    /// This task has ended, and the controller cannot do without it.
    Failed(&'static str),
}

/// What a look at the underlay has found.
enum Found {
    Same,
    /// There is no such interface.
    Nothing,
    /// Another interface has the name: a USB adapter that was plugged in again, a container's cable that was made anew.
    Another,
}

/// The subsystems, those that the configuration asks for.
struct Subsystems {
    rings: Arc<Rings>,
    keystream: Option<Arc<KeyStream>>,
    claims: Option<Arc<Claims>>,
    copies: Arc<Copies>,
    upkeep: Arc<Upkeep>,
    neighbours: Option<Arc<Neighbours>>,
    resolver: Option<Arc<Resolver>>,
    registry: Arc<Registrations>,
    rendezvous: Option<Arc<Meeting>>,
    reload: Arc<Reloader>,
    metrics: Option<Arc<metrics::server::Server>>,
    web: Option<Arc<web::server::View>>,
}

impl Subsystems {
    /// All subsystems, in the order in which they start.
    fn all(&self) -> Vec<Arc<dyn Subsystem>> {
        fn part<S: Subsystem>(subsystem: Option<&Arc<S>>) -> Option<Arc<dyn Subsystem>> {
            subsystem.cloned().map(|subsystem| subsystem as Arc<dyn Subsystem>)
        }
        let always: [Arc<dyn Subsystem>; 5] = [
            self.rings.clone(),
            self.registry.clone(),
            self.reload.clone(),
            self.copies.clone(),
            self.upkeep.clone(),
        ];
        let asked_for = [
            part(self.keystream.as_ref()),
            part(self.claims.as_ref()),
            part(self.neighbours.as_ref()),
            part(self.resolver.as_ref()),
            part(self.rendezvous.as_ref()),
            part(self.metrics.as_ref()),
            part(self.web.as_ref()),
        ];
        always.into_iter().chain(asked_for.into_iter().flatten()).collect()
    }
}

/// A controller with everything attached.
pub(super) struct Running {
    context: Context,
    reload: Arc<Reloader>,
    subsystems: Vec<Arc<dyn Subsystem>>,
    interface: String,
    /// Index of the interface that the programs are attached to.
    ifindex: u32,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Attaches the programs and starts everything.
    ///
    /// # Errors
    /// When a part cannot start. The caller undoes the changes to the host by [`Host::give_up`].
    pub(super) fn start(parts: Parts, host: &Host) -> anyhow::Result<Self> {
        let Parts { config, config_file, generation, clock, mut plane, tunnel } = parts;
        let interface = config.interface.clone();
        let socket = config.socket.clone().unwrap_or_else(|| host.instance.socket());
        let listener = control::server::bind(&socket)?;
        let (effects, asked) = mpsc::unbounded_channel();
        let leases = host.instance.leases(&config.state_dir);
        let registry = Registrations::load(&config, leases, Arc::clone(&clock))?;
        let web = config.web.map(|address| web::server::View::bind(address, &host.instance.web_link()));
        let device = Arc::new(Tunnel::new(host.tunnel_device(&config)));
        let subsystems = Subsystems {
            rings: Rings::take(&mut plane)?,
            keystream: KeyStream::take(&mut plane),
            claims: Claims::new(&config),
            copies: Copies::new(generation),
            upkeep: Upkeep::new(&config, Arc::clone(&device)),
            neighbours: Neighbours::open(&config, &host.underlay).context("announcing addresses")?,
            resolver: Resolver::new(&config),
            rendezvous: Meeting::new(&config, host.instance.nodes(&config.state_dir), asked, host.mark),
            reload: Reloader::new(config_file, Arc::clone(&registry))?,
            metrics: metrics_server(&config, host)?,
            web: web.transpose()?,
            registry,
        };
        rings::forward_program_logs(&mut plane);
        let clients = subsystems.registry.all();
        let machines = sessions::build(&config, &host.ground(&tunnel), clients, effects, clock.read())?;
        let settings = host.settings(&config, &host.underlay, &tunnel);
        let files = sessions::Files { state: host.state.clone(), pins: host.pins().clone() };
        let mut core =
            Sessions::start(config, Box::new(Arc::clone(&clock)), files, (plane, settings), machines)?;
        let own = Arc::clone(&clock);
        let bus = Arc::new(Bus::new(move || own.read().wall.0));
        core.tell(Arc::clone(&bus));
        // The receive program comes last: from here on the prefixes are dark.
        if let Err(error) = core.attach(|config, plane| host.attach(config, plane)) {
            core.abandon();
            return Err(error);
        }
        let sessions = Arc::new(Mutex::new(core));
        let (stop, shutdown) = Shutdown::new();
        let tasks = Tasks::new(Arc::clone(&bus), shutdown);
        let (reload, subsystems) = (Arc::clone(&subsystems.reload), subsystems.all());
        let reports = Arc::new(Board {
            sessions: Arc::clone(&sessions),
            bus: Arc::clone(&bus),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            subsystems: subsystems.clone(),
            rendered: metrics::Cache::default(),
        });
        let note = host.note.clone();
        let context = Context { sessions, bus, clock, tunnel: device, tasks, reports, note };
        let ifindex = host.underlay.ifindex;
        let running = Self { context, reload, subsystems, interface, ifindex, stop };
        if let Err(error) = running.begin(listener) {
            running.context.sessions().abandon();
            return Err(error);
        }
        Ok(running)
    }

    /// Starts the subsystems, then the control socket.
    fn begin(&self, listener: crate::http::unix::Listener) -> anyhow::Result<()> {
        let mut routes = Router::new();
        for subsystem in &self.subsystems {
            Arc::clone(subsystem).start(&self.context).with_context(|| subsystem.name())?;
            routes = routes.merge(Arc::clone(subsystem).routes(&self.context));
        }
        control::server::start(listener, routes, &self.context)?;
        Ok(())
    }

    /// The sessions.
    pub(super) fn sessions(&self) -> &Mutex<Sessions> {
        &self.context.sessions
    }

    /// The last steps of a start: running the administrator's commands, and dropping the privileges that are no longer
    /// needed.
    pub(super) async fn settle(&self, config: &Config) -> anyhow::Result<()> {
        hooks::run(config, When::PostUp).await?;
        privilege::give_up_all_but(privilege::NET_ADMIN).context("cannot give up privileges")
    }

    /// Updates slots and clocks until there is a reason to stop.
    pub(super) async fn serve(&self, signals: &mut Signals, watchdog: &mut Watchdog) -> anyhow::Result<End> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut lost = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => if let Some(end) = self.tick(watchdog).await {
                    return Ok(end);
                },
                _ = looks.tick() => match self.look(lost).await {
                    Found::Same => lost = false,
                    Found::Nothing => lost = true,
                    Found::Another => return Ok(End::Replaced),
                },
                task = self.context.tasks.fatal_end() => return Ok(End::Failed(task)),
                request = signals.next() => match request {
                    Request::Stop(why) => {
                        info!("{why}: stopping");
                        return Ok(End::Asked);
                    }
                    Request::Reload => self.reload(),
                },
            }
        }
    }

    async fn tick(&self, watchdog: &mut Watchdog) -> Option<End> {
        let changed = {
            let mut sessions = self.context.sessions();
            sessions.tick();
            watchdog.feed();
            if sessions.is_unconfirmed() {
                return Some(End::Unconfirmed);
            }
            sessions.take_tunnel_changed()
        };
        if changed {
            self.context.tunnel.update(&self.context.sessions).await;
        }
        None
    }

    /// Checks the underlay. The first failure after a success is logged.
    async fn look(&self, was_lost: bool) -> Found {
        match Underlay::inspect(&self.interface).await {
            Ok(underlay) if underlay.ifindex != self.ifindex => Found::Another,
            Ok(underlay) => {
                self.context.sessions().handle_underlay(&underlay);
                Found::Same
            }
            Err(error) => {
                if !was_lost {
                    warn!("{error}");
                }
                Found::Nothing
            }
        }
    }

    fn reload(&self) {
        service::reloading();
        match self.reload.reload(&*self.context.sessions, &self.context.bus) {
            Ok(reload) => service::log(&reload),
            Err(refusal) => warn!("not reloaded: {refusal}"),
        }
        service::ready();
    }

    /// Ends the tasks, then stops the subsystems.
    pub(super) async fn finish(self) {
        self.stop.send_replace(true);
        self.context.tasks.finish().await;
        for subsystem in self.subsystems.iter().rev() {
            subsystem.stop();
        }
    }
}

/// The metrics server, if the configuration asks for it.
fn metrics_server(config: &Config, host: &Host) -> anyhow::Result<Option<Arc<metrics::server::Server>>> {
    let Some(address) = config.metrics else { return Ok(None) };
    let prefixes = first_prefixes(config, &host.underlay);
    if prefixes.iter().any(|prefix| IpNet::V6(*prefix).contains(&address.ip())) {
        bail!(
            "metrics cannot be served at {address}, which lies in the protected prefix; choose another one"
        );
    }
    metrics::server::Server::bind(address).map(Some)
}
