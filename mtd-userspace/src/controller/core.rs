//! The running state: sessions and their slots.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mtd_common::DropReason;
use mtd_common::abi::{Session as Element, SessionState};
use mtd_common::event::DropEvent;
use mtd_common::slot::{self, sequence_seed};
use tracing::{debug, error, info, warn};

use super::clock::Clock;
use super::host::Host;
use super::peer::Peer;
use crate::config::{self, Config};
use crate::dataplane::{Counts, Plane, XdpMode};
use crate::proto::clock::{self, Reading};
use crate::proto::session::{Session, nanoseconds};
use crate::proto::slots::{Loader, Place};
use crate::state::{Past, State};
use crate::status::{SCHEMA, Status};

/// A prefix length in bits of which packets are counted to a peer.
fn in_prefix(prefix: ipnet::Ipv6Net, address: [u8; 16]) -> bool {
    prefix.contains(&Ipv6Addr::from(address))
}

/// Sessions, clocks and data plane of a running controller.
pub struct Core {
    config: Config,
    clock: Box<dyn Clock>,
    plane: Plane,
    peers: Vec<Peer>,
    horizon: u64,
    started: Instant,
    mode: Option<XdpMode>,
    facts: Facts,
    /// Sessions that are over, and whose keys are still in the maps.
    revoked: Vec<u32>,
    revoked_at: Instant,
    /// The routes are not those of the peers yet.
    routes_due: bool,
}

/// What the status repeats.
struct Facts {
    pins: PathBuf,
    state: PathBuf,
    mtu: u32,
}

