//! Probers on paths that lose packets: by length, by chance, all of them.

use proptest::prelude::*;

use super::*;

const MOST: u32 = 1500;
const TICK: u64 = 100 * MILLISECOND;
const RAISE: u64 = 600 * SECOND;

/// A prober, and the path that it probes.
struct World {
    prober: Prober,
    now: BootNs,
    /// What the path carries.
    width: u32,
    /// Of 1,000 packets, how many the path loses in each direction.
    loss: u32,
    /// Time of a round trip in ns.
    trip: u64,
    /// Whether the peer knows probes.
    answers: bool,
    /// Long packets are sent.
    busy: bool,
    long: u64,
    answering: Vec<(BootNs, u64)>,
    sent: Vec<Probe>,
    state: u64,
}

impl World {
    fn new(width: u32) -> Self {
        let now = BootNs(SECOND);
        Self {
            prober: Prober::new(MOST, RAISE, now),
            now,
            width,
            loss: 0,
            trip: 20 * MILLISECOND,
            answers: true,
            busy: false,
            long: 0,
            answering: Vec::new(),
            sent: Vec::new(),
            state: 1,
        }
    }

    fn lost(&mut self) -> bool {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.state >> 33) % 1000) < u64::from(self.loss)
    }

    /// Lets `time` ns pass.
    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + TICK;
            self.long += u64::from(self.busy);
            let due: Vec<_> = self.answering.extract_if(.., |(at, _)| *at <= self.now).collect();
            for (_, id) in due {
                assert!(self.prober.handle_answer(id, self.now));
            }
            if self.prober.wake() > self.now {
                continue;
            }
            let seen = Seen { most: MOST, long: self.long, heard: true };
            let mut next = self.sent.len() as u64;
            let mut random = || {
                next += 1;
                next
            };
            for probe in self.prober.poll(seen, self.now, &mut random) {
                self.sent.push(probe);
                let arrives = self.answers && probe.size <= self.width && !self.lost() && !self.lost();
                if arrives {
                    self.answering.push((self.now + self.trip, probe.id));
                }
            }
        }
    }

    fn found(&self) -> (u32, bool) {
        (self.prober.size(), self.prober.is_sure())
    }
}

#[test]
fn a_path_as_wide_as_the_interface_costs_three_probes() {
    let mut world = World::new(MOST);
    world.run(60 * SECOND);
    assert_eq!(world.found(), (MOST, true));
    assert_eq!(world.sent.iter().map(|probe| probe.size).collect::<Vec<_>>(), [SHORT, MOST, SHORT]);
}

#[test]
fn a_narrow_path_is_found_to_the_byte_within_seconds() {
    for width in [1280, 1281, 1300, 1351, 1352, 1399, 1400, 1454, 1492, 1499] {
        let mut world = World::new(width);
        world.run(3 * SECOND);
        let (size, _) = world.found();
        assert!((LEAST..=width).contains(&size), "{width}: uses {size}");
        world.run(10 * SECOND);
        assert_eq!(world.found(), (width, true));
        assert!(world.sent.len() < 130, "{width}: {} probes", world.sent.len());
        let before = world.sent.len();
        world.run(RAISE / 2);
        assert_eq!(world.sent.len(), before, "nothing is asked while nothing long is sent");
    }
}

#[test]
fn a_path_that_narrows_under_traffic_is_noticed_and_raised_again_later() {
    let mut world = World::new(MOST);
    world.run(5 * SECOND);
    world.busy = true;
    world.run(5 * SECOND);
    world.width = 1400;
    world.run(1_600 * MILLISECOND);
    assert!((LEAST..=1400).contains(&world.found().0), "{:?}", world.found());
    world.run(10 * SECOND);
    assert_eq!(world.found(), (1400, true));
    world.width = MOST;
    world.run(RAISE - 20 * SECOND);
    assert_eq!(world.found(), (1400, true));
    world.run(30 * SECOND);
    assert_eq!(world.found(), (MOST, true));
}

