//! The report on all sessions together: a walk over data in memory, without deriving addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use mtd_common::slot;

use super::{Maps, OriginId, Sessions, report};
use crate::model::{BootNs, ClockOffset, SessionNs, Totals, Traffic};
use crate::proto::clock::{self, Reading};
use crate::proto::server::Server;
use crate::proto::session::Session;
use crate::proto::slots::Loader;
use crate::status::{PeerState, SessionCount, Slots, Status};

/// A peer never counts as silent before this, however short its slots are: people pause.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Sums over sessions, while they are being added up.
#[derive(Default)]
struct Sums {
    slots: Slots,
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// When the last valid packet came.
    last_valid: BootNs,
    /// Largest difference to the wall clock, in ns.
    offset: Option<u64>,
}

impl<M: Maps> Sessions<M> {
    /// The part of the status that is about all sessions together.
    pub(super) fn summary(&self, now: Reading) -> Status {
        let (maps, mut sums) = (&self.table.maps, Sums::default());
        for installed in self.table.iter() {
            let last_valid = BootNs(maps.traffic(installed.index()).last_valid);
            sums.last_valid = sums.last_valid.max(last_valid);
            if installed.key.0 == OriginId::Configured {
                sums.count("peer", peer_state(last_valid, installed.session.period, now).as_str());
            }
            let horizon = self.table.horizon(installed);
            sums.load(&installed.session, &installed.loader, (installed.offset, horizon), now);
        }
        for connection in &self.origins.clients {
            sums.count("client", report::client_state(&connection.machine).as_str());
        }
        for view in self.origins.server.iter().flat_map(Server::sessions) {
            sums.count("server", report::server_state(&view).as_str());
        }
        let Sums { slots, counts, last_valid, offset } = sums;
        Status {
            maps: self.table.fill(slots.loaded),
            slots: Some(Slots { refreshed: self.refreshed.map(|at| now.unix(at).as_seconds()), ..slots }),
            last_valid_seconds: last_valid.happened().then(|| now.boot.since(last_valid) as f64 / 1e9),
            clock_offset_seconds: offset.map(|ns| ns as f64 / 1e9),
            session_counts: counts
                .into_iter()
                .map(|((role, state), count)| SessionCount { role: role.into(), state: state.into(), count })
                .collect(),
            traffic: self.traffic(),
            ..Status::default()
        }
    }

    /// The traffic of all sessions since this controller started.
    fn traffic(&self) -> Totals {
        let (now, before) = (self.table.totals(), self.traffic_before);
        let less = |now: Traffic, before: Traffic| Traffic {
            packets: now.packets.saturating_sub(before.packets),
            bytes: now.bytes.saturating_sub(before.bytes),
        };
        Totals { received: less(now.received, before.received), sent: less(now.sent, before.sent) }
    }
}

impl Sums {
    fn count(&mut self, role: &'static str, state: &'static str) {
        *self.counts.entry((role, state)).or_default() += 1;
    }

    /// Adds the loaded slots of a session, whose slots should be loaded `horizon` ns ahead.
    fn load(
        &mut self,
        session: &Session,
        loader: &Loader,
        (offset, horizon): (ClockOffset, u64),
        now: Reading,
    ) {
        let loaded = loader.loaded();
        self.slots.loaded += loaded.end - loaded.start;
        self.slots.missing += loader.missing() as u64;
        let difference = clock::difference(offset, now).unsigned_abs();
        self.offset = Some(self.offset.unwrap_or_default().max(difference));
        let time = offset.session(now.boot);
        let end = SessionNs(slot::start(loaded.end, session.phase, session.period));
        let lag = (time + horizon).min(session.until).since(end) as f64 / 1e9;
        self.slots.lag_seconds = self.slots.lag_seconds.max(lag);
        if end < session.until {
            let left = end.since(time) as f64 / 1e9;
            self.slots.horizon_seconds =
                Some(self.slots.horizon_seconds.map_or(left, |least| least.min(left)));
        }
    }
}

/// The state of a session with slots of `period` ns whose last valid packet came at `last_valid`.
pub(super) fn peer_state(last_valid: BootNs, period: u64, now: Reading) -> PeerState {
    let silent_for = now.boot.since(last_valid);
    if !last_valid.happened() {
        PeerState::Waiting
    } else if Duration::from_nanos(silent_for) > SILENT_AFTER && silent_for > clock::silence(period) {
        PeerState::Silent
    } else {
        PeerState::Open
    }
}

#[cfg(test)]
mod tests {
    use mtd_common::abi::DirectionKeys;
    use mtd_common::address::{End, Network};

    use super::*;
    use crate::model::{SessionIndex, UnixNs};
    use crate::proto::session::Keys;
    use crate::proto::slots::{Place, SlotMaps};

    const SECOND: u64 = 1_000_000_000;

    /// Maps with room for everything.
    struct Room;

    impl SlotMaps for Room {
        type Error = std::convert::Infallible;

        fn load(&mut self, _: SessionIndex, _: &mtd_common::abi::Slot) -> Result<(), Self::Error> {
            Ok(())
        }

        fn unload(&mut self, _: SessionIndex, _: u32, _: u64) {}
    }

    #[test]
    fn slots_that_are_not_loaded_in_time_are_a_lag() {
        let end = |seed| End { network: Network { prefix: [0x20; 16], length: 64 }, seed: [seed; 8] };
        let keys = |byte| Keys(DirectionKeys { seal: [byte; 32], mask: [byte; 16] });
        let session = Session::for_test(end(1), end(2), keys(1), keys(2), 3 * SECOND, 0);
        let mut loader = Loader::new(Place { index: SessionIndex(0), generation: 1 }, 0);
        let (horizon, then) = (60 * SECOND, 1_000_000 * SECOND);
        let Ok(()) = loader.advance(&session, SessionNs(then), horizon, &mut Room);
        let after = |seconds: u64| {
            let mut sums = Sums::default();
            let now = Reading { boot: BootNs(then + seconds * SECOND), wall: UnixNs(0) };
            sums.load(&session, &loader, (ClockOffset(0), horizon), now);
            sums.slots
        };
        let fresh = after(0);
        assert!(fresh.lag_seconds == 0.0 && fresh.horizon_seconds >= Some(60.0), "{fresh:?}");
        assert_eq!(fresh.loaded, loader.loaded().count() as u64);
        let stale = after(50);
        assert_eq!(stale.horizon_seconds, fresh.horizon_seconds.map(|left| left - 50.0));
        let lag = 60.0 - stale.horizon_seconds.unwrap();
        assert!((stale.lag_seconds - lag).abs() < 1e-6, "{stale:?}");
        assert_eq!(after(100).horizon_seconds, Some(0.0));
    }
}