impl Core {
    /// Installs the sessions of all peers: those that an earlier controller left in the maps go on, the others start
    /// anew.
    ///
    /// # Errors
    /// When the state file or the maps fail.
    pub fn start(config: Config, clock: Box<dyn Clock>, host: &Host, plane: Plane) -> anyhow::Result<Self> {
        let horizon = nanoseconds(config.horizon);
        let facts = Facts { pins: host.pins().clone(), state: host.state.clone(), mtu: host.mtu };
        let mut core = Self {
            config,
            clock,
            plane,
            peers: Vec::new(),
            horizon,
            started: Instant::now(),
            mode: None,
            facts,
            revoked: Vec::new(),
            revoked_at: Instant::now(),
            routes_due: false,
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

    /// Gives every peer a session, in the tables but not reachable yet.
    fn install(&mut self, pasts: Vec<Past>) -> anyhow::Result<()> {
        let now = self.clock.read();
        let mut left = self.take_over()?;
        let mut found = Vec::new();
        for peer in &self.config.peers {
            let session = Session::new(peer);
            let position = left.iter().position(|(_, found)| {
                (found.rx == session.rx.0) && (found.tx == session.tx.0) && found.mode == session.mode
            });
            found.push((session, position.map(|position| left.remove(position))));
        }
        // Those that are nobody's make room first.
        for (index, element) in left {
            self.plane.set_session(index, revoked(element))?;
            self.revoked.push(index);
        }
        self.revoked_at = Instant::now();
        let peers = self.config.peers.clone();
        for ((peer, past), (session, found)) in peers.into_iter().zip(pasts).zip(found) {
            let peer = match found {
                Some((index, element)) => self.go_on(peer, session, index, &element, now)?,
                None => self.begin(peer, session, past, now)?,
            };
            self.peers.push(peer);
        }
        self.drop_strangers(now)
    }

    /// Makes the sessions reachable.
    fn load(&mut self) -> anyhow::Result<()> {
        let now = self.clock.read();
        for peer in &mut self.peers {
            self.plane.set_session(peer.place.index, peer.element())?;
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.horizon, self.plane.slots())?;
        }
        self.update_routes()?;
        self.wipe_revoked()
    }

    /// Makes the routes those of the peers.
    fn update_routes(&mut self) -> anyhow::Result<()> {
        let routes: Vec<_> = self.peers.iter().flat_map(Peer::routes).collect();
        self.plane.replace_routes(&routes)?;
        self.routes_due = false;
        Ok(())
    }

    /// Takes the keys of ended sessions out of the maps, once no program can be at work with them any more.
    fn wipe_revoked(&mut self) -> anyhow::Result<()> {
        if self.revoked.is_empty() {
            return Ok(());
        }
        std::thread::sleep(GRACE.saturating_sub(self.revoked_at.elapsed()));
        for index in std::mem::take(&mut self.revoked) {
            if !self.peers.iter().any(|peer| peer.place.index == index) {
                self.plane.set_session(index, Element::default())?;
            }
        }
        Ok(())
    }

    /// The sessions that are in the maps already.
    fn take_over(&self) -> anyhow::Result<Vec<(u32, Element)>> {
        if !self.plane.adopted() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for index in 0..self.plane.capacity().sessions {
            let element = self.plane.session(index)?;
            if element.generation != 0 {
                found.push((index, element));
            }
        }
        Ok(found)
    }

    /// A session that an earlier controller left.
    fn go_on(
        &self,
        peer: config::Peer,
        session: Session,
        index: u32,
        found: &Element,
        now: Reading,
    ) -> anyhow::Result<Peer> {
        info!("session with {} goes on", peer.name);
        let place = self.place(&peer, index, found.generation);
        let state = self.plane.session_state(index)?;
        // Slots that the earlier controller loaded are loaded again, which changes nothing.
        let loader = Loader::new(place, state.rx_not_before);
        Ok(Peer::new(peer, session, loader, found.clock_offset, state.tx_sequence, now))
    }

    /// A session that starts now, with what is remembered of it.
    fn begin(
        &mut self,
        peer: config::Peer,
        session: Session,
        past: Past,
        now: Reading,
    ) -> anyhow::Result<Peer> {
        let offset = now.offset();
        let time = now.boot.wrapping_add(offset);
        let seed = sequence_seed(time);
        let state = match past {
            Past::None => SessionState { tx_sequence: seed, ..SessionState::default() },
            Past::Known(state) => SessionState { tx_sequence: state.tx_sequence.max(seed), ..*state },
            Past::Lost { reserved } => {
                // Live then can have been this slot and the next one; packets for later ones nobody has accepted.
                let first = slot::number(time, session.phase, session.period) + 2;
                info!("the last stop was not clean: {} can be reached from slot {first} on", peer.name);
                SessionState {
                    tx_sequence: seed.max(reserved),
                    rx_not_before: first,
                    ..SessionState::default()
                }
            }
        };
        let index = self.free_index()?;
        let place = self.place(&peer, index, generation()?);
        self.plane.set_session_state(index, state)?;
        info!("session with {} starts", peer.name);
        let loader = Loader::new(place, state.rx_not_before);
        Ok(Peer::new(peer, session, loader, offset, state.tx_sequence, now))
    }

    fn place(&self, peer: &config::Peer, index: u32, generation: u32) -> Place {
        let prefix = self.config.prefixes.iter().position(|prefix| *prefix == peer.local_prefix);
        // The configuration checks that it is one of them.
        Place { index, generation, prefix: prefix.unwrap_or(0) as u16 }
    }

    fn free_index(&self) -> anyhow::Result<u32> {
        for index in 0..self.plane.capacity().sessions {
            let taken = self.peers.iter().any(|peer| peer.place.index == index);
            if !taken && self.plane.session(index)?.generation == 0 {
                return Ok(index);
            }
        }
        anyhow::bail!("no room for another session; raise max_sessions in the configuration")
    }

    /// Takes away the addresses of sessions that are none of ours, of slots that are over, and of a prefix that a
    /// session no longer has.
    fn drop_strangers(&mut self, now: Reading) -> anyhow::Result<()> {
        let ours: HashMap<u32, &Peer> = self.peers.iter().map(|peer| (peer.place.index, peer)).collect();
        self.plane.retain_rx(|key, slot| {
            ours.get(&slot.session).is_some_and(|peer| {
                (peer.place.generation, peer.place.prefix) == (slot.generation, key.prefix)
                    && slot.live_until > peer.time(now)
                    && in_prefix(peer.config.prefix, slot.peer_address)
            })
        })?;
        Ok(())
    }

    /// Attaches the programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, host: &Host) -> anyhow::Result<()> {
        self.mode = Some(host.attach(&self.config, &mut self.plane)?);
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
    }

