//! The loader against a model of the maps.

use std::collections::{BTreeMap, BTreeSet};

use mtd_common::abi::DirectionKeys;
use mtd_common::address::{End, Network};
use proptest::prelude::*;

use super::super::session::Keys;
use super::*;

const PERIOD: u64 = 3_000_000_000;
const HORIZON: u64 = 60_000_000_000;
const NOW: u64 = 1_800_000_000_000_000_000;
const PHASE: u64 = 1_234_567;
const PLACE: Place = Place { index: SessionIndex(5), generation: 9 };

/// What the maps hold: slots with their addresses, and those that receive.
#[derive(Default)]
struct Model {
    slots: BTreeMap<(u32, u64), Slot>,
    receiving: BTreeSet<(u32, u64)>,
    calls: usize,
    /// The call that fails.
    fail_at: Option<usize>,
}

impl Model {
    fn live(&self, now: u64) -> Vec<u64> {
        let live = |slot: u64| slot::is_live(slot, now, PHASE, PERIOD, u64::MAX);
        self.receiving.iter().map(|(_, slot)| *slot).filter(|slot| live(*slot)).collect()
    }

    fn count(&self) -> usize {
        self.receiving.len()
    }
}

impl SlotMaps for Model {
    type Error = &'static str;

    fn load(&mut self, session: SessionIndex, slot: &Slot) -> Result<(), &'static str> {
        self.calls += 1;
        self.slots.insert((session.0, slot.slot), *slot);
        if self.fail_at == Some(self.calls) {
            return Err("full");
        }
        self.receiving.insert((session.0, slot.slot));
        Ok(())
    }

    fn unload(&mut self, session: SessionIndex, generation: u32, slot: u64) {
        self.calls += 1;
        assert!(self.slots.get(&(session.0, slot)).is_some_and(|found| found.generation == generation));
        self.receiving.remove(&(session.0, slot));
    }
}

fn session(length: u8) -> Session {
    let end = |n: u8| End { network: Network { prefix: [n; 16], length }, seed: [n; 8] };
    let keys = |n| Keys(DirectionKeys { seal: [n; 32], mask: [n; 16] });
    let mut local = end(1);
    let mut remote = end(2);
    for end in [&mut local, &mut remote] {
        let keep = u128::MAX << (128 - u32::from(length));
        end.network.prefix = (u128::from_be_bytes(end.network.prefix) & keep).to_be_bytes();
    }
    Session::for_test(local, remote, keys(1), keys(2), PERIOD, PHASE)
}

fn number(now: u64) -> u64 {
    slot::number(now, PHASE, PERIOD)
}

#[test]
fn three_generations_are_live_at_any_time_and_the_horizon_is_loaded() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    let mut now = NOW;
    while now < NOW + 100 * PERIOD {
        loader.advance(&session, SessionNs(now), HORIZON, &mut model).unwrap();
        let current = number(now);
        assert_eq!(model.live(now), [current - 1, current, current + 1]);
        assert!(model.receiving.contains(&(5, current)));
        assert!(model.receiving.contains(&(5, number(now + HORIZON))));
        assert!(model.count() <= most_loaded(HORIZON, PERIOD) as usize);
        now += 700_000_000;
    }
    // Without the controller: live until the horizon, dark after it.
    assert_eq!(model.live(now + HORIZON - 2 * PERIOD).len(), 3);
    assert!(model.live(now + HORIZON + 2 * PERIOD).is_empty());
}

#[test]
fn advancing_within_a_slot_costs_nothing() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    loader.advance(&session, SessionNs(NOW), HORIZON, &mut model).unwrap();
    let calls = model.calls;
    loader.advance(&session, SessionNs(NOW), HORIZON, &mut model).unwrap();
    assert_eq!(model.calls, calls);
}

#[test]
fn slots_before_the_first_allowed_one_are_never_loaded() {
    let first = number(NOW) + 2;
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, first));
    let mut now = NOW;
    while now < NOW + 10 * PERIOD {
        loader.advance(&session, SessionNs(now), HORIZON, &mut model).unwrap();
        assert!(model.receiving.iter().all(|(_, slot)| *slot >= first));
        now += PERIOD / 3;
    }
    assert_eq!(model.live(now).len(), 3);
}

#[test]
fn everything_is_unloaded_at_the_end() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    loader.advance(&session, SessionNs(NOW), HORIZON, &mut model).unwrap();
    loader.unload(&mut model);
    assert_eq!(model.count(), 0);
}

proptest! {
    #[test]
    fn any_course_of_time_and_failures_ends_in_the_same_maps(
        steps in prop::collection::vec((-200_i64..400, prop::option::of(1_usize..80)), 1..30),
        length in 64_u8..=112,
    ) {
        let session = session(length);
        let (mut model, mut loader) = (Model::default(), Loader::new(PLACE, 0));
        let mut now = NOW;
        for (seconds, failure) in steps {
            now = now.checked_add_signed(seconds * 1_000_000_000).unwrap();
            model.calls = 0;
            model.fail_at = failure;
            let _ = loader.advance(&session, SessionNs(now), HORIZON, &mut model);
            model.fail_at = None;
            loader.advance(&session, SessionNs(now), HORIZON, &mut model).unwrap();
            let current = number(now);
            prop_assert_eq!(model.live(now), vec![current - 1, current, current + 1]);
            prop_assert_eq!(model.count() as u64, loader.loaded().end - loader.loaded().start);
        }
    }
}

#[test]
fn there_is_room_for_all_that_is_loaded() {
    for (horizon, period) in [(60, 1), (60, 3), (60, 7), (5, 1), (5, 3), (3, 3), (10_800, 3_600)] {
        let (horizon, period) = (horizon * 1_000_000_000, period * 1_000_000_000);
        let end = |n: u8| End { network: Network { prefix: [n << 4; 16], length: 64 }, seed: [n; 8] };
        let keys = |n| Keys(DirectionKeys { seal: [n; 32], mask: [n; 16] });
        let session = Session::for_test(end(1), end(2), keys(1), keys(2), period, PHASE);
        let (mut model, mut loader) = (Model::default(), Loader::new(PLACE, 0));
        let mut most = 0;
        for step in 0..200 {
            loader.advance(&session, SessionNs(NOW + step * period / 7), horizon, &mut model).unwrap();
            most = most.max(model.count());
        }
        // A horizon of whole slots takes one less.
        let room = most_loaded(horizon, period) as usize - usize::from(horizon.is_multiple_of(period));
        assert_eq!(most, room, "{horizon} {period}");
    }
}
