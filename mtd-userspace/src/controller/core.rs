//! The running state: sessions and their slots.

use std::net::Ipv6Addr;
use std::time::Instant;

use anyhow::Context as _;
use mtd_common::DropReason;
use mtd_common::abi::{Session as Element, SessionState};
use mtd_common::event::DropEvent;
use mtd_common::slot::{self, sequence_seed};
use tracing::{debug, error, info, warn};

use super::clock::Clock;
use super::host::Host;
use super::peer::{Peer, element};
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
}

/// What the status repeats.
struct Facts {
    pins: std::path::PathBuf,
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
        let facts = Facts { pins: host.pins().clone(), mtu: host.mtu };
        let mut core = Self {
            config,
            clock,
            plane,
            peers: Vec::new(),
            horizon,
            started: Instant::now(),
            mode: None,
            facts,
        };
        let mut state = State::read(&host.state)?.unwrap_or_else(|why| {
            warn!(
                "{} is not to be used ({why}): sessions start with slots yet to come",
                host.state.display()
            );
            core.all_lost()
        });
        let pasts: Vec<Past> = core.fingerprints().map(|fingerprint| state.past(&fingerprint)).collect();
        for fingerprint in core.fingerprints() {
            state.begin(fingerprint);
        }
        // Before the first slot is live, so that a crash from now on is known as one.
        state.write(&host.state)?;
        core.install(pasts)?;
        Ok(core)
    }

    /// The state in which nothing is known of any session but that it ran.
    fn all_lost(&self) -> State {
        let mut state = State::default();
        self.fingerprints().for_each(|fingerprint| state.begin(fingerprint));
        state
    }

    fn fingerprints(&self) -> impl Iterator<Item = String> + '_ {
        self.config.peers.iter().map(|peer| Session::new(peer).fingerprint())
    }

    fn install(&mut self, pasts: Vec<Past>) -> anyhow::Result<()> {
        let now = self.clock.read();
        let mut free = self.take_over()?;
        let peers: Vec<config::Peer> = self.config.peers.clone();
        for (peer, past) in peers.into_iter().zip(pasts) {
            let session = Session::new(&peer);
            let position = free.iter().position(|(_, found)| {
                (found.rx == session.rx.0) && (found.tx == session.tx.0) && found.mode == session.mode
            });
            let peer = match position {
                Some(position) => {
                    let (index, found) = free.remove(position);
                    info!("session with {} goes on", peer.name);
                    let place = self.place(&peer, index, found.generation);
                    // A slot that an earlier controller loaded is loaded again, which changes nothing.
                    Peer {
                        config: peer,
                        session,
                        place,
                        loader: Loader::new(place, 0),
                        offset: found.clock_offset,
                        since: now.boot,
                        dropped: std::collections::BTreeMap::new(),
                    }
                }
                None => self.begin(peer, session, past, now)?,
            };
            self.plane.set_session(peer.place.index, peer.element())?;
            self.peers.push(peer);
        }
        for (index, _) in free {
            self.plane.set_session(index, Element::default())?;
        }
        let (horizon, plane) = (self.horizon, &mut self.plane);
        for peer in &mut self.peers {
            peer.loader.advance(&peer.session, now.boot.wrapping_add(peer.offset), horizon, plane.slots())?;
        }
        self.drop_strangers()?;
        let routes: Vec<_> = self.peers.iter().flat_map(Peer::routes).collect();
        self.plane.replace_routes(&routes)?;
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
        let (state, not_before) = match past {
            Past::None => (SessionState { tx_sequence: seed, ..SessionState::default() }, 0),
            Past::Known(state) => (SessionState { tx_sequence: state.tx_sequence.max(seed), ..*state }, 0),
            Past::Lost => {
                // Live then can have been this slot and the next one; packets for later ones nobody has accepted.
                let first = slot::number(time, session.phase, session.period) + 2;
                info!("the last stop was not clean: {} can be reached from slot {first} on", peer.name);
                (SessionState { tx_sequence: seed, ..SessionState::default() }, first)
            }
        };
        let index = self.free_index()?;
        let place = self.place(&peer, index, generation()?);
        self.plane.set_session_state(index, state)?;
        info!("session with {} starts", peer.name);
        Ok(Peer {
            config: peer,
            session,
            place,
            loader: Loader::new(place, not_before),
            offset,
            since: now.boot,
            dropped: std::collections::BTreeMap::new(),
        })
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

    /// Takes away the addresses of sessions that are none of ours, or of a prefix that a session no longer has.
    fn drop_strangers(&mut self) -> anyhow::Result<()> {
        let ours: Vec<_> =
            self.peers.iter().map(|peer| (peer.place, peer.loader.loaded(), peer.config.prefix)).collect();
        self.plane.retain_rx(|slot| {
            ours.iter().any(|(place, loaded, prefix)| {
                (place.index, place.generation) == (slot.session, slot.generation)
                    && (loaded.start as u32..=loaded.end as u32).contains(&slot.slot)
                    && in_prefix(*prefix, slot.peer_address)
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
        for index in 0..self.peers.len() {
            if let Err(error) = self.tick_peer(index, now) {
                error!("{}: {error:#}", self.peers[index].config.name);
            }
        }
    }

    fn tick_peer(&mut self, index: usize, now: Reading) -> anyhow::Result<()> {
        let peer = &mut self.peers[index];
        let state = self.plane.session_state(peer.place.index)?;
        let last_valid = state.rx_last_valid.max(peer.since);
        if let Some(offset) = clock::adjust(peer.offset, last_valid, peer.session.period, now) {
            return self.set_clock(index, offset, now);
        }
        let time = peer.time(now);
        peer.loader.advance(&peer.session, time, self.horizon, self.plane.slots())?;
        Ok(())
    }

    /// Moves a silent session to another clock: under a new generation, with the window that it has.
    fn set_clock(&mut self, index: usize, offset: u64, now: Reading) -> anyhow::Result<()> {
        let peer = &mut self.peers[index];
        let seconds = clock::difference(peer.offset, now) as f64 / 1e9;
        info!(
            "{}: no valid packet, and the wall clock was set by {:.3} s: following it",
            peer.config.name, -seconds
        );
        self.plane.set_session(peer.place.index, Element::default())?;
        peer.loader.unload(&peer.session, self.plane.slots())?;
        let mut state = self.plane.session_state(peer.place.index)?;
        // So that numbers are possible ones again, whichever way the clock went. None repeats under one nonce: slots
        // are part of it, and the numbers of a slot that comes again are far apart.
        state.tx_sequence = sequence_seed(now.boot.wrapping_add(offset));
        self.plane.set_session_state(peer.place.index, state)?;
        peer.place.generation = generation()?;
        peer.loader = Loader::new(peer.place, 0);
        peer.offset = offset;
        peer.since = now.boot;
        let time = peer.time(now);
        let element = element(&peer.config, &peer.session, peer.place.generation, offset);
        self.plane.set_session(peer.place.index, element)?;
        peer.loader.advance(&peer.session, time, self.horizon, self.plane.slots())?;
        let routes: Vec<_> = self.peers.iter().flat_map(Peer::routes).collect();
        self.plane.replace_routes(&routes)?;
        Ok(())
    }

    /// Takes note of a dropped packet, for the peer from whose prefix it came.
    pub fn note(&mut self, event: &DropEvent, reason: DropReason) {
        debug!("dropped: {} from {}", reason.name(), Ipv6Addr::from(event.source));
        for peer in &mut self.peers {
            if in_prefix(peer.config.prefix, event.source) {
                *peer.dropped.entry(reason).or_default() += 1;
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
        let mut state = State::read(&host.state)?.unwrap_or_else(|_| self.all_lost());
        self.plane.replace_routes(&[])?;
        for peer in &mut self.peers {
            self.plane.set_session(peer.place.index, Element::default())?;
            peer.loader.unload(&peer.session, self.plane.slots())?;
            // Only now: no packet changes it any more.
            state.end(peer.session.fingerprint(), &self.plane.session_state(peer.place.index)?);
            self.plane.set_session_state(peer.place.index, SessionState::default())?;
        }
        state.write(&host.state).context("saving the sessions")?;
        Ok(())
    }
}

/// A generation that no session before had, but by a chance of one in 2^32; never 0.
fn generation() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness from the kernel: {e}"))?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
