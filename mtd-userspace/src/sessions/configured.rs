//! The sessions with the peers of the configuration: their clocks, their sequence numbers, and what is remembered at a
//! start.
//!
//! A state machine like those of [`crate::proto`]: no I/O. If the clock is wrong, or the sequence numbers run out, it takes
//! a session out of use, waits until no program works with it and more numbers are noted in the state file, and goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;
use mtd_common::DropReason;
use mtd_common::abi::SessionState;
use mtd_common::slot::{self, sequence_seed};
use tracing::{error, info};

use super::installed::{Adoption, Inner, Left, NewSession, Peer, inner_address};
use super::numbers::Numbers;
use super::origin::{Origin, Request, Seen};
use crate::config;
use crate::model::{BootNs, ClockOffset, PeerNumber};
use crate::proto::clock::{self, Reading};
use crate::proto::exchange::{Received, SendSlot, SessionId};
use crate::proto::messages::Control;
use crate::proto::middlebox::{Middlebox, Moment, Opener};
use crate::proto::session::Session;
use crate::state::Past;

/// A peer of the configuration, and its session.
pub(super) struct ConfiguredPeer {
    pub(super) config: config::Peer,
    pub(super) session: Arc<Session>,
    /// Dropped packets that came from the peer's prefix.
    pub(super) dropped: BTreeMap<DropReason, u64>,
    networks: Arc<[IpNet]>,
    offset: ClockOffset,
    /// Time of the last valid packet, or of the last change of `offset`.
    heard: BootNs,
    numbers: Numbers,
    condition: Condition,
    pub(super) middlebox: Middlebox,
    opener: Opener,
    /// Slots before this one are not loaded.
    not_before: u64,
}

/// Whether the session of a peer is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// It has not begun.
    Absent,
    /// It is in use.
    Live,
    /// It was taken out of use, and a program may still be at work with it.
    Resting,
    /// It goes on with this clock, and sends from this number on, once enough numbers are noted.
    Waiting { offset: ClockOffset, sequence: u64 },
}

impl ConfiguredPeer {
    fn new(config: config::Peer) -> Self {
        Self {
            session: Arc::new(Session::new(&config)),
            dropped: BTreeMap::new(),
            networks: config.allowed_ips.as_slice().into(),
            offset: ClockOffset::default(),
            heard: BootNs::NEVER,
            numbers: Numbers::new(0),
            condition: Condition::Absent,
            middlebox: Middlebox::new(config.middlebox),
            opener: Opener::default(),
            not_before: 0,
            config,
        }
    }

    /// Up to two single addresses of the peer.
    fn inner(&self) -> Inner {
        let mut inner = Inner::default();
        let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        for (element, net) in inner.iter_mut().zip(self.networks.iter().filter(single)) {
            *element = inner_address(*net);
        }
        inner
    }

    fn begin(&mut self, offset: ClockOffset, state: &SessionState, now: Reading) {
        let sequence = state.tx_sequence;
        self.offset = offset;
        self.not_before = state.rx_not_before;
        self.heard = now.boot;
        self.numbers = Numbers::new(sequence);
        self.condition = Condition::Live;
    }

    /// Where its session is in time.
    fn moment(&self, now: Reading) -> Moment {
        Moment::of(&self.session, self.offset, now.boot)
    }

    /// The opener that is due, and the question whether openers are needed.
    fn open(&mut self, now: Reading) -> impl Iterator<Item = Control<'static>> + use<> {
        let moment = self.moment(now);
        let messages = if moment.slot() < self.not_before || self.condition != Condition::Live {
            [None, None]
        } else {
            let (hears, even) = (self.opener.hears(moment), Some(self.session.is_first()));
            let opener = self.opener.next(self.middlebox.wants_openers(), moment);
            [opener, self.middlebox.next(hears, even, moment)]
        };
        messages.into_iter().flatten()
    }

    /// The state in which a session with this past starts.
    fn state(&self, past: Past, now: Reading) -> SessionState {
        let time = now.offset().session(now.boot).0;
        let seed = sequence_seed(time);
        match past {
            Past::None => SessionState { tx_sequence: seed, ..SessionState::default() },
            Past::Known(state) => SessionState { tx_sequence: state.tx_sequence.max(seed), ..*state },
            Past::Lost { reserved } => {
                // At that time, this slot and the next one can have been live; nobody has accepted packets for later ones.
                let first = slot::number(time, self.session.phase, self.session.period) + 2;
                info!(
                    "the last stop was not clean: {} can be reached from slot {first} on",
                    self.config.name
                );
                SessionState {
                    tx_sequence: seed.max(reserved),
                    rx_not_before: first,
                    ..SessionState::default()
                }
            }
        }
    }
}

