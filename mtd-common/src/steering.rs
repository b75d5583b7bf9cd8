//! The choice of the CPU on which the packets of a session are opened.
//!
//! A network card hands all packets of a session to one CPU, and there they would be opened, delivered and run through
//! the kernel's stack: one after the other, while other CPUs idle. So the packets of a busy session are handed to a
//! second CPU after the cheap checks. A quiet session stays where its packets arrive, since a hand-over costs time.
//!
//! Packets stay in order: the CPU of a session changes only while none of its packets is on its way to another CPU.

use crate::abi::Steering;

/// Length of an interval of the measurement, in ns.
const INTERVAL: u64 = 1 << 20;

/// After this many intervals without a measurement, earlier measurements are discarded.
const MEMORY: u64 = 16;

/// The fixed cost of a packet, in units of the cost of opening one byte.
const PACKET: u64 = 256;

/// Work in one interval, in bytes, at which a session becomes busy: opening takes about a fifth of one CPU.
const BUSY: u64 = 48 * 1024;

/// Work in one interval, in bytes, below which it is quiet again.
const QUIET: u64 = BUSY / 4;

/// Largest number of packets of one session that wait for another CPU. Packets that come faster than that CPU opens them are
/// lost in the end; but without room for a burst of each sender, senders that share a session lose far too much
/// (`docs/steering.md`).
pub const MAX_WAITING: u64 = 4096;

/// Number of packets that the queue of a CPU has room for, of all sessions together. The kernel allows up to 16384.
pub const QUEUE: u32 = 8192;

/// Time in ns after which a packet that was handed over either has been opened or is lost.
const DRAINED: u64 = 200_000_000;

/// The decision on a packet that has passed the cheap checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is opened on the CPU that received it.
    Here,
    /// It is handed to the CPU of this number.
    There(u32),
    /// It is dropped: too many packets wait already.
    Full,
}

impl Steering {
    /// Counts a packet with `length` bytes of inner packet at boot time `now` (ns) to the work of its session.
    #[inline(always)]
    pub const fn measure(&mut self, length: usize, now: u64) {
        self.work += length as u64 + PACKET;
        let elapsed = now.saturating_sub(self.began) / INTERVAL;
        if elapsed == 0 {
            return;
        }
        // Fast up and slowly down: a stream with short pauses is not moved back and forth.
        let faded = if elapsed < MEMORY { self.rate - self.rate / 8 } else { 0 };
        let measured = self.work / elapsed;
        self.rate = if measured > faded { measured } else { faded };
        self.work = 0;
        self.began = now;
    }

