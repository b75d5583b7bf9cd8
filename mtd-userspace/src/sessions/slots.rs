//! The slots of a configured session in which packets may have been received. Its keys are the same after each start: where
//! the memory of what was received is lost, none of these slots may be used again.

use mtd_common::slot;

use crate::model::ClockOffset;
use crate::proto::clock::Reading;
use crate::proto::session::Session;
use crate::state::Marks;

/// How much further than it is loaded ahead is noted, in ns: half of it passes between two writes.
pub(super) const LEAD: u64 = 30_000_000_000;

/// The used slots of a session, and those noted as used.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Packets may have been received in slots before this one, without those of the present clock.
    pub(super) lived: u64,
    /// Slots before this one are noted in the state file.
    noted: u64,
}

impl Slots {
    /// Those of a session with these marks, in the present boot of the host.
    pub(super) fn after(marks: &Marks, session: &Session, boot: &str, now: Reading) -> Self {
        let lived = match &marks.clock {
            // The programs have gone by boot time, which never goes back: they were nowhere beyond this.
            Some(clock) if clock.boot == boot && !boot.is_empty() => {
                marks.lived.max(live_before(session, ClockOffset(clock.offset), now))
            }
            Some(_) => marks.lived.max(marks.loaded),
            None => marks.lived,
        };
        Self { lived, noted: marks.loaded }
    }

    /// The session has run with this clock up to now.
    pub(super) fn note_lived(&mut self, session: &Session, offset: ClockOffset, now: Reading) {
        self.lived = self.lived.max(live_before(session, offset, now));
    }

    /// Treats all noted slots as used.
    pub(super) fn use_noted(&mut self) {
        self.lived = self.lived.max(self.noted);
    }

    /// The slot before which all are to be noted.
    pub(super) fn wanted(&self, session: &Session, offset: ClockOffset, horizon: u64, now: Reading) -> u64 {
        self.noted.max(loaded_before(session, offset, horizon + LEAD, now))
    }

    /// Whether what is noted may soon be exceeded.
    pub(super) fn are_low(&self, session: &Session, offset: ClockOffset, horizon: u64, now: Reading) -> bool {
        self.noted < loaded_before(session, offset, horizon + LEAD / 2, now)
    }

    /// Whether all is noted that will be loaded now.
    pub(super) fn suffice(&self, session: &Session, offset: ClockOffset, horizon: u64, now: Reading) -> bool {
        self.noted >= loaded_before(session, offset, horizon, now)
    }

    /// Slots before this one are noted now.
    pub(super) fn set_noted(&mut self, slot: u64) {
        self.noted = self.noted.max(slot);
    }
}

/// The first slot that has not been live yet in a session with this clock: this one and the next one are.
pub(super) fn live_before(session: &Session, offset: ClockOffset, now: Reading) -> u64 {
    loaded_before(session, offset, 0, now) + 1
}

/// The first slot that is not loaded yet, `horizon` ns ahead.
fn loaded_before(session: &Session, offset: ClockOffset, horizon: u64, now: Reading) -> u64 {
    let ahead = offset.session(now.boot).0.saturating_add(horizon);
    slot::number(ahead, session.phase, session.period) + 1
}

#[cfg(test)]
mod tests {
    use mtd_common::abi::DirectionKeys;
    use mtd_common::address::{End, Network};

    use super::*;
    use crate::model::{BootNs, UnixNs};
    use crate::proto::session::Keys;
    use crate::state::SessionClock;

    const SECOND: u64 = 1_000_000_000;

    fn session() -> Session {
        let end = |seed| End { network: Network { prefix: [0x20; 16], length: 64 }, seed: [seed; 8] };
        let keys = |byte| Keys(DirectionKeys { seal: [byte; 32], mask: [byte; 16] });
        Session::for_test(end(1), end(2), keys(1), keys(2), SECOND, 0)
    }

    fn at(boot: u64) -> Reading {
        Reading { boot: BootNs(boot * SECOND), wall: UnixNs((boot + 1000) * SECOND) }
    }

    #[test]
    fn in_the_same_boot_the_clock_tells_what_was_live_and_in_another_what_was_loaded() {
        let (session, offset) = (session(), at(0).offset());
        // Its clock was a minute ahead of the wall clock.
        let clock = Some(SessionClock { boot: "this".to_owned(), offset: offset.0 + 60 * SECOND });
        let marks = Marks { sent: Vec::new(), lived: 5, loaded: 1200, clock };
        let lived = |boot, marks: &Marks| Slots::after(marks, &session, boot, at(10)).lived;
        assert_eq!(lived("this", &marks), 1072);
        assert_eq!(lived("other", &marks), 1200);
        assert_eq!(lived("other", &Marks { clock: None, ..marks.clone() }), 5, "it had stopped");
        let unknown = Marks { clock: Some(SessionClock { boot: String::new(), offset: 0 }), ..marks };
        assert_eq!(lived("", &unknown), 1200);
    }

    #[test]
    fn slots_are_noted_before_they_are_loaded() {
        let (session, offset, horizon) = (session(), at(0).offset(), 60 * SECOND);
        let mut slots = Slots::default();
        assert!(
            slots.are_low(&session, offset, horizon, at(0))
                && !slots.suffice(&session, offset, horizon, at(0))
        );
        slots.set_noted(slots.wanted(&session, offset, horizon, at(0)));
        for second in 0..=15 {
            assert!(slots.suffice(&session, offset, horizon, at(second)));
            assert!(!slots.are_low(&session, offset, horizon, at(second)), "{second}");
        }
        assert!(
            slots.are_low(&session, offset, horizon, at(16))
                && slots.suffice(&session, offset, horizon, at(30))
        );
        assert!(!slots.suffice(&session, offset, horizon, at(31)));
    }
}