#[test]
fn confirmation_costs_one_probe_a_second_and_only_while_long_packets_are_sent() {
    let mut world = World::new(MOST);
    world.run(5 * SECOND);
    let idle = world.sent.len();
    world.busy = true;
    world.run(100 * SECOND);
    let busy = world.sent.len() - idle;
    assert!((85..=100).contains(&busy), "{busy}");
    world.busy = false;
    world.run(2 * SECOND);
    let before = world.sent.len();
    world.run(100 * SECOND);
    assert_eq!(world.sent.len(), before);
}

#[test]
fn an_older_peer_is_asked_seldom_and_changes_nothing() {
    let mut world = World::new(1400);
    (world.answers, world.busy) = (false, true);
    world.run(3_600 * SECOND);
    assert_eq!(world.found(), (MOST, false));
    assert!(world.sent.len() < 60 && world.sent.iter().all(|probe| probe.size == SHORT));
    world.prober.handle_told(1300);
    assert_eq!(world.found().0, MOST, "what routers say of it is kept elsewhere");
    // It is replaced by a later version.
    world.answers = true;
    world.run(RAISE + 20 * SECOND);
    assert_eq!(world.found(), (1400, true));
}

#[test]
fn an_outage_is_no_narrow_path() {
    let mut world = World::new(MOST);
    world.busy = true;
    world.run(10 * SECOND);
    let before = world.sent.len();
    world.width = 0;
    world.run(60 * SECOND);
    assert_eq!(world.found(), (MOST, true));
    assert!(world.sent.len() - before < 80, "{} probes in an outage", world.sent.len() - before);
    // It comes back by another path.
    world.width = 1350;
    world.run(9 * SECOND);
    assert!(world.found().0 <= 1350, "{:?}", world.found());
    world.run(10 * SECOND);
    assert_eq!(world.found(), (1350, true));
}

#[test]
fn a_path_below_the_least_is_told_apart() {
    let mut world = World::new(1279);
    world.run(20 * SECOND);
    assert_eq!((world.found().0, world.prober.is_too_small()), (LEAST, true));
    world.width = 1400;
    world.run(RAISE + 20 * SECOND);
    assert_eq!((world.found(), world.prober.is_too_small()), ((1400, true), false));
}

#[test]
fn a_report_is_followed_at_once_and_a_lie_does_not_last() {
    let mut world = World::new(MOST);
    world.run(5 * SECOND);
    world.prober.handle_told(1300);
    assert_eq!(world.found(), (1300, false));
    world.run(2 * SECOND);
    assert_eq!(world.found(), (MOST, true), "somebody has lied");
    world.width = 1400;
    world.prober.handle_told(1400);
    assert_eq!(world.found().0, 1400);
    world.run(5 * SECOND);
    assert_eq!(world.found(), (1400, true));
    // Whoever tells of less and less again and again cannot keep it there.
    for size in (1281..1300).rev() {
        world.prober.handle_told(size);
        world.run(TICK);
    }
    world.run(20 * SECOND);
    assert_eq!(world.found(), (1400, true));
}

#[test]
fn only_what_was_asked_is_answered() {
    let mut world = World::new(MOST);
    world.width = 1400;
    world.run(2 * SECOND);
    let size = world.found();
    for id in [0, u64::MAX, 1 << 40] {
        assert!(!world.prober.handle_answer(id, world.now));
    }
    assert_eq!(world.found(), size);
}

#[test]
fn a_slow_path_is_no_narrow_path() {
    for trip in [300, 700, 1_400, 2_500] {
        let mut world = World::new(MOST);
        (world.trip, world.busy) = (20 * MILLISECOND, true);
        world.run(10 * SECOND);
        // A queue on the way has filled up.
        world.trip = trip * MILLISECOND;
        world.run(60 * SECOND);
        assert_eq!(world.found(), (MOST, true), "{trip} ms");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn loss_of_five_in_a_hundred_each_way_shrinks_nothing(seed in any::<u64>(), width in LEAST..=MOST) {
        let mut world = World::new(width);
        (world.loss, world.state, world.busy) = (50, seed, true);
        world.run(30 * SECOND);
        let mut short = 0;
        for _ in 0..600 {
            world.run(SECOND);
            prop_assert!(world.found().0 <= width);
            short += u32::from(world.found().0 + 100 < width);
        }
        prop_assert!(short <= 6, "{short} of 600 s with much less than {width}");
    }
}