/// The machine of all configured peers. The number of a session is that of its peer.
pub(super) struct Configured {
    peers: Vec<ConfiguredPeer>,
    /// More sequence numbers were requested, and are not noted yet.
    reserving: bool,
    requests: VecDeque<Request>,
}

impl Configured {
    pub(super) fn new(peers: &[config::Peer]) -> Self {
        let peers = peers.iter().cloned().map(ConfiguredPeer::new).collect();
        Self { peers, reserving: false, requests: VecDeque::new() }
    }

    /// The peers with the numbers of their sessions.
    pub(super) fn peers(&self) -> impl Iterator<Item = (SessionId, &ConfiguredPeer)> {
        self.peers.iter().enumerate().map(|(position, peer)| (id(position), peer))
    }

    /// Begins the sessions that do not continue those of an earlier controller, each with what is remembered of it.
    pub(super) fn begin(&mut self, past: impl Fn(&str) -> Past, now: Reading) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if peer.condition != Condition::Absent {
                continue;
            }
            let state = peer.state(past(&peer.session.fingerprint()), now);
            peer.begin(now.offset(), &state, now);
            info!("session with {} starts", peer.config.name);
            let id = id(position);
            self.requests.push_back(Request::Install(Box::new(NewSession {
                id,
                session: Arc::clone(&peer.session),
                offset: peer.offset,
                started: now.boot,
                peer: Peer::Configured(number(position)),
                local: Inner::default(),
                remote: peer.inner(),
                networks: Some(Arc::clone(&peer.networks)),
                state: Some(Box::new(state)),
                translated: false,
            })));
            self.requests.push_back(Request::Route(id));
        }
    }

    /// The sequence numbers to be noted as used, all below these, by fingerprint of the session.
    pub(super) fn wanted(&self) -> Vec<(String, u64)> {
        self.peers.iter().map(|peer| (peer.session.fingerprint(), peer.numbers.wanted())).collect()
    }

    /// Counts a dropped packet for the peers whose prefix it came from.
    pub(super) fn note_drop(&mut self, source: std::net::Ipv6Addr, reason: DropReason) {
        for peer in self.peers.iter_mut().filter(|peer| peer.config.prefix.contains(&source)) {
            *peer.dropped.entry(reason).or_default() += 1;
        }
    }

    fn peer(&mut self, id: SessionId) -> Option<&mut ConfiguredPeer> {
        self.peers.get_mut(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// Resumes the sessions for which enough sequence numbers are noted.
    fn resume(&mut self, now: Reading) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if let Condition::Waiting { offset, sequence } = peer.condition
                && !peer.numbers.are_spent()
            {
                (peer.offset, peer.heard, peer.condition) = (offset, now.boot, Condition::Live);
                self.requests.push_back(Request::Resume { id: id(position), offset, sequence });
            }
        }
    }

    fn reserve(&mut self) {
        if !self.reserving && self.peers.iter().any(|peer| peer.numbers.are_low()) {
            self.reserving = true;
            self.requests.push_back(Request::Reserve(self.wanted()));
        }
    }
}

