//! The sessions with the peers of the configuration: their clocks, their sequence numbers, and what is remembered at a
//! start.
//!
//! A state machine like those of [`crate::proto`]: no I/O. If the clock is wrong, or the sequence numbers run out, it takes
//! a session out of use, waits until no program works with it and more numbers are noted in the state file, and goes on.

mod peer;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mtd_common::DropReason;
use mtd_common::abi::SessionState;
use tracing::{error, info};

use self::peer::Condition;
pub(super) use self::peer::ConfiguredPeer;
use super::installed::{Adoption, Inner, Left, NewSession, Peer};
use super::numbers::Numbers;
use super::origin::{Origin, Request, Seen};
use super::slots::Slots;
use crate::config;
use crate::model::{BootNs, ClockOffset, PeerNumber};
use crate::proto::clock::{self, Reading};
use crate::proto::exchange::{Received, SendSlot, SessionId};
use crate::proto::messages::Control;
use crate::state::{Marks, Past, SessionClock};

/// How long nothing is requested again that could not be noted twice, in ns.
const RETRY: u64 = 1_000_000_000;

/// The machine of all configured peers. The number of a session is that of its peer.
pub(super) struct Configured {
    peers: Vec<ConfiguredPeer>,
    /// The kernel's identifier of the present boot.
    boot: String,
    /// Time in ns for which slots are loaded ahead.
    horizon: u64,
    /// More sequence numbers were requested, and are not noted yet.
    reserving: bool,
    /// The last request could not be noted.
    failed: bool,
    /// When they may be requested again; never set: nothing has failed since it last worked.
    retry: BootNs,
    requests: VecDeque<Request>,
}

impl Configured {
    /// The peers of a configuration with this horizon in ns.
    pub(super) fn new(peers: &[config::Peer], horizon: u64) -> Self {
        let peers = peers.iter().cloned().map(ConfiguredPeer::new).collect();
        Self {
            peers,
            boot: String::new(),
            horizon,
            reserving: false,
            failed: false,
            retry: BootNs::NEVER,
            requests: VecDeque::new(),
        }
    }

    /// Takes what is remembered of the sessions, in the boot of the host with this identifier.
    pub(super) fn remember(&mut self, past: impl Fn(&str) -> Past, boot: String) {
        self.boot = boot;
        for peer in &mut self.peers {
            peer.past = past(&peer.session.fingerprint());
        }
    }

    /// The numbers of the peers, by name.
    pub(super) fn numbers(&self) -> HashMap<String, PeerNumber> {
        let names = self.peers.iter().map(|peer| peer.config.name.clone());
        names.enumerate().map(|(position, name)| (name, number(position))).collect()
    }

    /// The peers with the numbers of their sessions.
    pub(super) fn peers(&self) -> impl Iterator<Item = (SessionId, &ConfiguredPeer)> {
        self.peers.iter().enumerate().map(|(position, peer)| (id(position), peer))
    }