    /// Loads and unloads slots of a peer; returns another clock where it needs one.
    fn tick_peer(&mut self, index: usize, now: Reading) -> anyhow::Result<Option<u64>> {
        let peer = &mut self.peers[index];
        let state = self.plane.session_state(peer.place.index)?;
        peer.note_sent(state.tx_sequence);
        let last_valid = state.rx_last_valid.max(peer.since);
        let offset = clock::adjust(peer.offset, last_valid, peer.session.period, now);
        if offset.is_none() {
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.horizon, self.plane.slots())?;
        }
        Ok(offset)
    }

    /// Moves silent sessions to another clock: under a new generation, with the windows that they have.
    fn set_clocks(&mut self, strays: &[(usize, u64)], now: Reading) -> anyhow::Result<()> {
        if strays.is_empty() {
            return Ok(());
        }
        self.routes_due = true;
        for &(index, _) in strays {
            let peer = &mut self.peers[index];
            let seconds = clock::difference(peer.offset, now) as f64 / 1e9;
            info!(
                "{}: no valid packet, and the wall clock was set by {:.3} s: following it",
                peer.config.name, -seconds
            );
            self.plane.set_session(peer.place.index, revoked(peer.element()))?;
            peer.loader.unload(&peer.session, self.plane.slots())?;
        }
        std::thread::sleep(GRACE);
        for &(index, offset) in strays {
            let peer = &mut self.peers[index];
            let mut state = self.plane.session_state(peer.place.index)?;
            peer.note_sent(state.tx_sequence);
            // So that numbers are possible ones again, whichever way the clock went; none that was used before.
            state.tx_sequence = peer.unused_from(sequence_seed(now.boot.wrapping_add(offset)));
            self.plane.set_session_state(peer.place.index, state)?;
            peer.restart(generation()?, offset, state.tx_sequence, now);
            self.plane.set_session(peer.place.index, peer.element())?;
            let time = peer.time(now);
            peer.loader.advance(&peer.session, time, self.horizon, self.plane.slots())?;
        }
        Ok(())
    }

    /// Notes in the state file which sequence numbers may be used from now on.
    fn reserve(&mut self) -> anyhow::Result<()> {
        let mut state = State::read(&self.facts.state)?.unwrap_or_default();
        for peer in &mut self.peers {
            peer.reserve();
            state.begin(peer.session.fingerprint(), peer.reserved);
        }
        state.write(&self.facts.state)?;
        Ok(())
    }

    /// Takes note of a dropped packet, for the peer from whose prefix it came.
    pub fn note(&mut self, event: &DropEvent, reason: DropReason) {
        debug!("dropped: {} from {}", reason.name(), Ipv6Addr::from(event.source));
        for peer in &mut self.peers {
            if in_prefix(peer.config.prefix, event.source) {
                peer.note_drop(reason);
            }
        }
    }

    /// The wall-clock time in ns of an instant of boot time.
    pub fn wall_time(&self, boot: u64) -> u64 {
        boot.wrapping_add(self.clock.read().offset())
    }

    /// What the control socket tells.
    pub fn status(&self) -> Status {
        let now = self.clock.read();
        let counts = self.plane.counts().unwrap_or_else(|error| {
            warn!("reading the counters: {error}");
            Counts::default()
        });
        let state = |peer: &Peer| self.plane.session_state(peer.place.index).unwrap_or_default();
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: Some(std::process::id()),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            interface: self.config.interface.clone(),
            device: self.config.device.clone(),
            xdp: self.mode.map_or("none", XdpMode::name).to_owned(),
            link: self.config.link.to_string(),
            prefixes: self.config.prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            mtu: self.facts.mtu,
            pins: self.facts.pins.clone(),
            frames: counts.frames,
            drops: counts.drops.iter().map(|(reason, n)| (reason.name().to_owned(), *n)).collect(),
            peers: self.peers.iter().map(|peer| peer.status(&state(peer), now)).collect(),
        }
    }

    /// Ends all sessions: their addresses go dark, their keys leave the maps, their state is saved.
    ///
    /// # Errors
    /// When maps or state file fail.
    pub fn stop(&mut self, host: &Host) -> anyhow::Result<()> {
        self.plane.replace_routes(&[])?;
        for peer in &mut self.peers {
            self.plane.set_session(peer.place.index, revoked(peer.element()))?;
            peer.loader.unload(&peer.session, self.plane.slots())?;
        }
        std::thread::sleep(GRACE);
        let mut ended = Vec::new();
        for peer in &self.peers {
            // Only now: no packet changes it any more.
            ended.push((peer.session.fingerprint(), self.plane.session_state(peer.place.index)?));
            self.plane.set_session(peer.place.index, Element::default())?;
            self.plane.set_session_state(peer.place.index, SessionState::default())?;
        }
        let mut state = State::read(&host.state)?.unwrap_or_else(|_| self.all_lost());
        for (fingerprint, session) in &ended {
            state.end(fingerprint.clone(), session);
        }
        state.write(&host.state).context("saving the sessions")
    }

    /// Ends a start whose programs could not be attached. Sessions that were there before go on.
    pub fn abandon(&mut self, host: &Host) {
        if !self.plane.adopted()
            && let Err(error) = self.stop(host)
        {
            warn!("cleaning up after a failed start: {error:#}");
        }
    }
}

/// How long a program may still be at work with what it found in the maps: it takes microseconds.
const GRACE: Duration = Duration::from_millis(10);

/// A session that is over, with its keys: a program that is at work with them would otherwise go on with zeros.
const fn revoked(element: Element) -> Element {
    Element { generation: 0, ..element }
}

/// A generation that no session before had, but by a chance of one in 2^32; never 0.
fn generation() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness from the kernel: {e}"))?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