impl Origin for Configured {
    fn poll(&mut self, now: Reading) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if peer.condition != Condition::Live {
                continue;
            }
            let (name, period) = (&peer.config.name, peer.session.period);
            if clock::adjust(peer.offset, peer.heard, period, now).is_some() {
                let seconds = clock::difference(peer.offset, now) as f64 / 1e9;
                info!(
                    "{name}: no valid packet, and the wall clock was set by {:.3} s: following it",
                    -seconds
                );
            } else if peer.numbers.are_spent() {
                error!(
                    "{name}: no more sequence numbers are noted in the state file: nothing is sent until they are"
                );
            } else {
                continue;
            }
            peer.condition = Condition::Resting;
            self.requests.push_back(Request::Rest(id(position)));
        }
        self.reserve();
        self.resume(now);
        for (position, peer) in self.peers.iter_mut().enumerate() {
            let messages = peer.open(now).map(|message| in_slot(id(position), SendSlot::Present, &message));
            self.requests.extend(messages);
        }
    }

    fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        let (id, slot) = (received.id, received.slot);
        let Some(peer) = self.peer(id) else { return };
        let moment = peer.moment(now);
        match Control::decode(received.message) {
            Some(Control::Opener { where_heard, heard }) => {
                peer.opener.handle_opener(slot, heard, moment);
                let messages: Vec<_> = peer.open(now).collect();
                self.requests.push_back(Request::Answer { id, where_heard });
                let openers = messages.iter().map(|message| in_slot(id, SendSlot::Present, message));
                self.requests.extend(openers);
            }
            Some(Control::ProbeRequest { stamp }) => {
                peer.opener.handle_probed(moment);
                let message = Control::Probe { stamp };
                self.requests.push_back(in_slot(id, SendSlot::Next, &message));
                self.requests.push_back(Request::Control { id, about: id, message: message.encode() });
            }
            Some(Control::Probe { stamp })
                if peer.middlebox.handle_probe(stamp, slot, &peer.opener, moment) =>
            {
                peer.opener.tell_again();
            }
            // What is negotiated elsewhere is configured here.
            _ => {}
        }
    }

    fn handle_valid(&mut self, id: SessionId, seen: Seen, _now: Reading) {
        let Some(peer) = self.peer(id) else { return };
        peer.numbers.note_sent(seen.sequence);
        peer.heard = peer.heard.max(seen.last_valid);
        if let Some(slot) = seen.heard {
            peer.opener.handle_heard(slot);
        }
    }

    fn handle_not_installed(&mut self, id: SessionId, _now: Reading) {
        if let Some(peer) = self.peer(id) {
            peer.condition = Condition::Absent;
        }
    }

    fn handle_rested(&mut self, id: SessionId, seen: Seen, now: Reading) {
        let Some(peer) = self.peer(id) else { return };
        peer.numbers.note_sent(seen.sequence);
        let strays = clock::difference(peer.offset, now).unsigned_abs() > clock::TOLERANCE;
        let silent = now.boot.since(peer.heard) >= clock::silence(peer.session.period);
        let offset = if strays && silent { now.offset() } else { peer.offset };
        // This makes sequence numbers acceptable again, whichever way the clock went; none is used twice.
        let sequence = peer.numbers.unused_from(sequence_seed(offset.session(now.boot).0));
        peer.numbers.go_on_from(sequence);
        peer.condition = Condition::Waiting { offset, sequence };
        self.reserve();
        self.resume(now);
    }

    fn handle_reserved(&mut self, reserved: &[(String, u64)], done: bool) {
        self.reserving = false;
        if !done {
            return;
        }
        for peer in &mut self.peers {
            let fingerprint = peer.session.fingerprint();
            for (_, below) in reserved.iter().filter(|(known, _)| *known == fingerprint) {
                peer.numbers.set_noted(*below);
            }
        }
    }

    fn adopt(&mut self, left: &Left, now: Reading) -> Option<Adoption> {
        let same = |peer: &ConfiguredPeer| {
            let session = &peer.session;
            let keys = left.element.rx == session.rx.0 && left.element.tx == session.tx.0;
            keys && left.element.mode == session.mode && peer.condition == Condition::Absent
        };
        let position = self.peers.iter().position(same)?;
        let peer = &mut self.peers[position];
        info!("session with {} goes on", peer.config.name);
        peer.begin(ClockOffset(left.element.clock_offset), &left.state, now);
        Some(Adoption {
            id: id(position),
            session: Arc::clone(&peer.session),
            peer: Peer::Configured(number(position)),
            started: now.boot,
            local: Inner::default(),
            remote: peer.inner(),
            networks: Some(Arc::clone(&peer.networks)),
        })
    }

    fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }
}

/// The number of a peer: its position in the configuration, from 1 on.
const fn number(position: usize) -> PeerNumber {
    PeerNumber(position as u32 + 1)
}

/// A message in a slot that it names itself.
fn in_slot(id: SessionId, slot: SendSlot, message: &Control<'_>) -> Request {
    Request::ControlIn { id, slot, message: message.encode() }
}

const fn id(position: usize) -> SessionId {
    SessionId(position as u64 + 1)
}
