//! How long packets the path to a peer carries, found by probes (RFC 8899): routers that drop long packets often do not say so.
//!
//! Sans-IO, one for each peer and for the direction to it: the owner calls [`Prober::poll`] whenever [`Prober::wake`] has come
//! and sends the probes that it yields, tells the answers ([`Prober::handle_answer`]) and routers' reports
//! ([`Prober::handle_told`]), and uses [`Prober::size`]. All sizes are bytes of the outer packet.
//!
//! A round sends probes of several sizes, and a short one last: whatever is lost because of its length is missing while the
//! short one is answered. If that is missing too, the path has lost packets of any length, and nothing can be concluded. A
//! size counts as too long after [`MAX_PROBES`] such tries. Before a search ends, the next longer size is tried once more,
//! so that one that failed by chance does not stay refused.

mod round;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use mtd_common::control_record::PROBE_HEAD;
use mtd_common::packet::{IPV6, OVERHEAD};

use self::round::{Kind, Round, Verdict};
use super::exchange::{MILLISECOND, SECOND};
use crate::model::BootNs;

/// The least size that is searched for (RFC 8899, section 5.1.2): any path of IPv6 carries it.
pub const LEAST: u32 = 1280;

/// Size of the short probe, which goes where anything goes.
pub const SHORT: u32 = (OVERHEAD + IPV6 + PROBE_HEAD) as u32;

/// Tries after which a size counts as too long (RFC 8899, section 5.1.2).
pub const MAX_PROBES: u8 = 3;

/// While long packets are sent, whether they still arrive is tried this often, in ns (RFC 8899, section 5.1.1:
/// `CONFIRMATION_TIMER`). TCP gives up its quick repetitions after about three seconds.
pub const CONFIRMATION: u64 = SECOND;

/// How long a peer is left alone that has answered before and does not now, in ns.
const PAUSE: u64 = 3 * SECOND;

/// The same for one that has never answered: it may not know probes. It doubles, up to the time after which a path is tried
/// again.
const PATIENCE: u64 = 10 * SECOND;

/// The wait for an answer while the time of a round trip is not known, in ns …
const FIRST_TIMEOUT: u64 = SECOND;
/// … and the range of the wait later.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 200 * MILLISECOND..=3 * SECOND;

/// Probes that are remembered: more than two rounds have.
const REMEMBERED: usize = 64;

/// A probe to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Comes back in the answer. Random, so that only who has received the probe can answer it.
    pub id: u64,
    /// Its length.
    pub size: u32,
}

/// What the owner sees of the peer.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What the interface carries.
    pub most: u32,
    /// Inner packets sent so far that a path of [`LEAST`] would not carry.
    pub long: u64,
    /// Whether anything valid has come from the peer.
    pub heard: bool,
}

/// A probe that was sent.
struct Sent {
    probe: Probe,
    at: BootNs,
}

/// See the module's documentation.
pub struct Prober {
    /// Time in ns after which a path that is known to be narrow is tried again (RFC 8899, section 5.1.1:
    /// `PMTU_RAISE_TIMER`).
    raise: u64,
    most: u32,
    /// The size in use.
    size: u32,
    /// Whether a probe of this size was answered, and none of the next longer one.
    sure: bool,
    /// Not even [`LEAST`] gets through.
    too_small: bool,
    /// Whether the peer answers probes.
    answers: bool,
    /// Boxed: most peers' paths are known, and there may be very many.
    round: Option<Box<Round>>,
    sent: VecDeque<Sent>,
    /// Time of a round trip in ns; 0: not known.
    trip: u64,
    /// When a search is due.
    next: BootNs,
    /// When the peer is asked for a sign of life; `None`: it answers.
    ask_at: Option<BootNs>,
    patience: u64,
    /// When it was last tried whether long packets arrive, and how many had been sent.
    checked: (BootNs, u64),
}

impl Prober {
    /// Nothing is known of the path, except that the interface carries `most`.
    pub const fn new(most: u32, raise: u64, now: BootNs) -> Self {
        Self {
            raise,
            most,
            size: most,
            sure: false,
            too_small: false,
            answers: false,
            round: None,
            sent: VecDeque::new(),
            trip: 0,
            next: now,
            ask_at: Some(now),
            patience: PATIENCE,
            checked: (now, 0),
        }
    }

    /// The longest size that may be used.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Whether [`Prober::size`] is known by answers. Otherwise nothing was found out: the peer does not answer.
    pub const fn is_sure(&self) -> bool {
        self.sure
    }

    /// Whether not even [`LEAST`] gets through.
    pub const fn is_too_small(&self) -> bool {
        self.too_small
    }

    /// Whether the peer answers probes.
    pub const fn answers(&self) -> bool {
        self.answers
    }

    /// When [`Prober::poll`] has work.
    pub fn wake(&self) -> BootNs {
        match &self.round {
            Some(round) => round.asked + self.timeout(round),
            None => self.ask_at.unwrap_or_else(|| self.next.min(self.checked.0 + CONFIRMATION)),
        }
    }

    /// The path is another one: what was found out may not hold.
    pub fn restart(&mut self, now: BootNs) {
        (self.round, self.next, self.sure) = (None, now, false);
        self.ask_at = self.ask_at.map(|_| now);
        self.sent.clear();
    }

