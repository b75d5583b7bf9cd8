//! What there is to say of all sessions together: a walk over what is in memory, without an address to derive.

use std::collections::BTreeMap;

use mtd_common::slot;

use super::negotiated::horizon;
use super::peer;
use super::{Sessions, report};
use crate::model::{Totals, Traffic};
use crate::proto::clock::{self, Reading};
use crate::proto::server::Server;
use crate::proto::session::Session;
use crate::proto::slots::Loader;
use crate::status::{SessionCount, Slots, Status};

/// Sums over sessions, while they are gathered.
#[derive(Default)]
struct Sums {
    slots: Slots,
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Boot time in ns of the last valid packet; 0: none.
    last_valid: u64,
    /// Largest difference to the wall clock, in ns.
    offset: Option<u64>,
}

impl Sessions {
    /// The part of the status that is about all sessions together.
    pub(super) fn summary(&self, now: Reading) -> Status {
        let (plane, mut sums) = (&self.tables.plane, Sums::default());
        for peer in &self.peers {
            let last_valid = plane.session_traffic(peer.place.index).last_valid;
            sums.last_valid = sums.last_valid.max(last_valid);
            sums.count("peer", peer::state(last_valid, peer.session.period, now).as_str());
            sums.load(&peer.session, &peer.loader, (peer.offset, self.tables.horizon), now);
        }
        for entry in self.negotiated.entries() {
            sums.last_valid = sums.last_valid.max(plane.session_traffic(entry.place().index).last_valid);
            sums.load(&entry.session, &entry.loader, (entry.offset, horizon(entry, &self.tables)), now);
        }
        for connection in &self.negotiated.connections {
            sums.count("client", report::client_state(&connection.machine).as_str());
        }
        for view in self.negotiated.server.iter().flat_map(Server::sessions) {
            if !view.closing {
                sums.count("server", report::server_state(&view).as_str());
            }
        }
        let Sums { slots, counts, last_valid, offset } = sums;
        let boot_to_unix = |boot: u64| boot.wrapping_add(now.offset()) as f64 / 1e9;
        Status {
            maps: self.tables.fill(slots.loaded),
            slots: Some(Slots { refreshed: self.refreshed.map(boot_to_unix), ..slots }),
            last_valid_seconds: (last_valid > 0).then(|| now.boot.saturating_sub(last_valid) as f64 / 1e9),
            clock_offset_seconds: offset.map(|ns| ns as f64 / 1e9),
            session_counts: counts
                .into_iter()
                .map(|((role, state), count)| SessionCount { role: role.into(), state: state.into(), count })
                .collect(),
            traffic: self.traffic(),
            ..Status::default()
        }
    }

    /// What went through all sessions since this controller started.
    fn traffic(&self) -> Totals {
        let (now, before) = (self.tables.totals(), self.traffic_before);
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

    /// Adds what is loaded of a session, of which slots shall be loaded `horizon` ns ahead.
    fn load(&mut self, session: &Session, loader: &Loader, (offset, horizon): (u64, u64), now: Reading) {
        let loaded = loader.loaded();
        self.slots.loaded += loaded.end - loaded.start;
        self.slots.missing += loader.missing() as u64;
        let difference = clock::difference(offset, now).unsigned_abs();
        self.offset = Some(self.offset.unwrap_or_default().max(difference));
        let time = now.boot.wrapping_add(offset);
        let end = slot::start(loaded.end, session.phase, session.period);
        let lag = time.saturating_add(horizon).min(session.until).saturating_sub(end) as f64 / 1e9;
        self.slots.lag_seconds = self.slots.lag_seconds.max(lag);
        if end < session.until {
            let left = end.saturating_sub(time) as f64 / 1e9;
            self.slots.horizon_seconds =
                Some(self.slots.horizon_seconds.map_or(left, |least| least.min(left)));
        }
    }
}

#[cfg(test)]
mod tests {
    use mtd_common::abi::DirectionKeys;
    use mtd_common::address::{End, Network};

    use super::*;
    use crate::proto::session::Keys;
    use crate::proto::slots::{Place, SlotMaps};

    const SECOND: u64 = 1_000_000_000;

    /// Maps with room for everything.
    struct Room;

    impl SlotMaps for Room {
        type Error = std::convert::Infallible;

        fn load(&mut self, _: u32, _: &mtd_common::abi::Slot) -> Result<(), Self::Error> {
            Ok(())
        }

        fn unload(&mut self, _: u32, _: u32, _: u64) {}
    }

    #[test]
    fn slots_that_are_not_loaded_in_time_are_a_lag() {
        let end = |seed| End { network: Network { prefix: [0x20; 16], length: 64 }, seed: [seed; 8] };
        let keys = |byte| Keys(DirectionKeys { seal: [byte; 32], mask: [byte; 16] });
        let session = Session::for_test(end(1), end(2), keys(1), keys(2), 3 * SECOND, 0);
        let mut loader = Loader::new(Place { index: 0, generation: 1 }, 0);
        let (horizon, then) = (60 * SECOND, 1_000_000 * SECOND);
        let Ok(()) = loader.advance(&session, then, horizon, &mut Room);
        let after = |seconds: u64| {
            let mut sums = Sums::default();
            sums.load(&session, &loader, (0, horizon), Reading { boot: then + seconds * SECOND, wall: 0 });
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
