//! A peer of the configuration, and where its session stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use mtd_common::DropReason;
use mtd_common::abi::SessionState;
use mtd_common::slot::sequence_seed;
use tracing::info;

use crate::config;
use crate::model::{BootNs, ClockOffset};
use crate::proto::clock::Reading;
use crate::proto::messages::Control;
use crate::proto::middlebox::{Middlebox, Moment, Opener};
use crate::proto::session::Session;
use crate::sessions::installed::{Inner, inner_address};
use crate::sessions::numbers::Numbers;
use crate::sessions::slots::{self, Slots};
use crate::state::Past;

/// A peer of the configuration, and its session.
pub(in crate::sessions) struct ConfiguredPeer {
    pub(in crate::sessions) config: config::Peer,
    pub(in crate::sessions) session: Arc<Session>,
    /// Dropped packets that came from the peer's prefix.
    pub(in crate::sessions) dropped: BTreeMap<DropReason, u64>,
    pub(super) networks: Arc<[IpNet]>,
    pub(super) offset: ClockOffset,
    /// Time of the last valid packet, or of the last change of `offset`.
    pub(super) heard: BootNs,
    /// What is remembered of it at the start.
    pub(super) past: Past,
    pub(super) numbers: Numbers,
    pub(super) slots: Slots,
    /// This host was copied: what it remembers is not all that was used.
    pub(super) copied: bool,
    /// Slots before this one are not used; 0: no such slots are known.
    pub(super) not_before: u64,
    pub(super) condition: Condition,
    pub(in crate::sessions) middlebox: Middlebox,
    pub(super) opener: Opener,
}

/// Whether the session of a peer is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
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
    pub(super) fn new(config: config::Peer) -> Self {
        Self {
            session: Arc::new(Session::new(&config)),
            dropped: BTreeMap::new(),
            networks: config.allowed_ips.as_slice().into(),
            offset: ClockOffset::default(),
            heard: BootNs::NEVER,
            past: Past::None,
            numbers: Numbers::new(Vec::new(), 0),
            slots: Slots::default(),
            copied: false,
            not_before: 0,
            condition: Condition::Absent,
            middlebox: Middlebox::new(config.middlebox),
            opener: Opener::default(),
            config,
        }
    }

    /// Up to two single addresses of the peer.
    pub(super) fn inner(&self) -> Inner {
        let mut inner = Inner::default();
        let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        for (element, net) in inner.iter_mut().zip(self.networks.iter().filter(single)) {
            *element = inner_address(*net);
        }
        inner
    }

    /// It is in use from now on.
    pub(super) fn begin(&mut self, offset: ClockOffset, now: Reading) {
        self.offset = offset;
        self.heard = now.boot;
        self.condition = Condition::Live;
    }

    /// Whether it is dark until what it uses next is noted.
    pub(in crate::sessions) const fn waits_for_a_note(&self) -> bool {
        matches!(self.condition, Condition::Waiting { .. })
    }

    /// Where its session is in time.
    pub(super) fn moment(&self, now: Reading) -> Moment {
        Moment::of(&self.session, self.offset, now.boot)
    }

    /// The opener that is due, and the question whether openers are needed.
    pub(super) fn open(&mut self, now: Reading) -> impl Iterator<Item = Control<'static>> + use<> {
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

    /// The state in which a session with this past starts in this boot of the host.
    pub(super) fn start(&mut self, boot: &str, now: Reading) -> SessionState {
        let (past, session) = (std::mem::replace(&mut self.past, Past::None), Arc::clone(&self.session));
        let marks = past.marks();
        self.slots = Slots::after(&marks, &session, boot, now);
        self.begin(now.offset(), now);
        self.numbers = Numbers::new(marks.sent, sequence_seed(self.offset.session(now.boot).0));
        let mut state = match past {
            Past::None => SessionState::default(),
            Past::Known(state, _) => *state,
            Past::Lost(_) => {
                // By the clock, this slot and the next one can be live; nobody has accepted packets for later ones, unless
                // the session's clock was ahead.
                let first = self.slots.lived.max(slots::live_before(&session, self.offset, now));
                info!(
                    "the last stop was not clean: {} can be reached from slot {first} on",
                    self.config.name
                );
                SessionState { rx_not_before: first, ..SessionState::default() }
            }
        };
        state.tx_sequence = self.numbers.next();
        self.not_before = state.rx_not_before;
        state
    }

    /// Notes which numbers were sent, unless those are numbers of the clock before.
    pub(super) fn note_sent(&mut self, sequence: u64) {
        if matches!(self.condition, Condition::Live | Condition::Resting) {
            self.numbers.note_sent(sequence);
        }
    }

    /// It goes on with this clock once enough is noted.
    pub(super) fn wait_with(&mut self, offset: ClockOffset, now: Reading) {
        // This makes sequence numbers acceptable again, whichever way the clock went; none is used twice.
        let sequence = self.numbers.unused_from(sequence_seed(offset.session(now.boot).0));
        self.numbers.go_on_from(sequence);
        self.condition = Condition::Waiting { offset, sequence };
    }

    /// The same by the wall clock, as after a loss of all memory: everything counts as used that was noted, and all slots
    /// that have begun.
    pub(super) fn start_over(&mut self, now: Reading) {
        self.numbers.use_noted();
        self.slots.use_noted();
        self.not_before = self.slots.lived.max(slots::live_before(&self.session, now.offset(), now));
        info!("{} can be reached from slot {} on", self.config.name, self.not_before);
        self.wait_with(now.offset(), now);
    }

    /// The offset of its clock from now on.
    pub(super) const fn next_offset(&self) -> ClockOffset {
        if let Condition::Waiting { offset, .. } = self.condition { offset } else { self.offset }
    }
}