    /// Does the work that is due. `random` makes unpredictable numbers.
    pub fn poll(&mut self, seen: Seen, now: BootNs, random: &mut dyn FnMut() -> u64) -> Vec<Probe> {
        if seen.most != self.most {
            // What is longer than the interface carries never gets out.
            self.size = if self.size < self.most { self.size.min(seen.most) } else { seen.most };
            self.most = seen.most;
            self.restart(now);
        }
        let ask = match &self.round {
            Some(round) if !round.asked.happened() => true,
            Some(round) if now < round.asked + self.timeout(round) => false,
            Some(_) => self.time_out(now),
            None => self.begin_if_due(seen, now),
        };
        if ask { self.ask(now, random) } else { Vec::new() }
    }

    /// An answer has come in. False: to no probe of this prober.
    pub fn handle_answer(&mut self, id: u64, now: BootNs) -> bool {
        let Some(position) = self.sent.iter().position(|sent| sent.probe.id == id) else { return false };
        let Some(Sent { probe, at }) = self.sent.remove(position) else { return false };
        if self.sent.is_empty() {
            // Its memory is of no use until the next search.
            self.sent = VecDeque::new();
        }
        let trip = now.since(at).max(1);
        // A shorter time counts at once: waiting too little costs a probe, waiting too long holds up the traffic.
        self.trip = if self.trip == 0 { trip } else { trip.min((7 * self.trip + trip) / 8) };
        (self.answers, self.ask_at) = (true, None);
        if let Some(round) = &mut self.round {
            if round.take_answer(probe.size) {
                self.conclude(now);
            }
        } else if (self.size + 1..=self.most).contains(&probe.size) {
            // It was only slow.
            (self.size, self.next) = (probe.size, now);
        }
        true
    }

    /// A router has reported that it carries only this much. What it says is followed at once, and tried: anybody who sees
    /// packets of the session can say so too. Only of use if the peer answers.
    pub fn handle_told(&mut self, size: u32) {
        if self.answers && size < self.size {
            (self.size, self.sure) = (size, false);
            self.round = Some(Box::new(Round::told(size, self.most)));
        }
    }

    /// Begins a round, if one is due.
    fn begin_if_due(&mut self, seen: Seen, now: BootNs) -> bool {
        if let Some(at) = self.ask_at {
            let due = now >= at && (seen.heard || self.answers);
            if due {
                self.round = Some(Box::new(Round::short()));
            }
            return due;
        }
        if now >= self.next {
            let known = if self.sure && !self.too_small { self.size } else { 0 };
            self.round = Some(Box::new(Round::search(known, self.most)));
            return true;
        }
        if now.since(self.checked.0) < CONFIRMATION {
            return false;
        }
        // A new session counts from 0.
        let long = seen.long > 0 && seen.long != self.checked.1 && !self.too_small;
        self.checked = (now, seen.long);
        if long {
            self.round = Some(Box::new(Round::confirm(self.size)));
        }
        long
    }

    /// The time for answers is over. Returns whether to ask again.
    fn time_out(&mut self, now: BootNs) -> bool {
        let Some(round) = &mut self.round else { return false };
        match round.time_out() {
            Verdict::Again => true,
            Verdict::Unanswered => {
                self.round = None;
                let pause = if self.answers { PAUSE } else { self.patience };
                self.patience = (2 * self.patience).min(self.raise.max(PATIENCE));
                self.ask_at = Some(now + pause);
                false
            }
            Verdict::Done => {
                self.conclude(now);
                self.round.is_some()
            }
        }
    }

    /// A round has ended: goes on with the next one, or is done.
    fn conclude(&mut self, now: BootNs) {
        let Some(round) = self.round.take() else { return };
        let low = round.low;
        if round.checks() && low == self.size {
            return;
        }
        if round.kind == Kind::Short {
            if self.sure {
                // Whatever has silenced the peer may have changed the path.
                self.checked.0 = BootNs::NEVER;
            } else {
                self.next = now;
            }
            return;
        }
        let failed = round.sizes.first().copied();
        let high = failed.map_or(round.high, |failed| failed.min(round.high));
        let high = if low >= high { self.most + 1 } else { high };
        if low >= LEAST {
            (self.size, self.too_small) = (low, false);
        } else if failed.is_some_and(|failed| failed <= LEAST) {
            (self.size, self.too_small) = (LEAST.min(self.most), true);
            return self.settle(now);
        }
        if low >= self.most || (high - low <= 1 && round.kind == Kind::Last) {
            return self.settle(now);
        }
        // Its probes go out at the next call.
        self.round = Some(Box::new(Round::narrow(low, high, self.most)));
    }

    fn settle(&mut self, now: BootNs) {
        self.sure = true;
        let again = if self.size < self.most { self.raise } else { u64::MAX };
        self.next = now + again;
    }

    /// The wait for answers, in ns. Longer, while nothing is answered: the path may have become slower.
    fn timeout(&self, round: &Round) -> u64 {
        if !round.asked.happened() {
            return 0;
        }
        let usual = match self.trip {
            0 => FIRST_TIMEOUT,
            trip => (3 * trip).max(*TIMEOUTS.start()),
        };
        (usual << round.silent).min(*TIMEOUTS.end())
    }

    /// The probes of this try.
    fn ask(&mut self, now: BootNs, random: &mut dyn FnMut() -> u64) -> Vec<Probe> {
        let Some(round) = &mut self.round else { return Vec::new() };
        round.asked = now;
        let probes: Vec<_> = round.ask().into_iter().map(|size| Probe { id: random(), size }).collect();
        self.sent.extend(probes.iter().map(|probe| Sent { probe: *probe, at: now }));
        while self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        probes
    }
}
