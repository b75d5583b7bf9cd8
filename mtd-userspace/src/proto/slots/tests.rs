//! The loader against a model of the maps.

use std::collections::{BTreeMap, HashMap};

use mtd_common::abi::DirectionKeys;
use mtd_common::address::{End, Network};
use proptest::prelude::*;

use super::super::session::Keys;
use super::*;

const PERIOD: u64 = 3_000_000_000;
const HORIZON: u64 = 60_000_000_000;
const NOW: u64 = 1_800_000_000_000_000_000;
const PLACE: Place = Place { index: 5, generation: 9, prefix: 0 };

/// What the kernel's maps hold.
#[derive(Default)]
struct Model {
    rx: HashMap<[u8; 8], Vec<RxSlot>>,
    tx: BTreeMap<(u32, u64), TxSlot>,
    calls: usize,
    /// The call that fails.
    fail_at: Option<usize>,
}

impl Model {
    fn call(&mut self) -> Result<(), &'static str> {
        self.calls += 1;
        if self.fail_at == Some(self.calls) { Err("full") } else { Ok(()) }
    }

    fn live(&self, now: u64) -> Vec<u32> {
        let mut slots: Vec<u32> = self
            .rx
            .values()
            .flatten()
            .filter(|slot| slot.live_from <= now && now < slot.live_until)
            .map(|slot| slot.slot)
            .collect();
        slots.sort_unstable();
        slots
    }

    fn count(&self) -> usize {
        self.rx.values().map(Vec::len).sum()
    }
}

impl SlotMaps for Model {
    type Error = &'static str;

    fn load_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), &'static str> {
        self.call()?;
        let chain = self.rx.entry(key.low).or_default();
        chain.retain(|other| (other.session, other.slot) != (slot.session, slot.slot));
        chain.push(*slot);
        Ok(())
    }

    fn unload_rx(&mut self, key: RxKey, slot: &RxSlot) -> Result<(), &'static str> {
        self.call()?;
        if let Some(chain) = self.rx.get_mut(&key.low) {
            chain.retain(|other| (other.session, other.slot) != (slot.session, slot.slot));
        }
        Ok(())
    }

    fn load_tx(&mut self, session: u32, slot: &TxSlot) -> Result<(), &'static str> {
        self.call()?;
        self.tx.insert((session, slot.slot), *slot);
        Ok(())
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
    Session::for_test(local, remote, keys(1), keys(2), PERIOD, 1_234_567)
}

fn number(now: u64) -> u64 {
    slot::number(now, 1_234_567, PERIOD)
}

#[test]
fn three_generations_are_live_at_any_time_and_the_horizon_is_loaded() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    let mut now = NOW;
    while now < NOW + 100 * PERIOD {
        loader.advance(&session, now, HORIZON, &mut model).unwrap();
        let current = number(now) as u32;
        assert_eq!(model.live(now), [current - 1, current, current + 1]);
        assert!(model.tx.contains_key(&(5, number(now))));
        assert!(model.tx.contains_key(&(5, number(now + HORIZON))));
        assert!(model.count() <= ring_size(HORIZON, PERIOD) as usize);
        now += 700_000_000;
    }
    // Without the controller: live until the horizon, dark after it.
    assert_eq!(model.live(now + HORIZON - 2 * PERIOD).len(), 3);
    assert!(model.live(now + HORIZON + 2 * PERIOD).is_empty());
}

#[test]
fn advancing_within_a_slot_costs_nothing() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    loader.advance(&session, NOW, HORIZON, &mut model).unwrap();
    let calls = model.calls;
    loader.advance(&session, NOW, HORIZON, &mut model).unwrap();
    assert_eq!(model.calls, calls);
}

#[test]
fn slots_before_the_first_allowed_one_are_never_loaded() {
    let first = number(NOW) + 2;
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, first));
    let mut now = NOW;
    while now < NOW + 10 * PERIOD {
        loader.advance(&session, now, HORIZON, &mut model).unwrap();
        assert!(model.rx.values().flatten().all(|slot| u64::from(slot.slot) >= first));
        now += PERIOD / 3;
    }
    assert_eq!(model.live(now).len(), 3);
}

#[test]
fn everything_is_unloaded_at_the_end() {
    let (session, mut model, mut loader) = (session(64), Model::default(), Loader::new(PLACE, 0));
    loader.advance(&session, NOW, HORIZON, &mut model).unwrap();
    loader.unload(&session, &mut model).unwrap();
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
            let _ = loader.advance(&session, now, HORIZON, &mut model);
            model.fail_at = None;
            loader.advance(&session, now, HORIZON, &mut model).unwrap();
            let current = number(now) as u32;
            prop_assert_eq!(model.live(now), vec![current - 1, current, current + 1]);
            prop_assert_eq!(model.count() as u64, loader.loaded().end - loader.loaded().start);
        }
    }
}

#[test]
fn the_ring_has_room_for_all_that_is_loaded() {
    for (horizon, period) in [(60, 1), (60, 3), (60, 20), (5, 1), (10_800, 3_600)] {
        let second = 1_000_000_000;
        let ring = u64::from(ring_size(horizon * second, period * second));
        assert!(ring.is_power_of_two() && ring >= horizon / period + 3, "{horizon} {period} {ring}");
    }
}