    /// Begins the sessions that do not continue those of an earlier controller.
    pub(super) fn begin(&mut self, now: Reading) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if peer.condition != Condition::Absent {
                continue;
            }
            let state = peer.start(&self.boot, now);
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
                resting: false,
            })));
            self.requests.push_back(Request::Route(id));
        }
    }

    /// What they use could not be noted: those that are about to be installed rest until it is. Returns their names.
    pub(super) fn hold(&mut self) -> Vec<&str> {
        let mut held = Vec::new();
        for request in &mut self.requests {
            if let Request::Install(new) = request {
                new.resting = true;
                held.push(new.id);
            }
        }
        for id in &held {
            if let Some(peer) = self.peer(*id) {
                peer.condition = Condition::Waiting { offset: peer.offset, sequence: peer.numbers.next() };
            }
        }
        self.peers().filter(|(id, _)| held.contains(id)).map(|(_, peer)| peer.config.name.as_str()).collect()
    }

    /// What is to be noted as used, by fingerprint of the session.
    pub(super) fn wanted(&self, now: Reading) -> Vec<(String, Marks)> {
        let wanted = |peer: &ConfiguredPeer| {
            let offset = peer.next_offset();
            let clock = SessionClock { boot: self.boot.clone(), offset: offset.0 };
            let marks = Marks {
                sent: peer.numbers.wanted(),
                lived: peer.slots.lived,
                loaded: peer.slots.wanted(&peer.session, offset, self.horizon, now),
                clock: Some(clock),
            };
            (peer.session.fingerprint(), marks)
        };
        self.peers.iter().map(wanted).collect()
    }

    /// What a session has used that ends for good in this state.
    pub(super) fn ended(&mut self, id: SessionId, state: &SessionState, now: Reading) -> Marks {
        let Some(peer) = self.peer(id) else { return Marks::default() };
        peer.note_sent(state.tx_sequence);
        peer.slots.note_lived(&peer.session, peer.offset, now);
        let lived = peer.slots.lived;
        Marks { sent: peer.numbers.ended(), lived, loaded: lived, clock: None }
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

    /// Resumes the sessions for which enough sequence numbers and slots are noted.
    fn resume(&mut self, now: Reading) {
        let horizon = self.horizon;
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if let Condition::Waiting { offset, sequence } = peer.condition
                && !peer.numbers.are_spent()
                && peer.slots.suffice(&peer.session, offset, horizon, now)
            {
                (peer.offset, peer.heard, peer.condition) = (offset, now.boot, Condition::Live);
                let (id, not_before) = (id(position), peer.not_before);
                self.requests.push_back(Request::Resume { id, offset, sequence, not_before });
            }
        }
    }

    fn reserve(&mut self, now: Reading) {
        let horizon = self.horizon;
        let low = |peer: &ConfiguredPeer| {
            let slots = peer.slots.are_low(&peer.session, peer.next_offset(), horizon, now);
            peer.condition != Condition::Absent && (slots || peer.numbers.are_low())
        };
        if std::mem::take(&mut self.failed) {
            // At once after the first failure, which may have been a hiccup.
            self.retry = now.boot + if self.retry.happened() { RETRY } else { 0 };
        }
        if !self.reserving && now.boot >= self.retry && self.peers.iter().any(low) {
            self.reserving = true;
            self.requests.push_back(Request::Reserve(self.wanted(now)));
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
                let seconds = -clock::difference(peer.offset, now) as f64 / 1e9;
                info!("{name}: no valid packet, and the wall clock was set by {seconds:.3} s: following it");
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
        self.reserve(now);
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
                let (next, message) = (peer.opener.handle_request(slot, moment), Control::Probe { stamp });
                self.requests.extend(next.map(|slot| in_slot(id, slot, &message)));
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
        peer.note_sent(seen.sequence);
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
        peer.note_sent(seen.sequence);
        peer.slots.note_lived(&peer.session, peer.offset, now);
        let strays = clock::difference(peer.offset, now).unsigned_abs() > clock::TOLERANCE;
        let silent = now.boot.since(peer.heard) >= clock::silence(peer.session.period);
        if std::mem::take(&mut peer.copied) {
            peer.start_over(now);
        } else {
            peer.wait_with(if strays && silent { now.offset() } else { peer.offset }, now);
        }
        self.reserve(now);
        self.resume(now);
    }

    /// Its keys are all that such a session has. So nothing that was noted is sent again, and nothing is received in slots
    /// that may have been used by then; what another copy has used beyond that, only a right wall clock keeps apart.
    fn handle_copied(&mut self, now: Reading) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            match peer.condition {
                Condition::Absent => {}
                Condition::Live => {
                    (peer.copied, peer.condition) = (true, Condition::Resting);
                    self.requests.push_back(Request::Rest(id(position)));
                }
                Condition::Resting => peer.copied = true,
                Condition::Waiting { .. } => peer.start_over(now),
            }
        }
    }

    fn handle_reserved(&mut self, reserved: &[(String, Marks)], done: bool) {
        self.reserving = false;
        if !done {
            self.failed = true;
            return;
        }
        self.retry = BootNs::NEVER;
        for peer in &mut self.peers {
            let fingerprint = peer.session.fingerprint();
            for (_, marks) in reserved.iter().filter(|(known, _)| *known == fingerprint) {
                peer.numbers.set_noted(&marks.sent);
                peer.slots.set_noted(marks.loaded);
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
        let marks = std::mem::replace(&mut peer.past, Past::None).marks();
        peer.begin(ClockOffset(left.element.clock_offset), now);
        peer.not_before = left.state.rx_not_before;
        peer.slots = Slots::after(&marks, &peer.session, &self.boot, now);
        peer.numbers = Numbers::adopted(marks.sent, left.state.tx_sequence);
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