    /// Decides where a packet is opened that CPU number `here` received at boot time `now` (ns), and how many packets
    /// must have been lost. `taken`: [`crate::abi::SessionState::rx_taken`]. `pick` chooses another CPU.
    #[inline(always)]
    pub fn decide(
        &mut self,
        taken: u64,
        here: u32,
        now: u64,
        pick: impl FnOnce() -> Option<u32>,
    ) -> (Decision, u64) {
        let waiting = self.handed.saturating_sub(taken);
        let mut lost = 0;
        if waiting == 0 || now.saturating_sub(self.handed_at) > DRAINED {
            lost = waiting;
            if self.rate < QUIET {
                self.target = 0;
            } else if self.rate >= BUSY && (self.target == 0 || self.target == u64::from(here) + 1) {
                self.target = pick().map_or(0, |cpu| u64::from(cpu) + 1);
            }
        } else if waiting >= MAX_WAITING {
            return (Decision::Full, 0);
        }
        let decision = match self.target {
            0 => Decision::Here,
            target => Decision::There((target - 1) as u32),
        };
        (decision, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// A session whose packets of 1,400 bytes come at regular intervals.
    struct Session {
        steering: Steering,
        taken: u64,
        now: u64,
    }

    impl Session {
        fn new() -> Self {
            Self { steering: Steering::default(), taken: 0, now: 1_000 * MILLISECOND }
        }

        /// One packet, `distance` ns after the one before; CPU 0 receives, and 3 is the other one.
        fn packet(&mut self, distance: u64) -> (Decision, u64) {
            self.now += distance;
            self.steering.measure(1_400, self.now);
            let (decision, lost) = self.steering.decide(self.taken, 0, self.now, || Some(3));
            if lost > 0 {
                self.steering.handed = self.taken;
            }
            if let Decision::There(_) = decision {
                self.steering.handed += 1;
                self.steering.handed_at = self.now;
            }
            (decision, lost)
        }

        /// The same, `count` times; the other CPU takes each at once. Returns the last decision.
        fn stream(&mut self, distance: u64, count: u32) -> Decision {
            let mut last = Decision::Here;
            for _ in 0..count {
                last = self.packet(distance).0;
                self.taken = self.steering.handed;
            }
            last
        }
    }

    #[test]
    fn a_busy_session_moves_within_two_intervals_and_a_quiet_one_never() {
        let mut busy = Session::new();
        assert_eq!(busy.stream(10_000, 220), Decision::There(3));
        let mut quiet = Session::new();
        assert_eq!(quiet.stream(100_000, 10_000), Decision::Here);
        assert_eq!(quiet.steering.handed, 0);
    }

    #[test]
    fn a_pause_of_some_milliseconds_moves_nothing_and_a_long_one_does() {
        let mut session = Session::new();
        session.stream(10_000, 1_000);
        assert_eq!(session.packet(3 * MILLISECOND).0, Decision::There(3));
        session.taken = session.steering.handed;
        assert_eq!(session.packet(50 * MILLISECOND).0, Decision::Here);
    }

    #[test]
    fn nothing_is_opened_here_while_packets_wait_there() {
        let mut session = Session::new();
        session.stream(10_000, 1_000);
        session.packet(10_000);
        for _ in 0..900 {
            assert_eq!(session.packet(180_000).0, Decision::There(3), "one packet waits");
        }
        session.taken = session.steering.handed;
        assert_eq!(session.packet(180_000).0, Decision::Here, "quiet for long, and nothing waits");
    }

    #[test]
    fn too_many_that_wait_are_refused_until_the_other_cpu_goes_on() {
        let mut session = Session::new();
        session.stream(10_000, 1_000);
        for _ in 0..MAX_WAITING {
            assert_eq!(session.packet(1_000).0, Decision::There(3));
        }
        assert_eq!(session.packet(1_000).0, Decision::Full);
        session.taken += 1;
        assert_eq!(session.packet(1_000).0, Decision::There(3));
        assert_eq!(session.packet(1_000).0, Decision::Full);
    }

    #[test]
    fn lost_packets_are_noticed_and_hold_nothing_up_for_long() {
        let mut session = Session::new();
        session.stream(10_000, 1_000);
        for _ in 0..MAX_WAITING {
            session.packet(1_000);
        }
        // The other CPU takes none of them. Further packets are refused.
        let mut refused = 0;
        loop {
            match session.packet(10_000) {
                (Decision::Full, _) => refused += 1,
                (decision, lost) => {
                    assert_eq!((decision, lost), (Decision::There(3), MAX_WAITING));
                    break;
                }
            }
        }
        assert!((19_000..21_000).contains(&refused), "{refused} packets in a fifth of a second");
    }

    #[test]
    fn packets_that_arrive_on_the_cpu_they_go_to_find_another_one() {
        let mut steering = Steering { rate: BUSY, target: 1, ..Steering::default() };
        assert_eq!(steering.decide(0, 0, 0, || Some(3)), (Decision::There(3), 0));
        assert_eq!(steering.decide(0, 0, 0, || Some(5)), (Decision::There(3), 0), "it stays there");
        let mut alone = Steering { rate: BUSY, ..Steering::default() };
        assert_eq!(alone.decide(0, 0, 0, || None), (Decision::Here, 0));
    }
}
