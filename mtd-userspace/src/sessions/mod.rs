//! The running state: sessions and their slots.

mod build;
mod clock;
mod fixed;
mod install;
mod negotiated;
mod observer;
mod path;
mod paths;
mod peer;
mod report;
mod requests;
mod summary;
mod tables;
mod wire;

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use mtd_common::DropReason;
use mtd_common::abi::{Route, Session as Element, SessionState};
use mtd_common::event::DropEvent;
use tracing::{debug, error, info, warn};

use self::negotiated::Negotiated;
use self::paths::Paths;
use self::peer::Peer;
use self::tables::{Destination, GRACE, Tables};
use crate::config::Config;
use crate::controller::host::{Host, followed_mtu, protected_prefixes};
use crate::dataplane::{Plane, Settings, XdpMode, boot_time};
use crate::device::Underlay;
use crate::enforcement;
use crate::model::{Enforcement, Guard, Totals};
use crate::proto::session::{Session, nanoseconds, network};
use crate::state::{Past, State};
use crate::status::{self};

pub(crate) use self::build::build;
pub use self::clock::{Clock, SystemClock};
pub(crate) use self::negotiated::Effect;
pub use self::requests::Consequences;

/// Sessions, clocks and data plane of a running controller.
pub struct Sessions {
    config: Config,
    /// What the programs were told.
    settings: Settings,
    clock: Box<dyn Clock>,
    peers: Vec<Peer>,
    started: Instant,
    mode: Option<XdpMode>,
    facts: Facts,
    negotiated: Negotiated,
    /// What is known of the outer paths.
    paths: Paths,
    /// The tunnel device's MTU is not what it should be.
    mtu_due: bool,
    tables: Tables,
    /// The routes are not those of the peers yet.
    routes_due: bool,
    /// Boot time in ns at which slots were last looked after.
    refreshed: Option<u64>,
    /// What had gone through the sessions that an earlier controller left.
    traffic_before: Totals,
}

/// What the status repeats.
struct Facts {
    pins: PathBuf,
    state: PathBuf,
}

impl Sessions {
    /// Installs the sessions of all peers: those that an earlier controller left in the maps go on, the others start
    /// anew.
    ///
    /// # Errors
    /// When the state file or the maps fail.
    pub(crate) fn start(
        config: Config,
        clock: Box<dyn Clock>,
        host: &Host,
        (plane, settings): (Plane, Settings),
        negotiated: Negotiated,
    ) -> anyhow::Result<Self> {
        let horizon = nanoseconds(config.horizon);
        let facts = Facts { pins: host.pins().clone(), state: host.state.clone() };
        let mut core = Self {
            settings,
            clock,
            paths: Paths::new(nanoseconds(config.mtu_expires)),
            mtu_due: false,
            tables: Tables::new(plane, horizon),
            negotiated,
            config,
            peers: Vec::new(),
            started: Instant::now(),
            mode: None,
            facts,
            routes_due: false,
            refreshed: None,
            traffic_before: Totals::default(),
        };
        let mut state = State::read(&host.state)?.unwrap_or_else(|why| {
            warn!(
                "{} is not to be used ({why}): sessions start with slots yet to come",
                host.state.display()
            );
            core.all_lost()
        });
        let mut names = HashMap::new();
        for (peer, fingerprint) in core.config.peers.iter().zip(core.fingerprints()) {
            if let Some(other) = names.insert(fingerprint, &peer.name) {
                anyhow::bail!(
                    "peers {other} and {} have the same key and seeds; make a key for each with mtd genpsk",
                    peer.name
                );
            }
        }
        let pasts: Vec<Past> = core.fingerprints().map(|fingerprint| state.past(&fingerprint)).collect();
        core.install(pasts)?;
        for peer in &core.peers {
            state.begin(peer.session.fingerprint(), peer.reserved);
        }
        // Before the first slot is live, so that a crash from now on is known as one.
        state.write(&host.state)?;
        core.load()?;
        core.traffic_before = core.tables.totals();
        Ok(core)
    }

