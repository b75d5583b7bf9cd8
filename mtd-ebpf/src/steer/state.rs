//! The steering state of a session.

use mtd_common::abi::Steering;
use mtd_common::window::Word;

use crate::atomic::Shared;
use crate::session::State;

impl State {
    /// The data for the decision where packets are opened. CPUs that receive for one session at the same time may mix up
    /// each other's values: they are estimates, and no decision based on them is wrong.
    #[inline(always)]
    pub(super) fn steering(self) -> Steering {
        // SAFETY: a field of a map value, aligned by its type, of which all bytes are valid.
        unsafe { (&raw const (*self.0).steering).read_volatile() }
    }

    /// Writes what [`Steering::measure`] and [`Steering::decide`] have changed.
    #[inline(always)]
    pub(super) fn set_steering(self, value: &Steering) {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let steering = &raw mut (*self.0).steering;
            Shared::new(&raw mut (*steering).began).store(value.began);
            Shared::new(&raw mut (*steering).work).store(value.work);
            Shared::new(&raw mut (*steering).rate).store(value.rate);
            Shared::new(&raw mut (*steering).target).store(value.target);
        }
    }

    /// Counts a packet handed to another CPU at `now` (boot time in ns).
    #[inline(always)]
    pub(super) fn count_handed(self, now: u64) {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let steering = &raw mut (*self.0).steering;
            Shared::new(&raw mut (*steering).handed).fetch_add(1);
            Shared::new(&raw mut (*steering).handed_at).store(now);
        }
    }

    /// Forgets packets that were handed over and will never be taken.
    #[inline(always)]
    pub(super) fn forget_handed(self, taken: u64) {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).steering.handed) }.store(taken);
    }

    /// Number of packets that another CPU has taken over.
    #[inline(always)]
    pub(super) fn taken(self) -> u64 {
        // SAFETY: a field of a map value, aligned by its type.
        Word::load(&unsafe { Shared::new(&raw mut (*self.0).rx_taken) })
    }

    /// Counts a packet taken over from another CPU.
    #[inline(always)]
    pub(super) fn count_taken(self) {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).rx_taken) }.fetch_add(1);
    }
}