    /// The state in which nothing is known of any session but that it ran.
    fn all_lost(&self) -> State {
        let mut state = State::default();
        self.fingerprints().for_each(|fingerprint| state.begin(fingerprint, 0));
        state
    }

    fn fingerprints(&self) -> impl Iterator<Item = String> + '_ {
        self.config.peers.iter().map(|peer| Session::new(peer).fingerprint())
    }

    /// Makes the sessions reachable.
    fn load(&mut self) -> anyhow::Result<()> {
        let now = self.clock.read();
        for peer in &mut self.peers {
            self.tables.plane.set_session(peer.place.index, peer.element())?;
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.tables.horizon, self.tables.plane.slots())?;
        }
        let mut routes = self.fixed_routes();
        routes.extend(self.negotiated.adopted_routes(&self.tables.plane));
        self.tables.replace_routes(routes)?;
        self.tables.wipe_revoked()?;
        Ok(())
    }

    fn fixed_routes(&self) -> Vec<(Destination, Route)> {
        self.peers.iter().flat_map(Peer::routes).collect()
    }

    /// Makes the routes of the statically configured peers lead to the sessions that they have now.
    fn update_routes(&mut self) -> anyhow::Result<()> {
        for (destination, route) in self.fixed_routes() {
            self.tables.set_route(destination, route)?;
        }
        self.routes_due = false;
        Ok(())
    }

    /// Attaches the programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, host: &Host) -> anyhow::Result<()> {
        self.mode = Some(host.attach(&self.config, &mut self.tables.plane)?);
        Ok(())
    }

    /// Loads and unloads slots, and looks after the clocks. Failures are logged and tried again at the next tick:
    /// the slots loaded ahead give time to mend what is broken.
    pub fn tick(&mut self) {
        let now = self.clock.read();
        let mut strays = Vec::new();
        for index in 0..self.peers.len() {
            match self.tick_peer(index, now) {
                Ok(None) => {}
                Ok(Some(offset)) => strays.push((index, offset)),
                Err(error) => error!("{}: {error:#}", self.peers[index].config.name),
            }
        }
        if let Err(error) = self.set_clocks(&strays, now) {
            error!("following the wall clock: {error:#}");
        }
        self.negotiated.tick(now, &mut self.tables);
        self.observe(now);
        self.forget_paths(now.boot);
        if let Err(error) = self.tables.wipe_rested() {
            error!("wiping the keys of ended sessions: {error:#}");
        }
        if self.routes_due
            && let Err(error) = self.update_routes()
        {
            error!("routes: {error:#}");
        }
        if self.peers.iter().any(Peer::reserve_is_low)
            && let Err(error) = self.reserve()
        {
            error!("{error}");
        }
        self.refreshed = Some(now.boot);
    }

    /// The underlay is not what it was: other addresses, another MAC address (requirement MT-45), another MTU.
    pub fn handle_underlay(&mut self, underlay: &Underlay) {
        let settings = Settings {
            prefixes: protected_prefixes(&self.config, underlay, &self.settings.prefixes),
            underlay_mac: underlay.mac,
            inner_mtu: followed_mtu(&self.config, underlay.mtu),
            ..self.settings.clone()
        };
        if settings == self.settings {
            return;
        }
        if let Err(error) = self.tables.plane.configure(&settings) {
            error!("telling the programs of a change of {}: {error}", self.config.interface);
            return;
        }
        if settings.inner_mtu != self.settings.inner_mtu {
            info!(
                "the MTU of {} is {}: that of the tunnel is {}",
                self.config.interface, underlay.mtu, settings.inner_mtu
            );
            self.mtu_due = true;
        }
        let moved = settings.prefixes != self.settings.prefixes;
        self.settings = settings;
        if moved {
            let prefix = self.settings.prefixes.first().copied();
            let shown = prefix.map_or_else(|| "none".to_owned(), |prefix| prefix.to_string());
            info!("{} has another global prefix: {shown}", self.config.interface);
            let now = self.clock.read();
            self.negotiated.set_network(prefix.map(network), now, &mut self.tables);
        }
    }

    /// Confirms what is enforced.
    ///
    /// # Errors
    /// When it is too late, or the maps fail.
    pub fn confirm(&mut self) -> anyhow::Result<status::Guard> {
        self.set_guard(enforcement::confirmed(&self.settings.guard, boot_time())?)
    }

    /// Changes what is enforced. What is allowed stays.
    ///
    /// # Errors
    /// When the maps fail.
    pub fn set_policy(&mut self, asked: &Enforcement) -> anyhow::Result<status::Guard> {
        let now = &self.settings.guard;
        self.set_guard(asked.decide(None, now.allow.clone(), Some(now), boot_time()))
    }

    fn set_guard(&mut self, guard: Guard) -> anyhow::Result<status::Guard> {
        let settings = Settings { guard, ..self.settings.clone() };
        self.tables.plane.configure(&settings)?;
        self.settings = settings;
        enforcement::announce(&self.settings.guard, &self.config.interface, "the prefixes are");
        Ok(status::Guard::of(&self.settings.guard, boot_time()))
    }

    /// What is enforced.
    pub fn guard(&self) -> &Guard {
        &self.settings.guard
    }

    /// Whether nobody has confirmed in time what is enforced.
    pub fn is_unconfirmed(&self) -> bool {
        self.settings.guard.is_over(boot_time())
    }

    /// Takes note of a dropped packet, for the peer from whose prefix it came.
    pub fn note(&mut self, event: &DropEvent, reason: DropReason) {
        let source = Ipv6Addr::from(event.source);
        debug!("dropped: {} from {source}", reason.name());
        for peer in &mut self.peers {
            if peer.config.prefix.contains(&source) {
                peer.note_drop(reason);
            }
        }
    }

    /// The wall-clock time in ns of an instant of boot time.
    pub fn wall_time(&self, boot: u64) -> u64 {
        boot.wrapping_add(self.clock.read().offset())
    }

    /// Ends all sessions: their addresses go dark, their keys leave the maps, their state is saved.
    ///
    /// # Errors
    /// When maps or state file fail.
    pub fn stop(&mut self, host: &Host) -> anyhow::Result<()> {
        let now = self.clock.read();
        self.negotiated.stop(now, &mut self.tables);
        self.tables.replace_routes(Vec::new())?;
        for peer in &mut self.peers {
            self.tables.plane.set_session(peer.place.index, revoked(peer.element()))?;
            peer.loader.unload(self.tables.plane.slots());
        }
        std::thread::sleep(GRACE);
        self.tables.wipe_rested()?;
        let mut ended = Vec::new();
        for peer in &self.peers {
            // Only now: no packet changes it any more.
            ended.push((peer.session.fingerprint(), self.tables.plane.session_state(peer.place.index)?));
            self.tables.plane.set_session(peer.place.index, Element::default())?;
            self.tables.plane.set_session_state(peer.place.index, SessionState::default())?;
        }
        let mut state = State::read(&host.state)?.unwrap_or_else(|_| self.all_lost());
        for (fingerprint, session) in &ended {
            state.end(fingerprint.clone(), session);
        }
        state.write(&host.state).context("saving the sessions")
    }

    /// Ends a start whose programs could not be attached. Sessions that were there before go on.
    pub fn abandon(&mut self, host: &Host) {
        if !self.tables.plane.adopted()
            && let Err(error) = self.stop(host)
        {
            warn!("cleaning up after a failed start: {error:#}");
        }
    }
}

/// A session that is over, with its keys: a program that is at work with them would otherwise go on with zeros.
pub(super) const fn revoked(element: Element) -> Element {
    Element { generation: 0, ..element }
}

/// A generation that no session before had, but by a chance of one in 2^32; never 0.
pub(super) fn generation() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness from the kernel: {e}"))?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
