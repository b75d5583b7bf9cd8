//! The three clocks, each a type of its own, so that times of different clocks cannot be mixed up.
//!
//! Boot time never steps, and only this host knows it. Unix time is that of the wall clock, which may step. Session time is
//! what both ends of a session count slots by: boot time plus an offset that stays fixed while the session lasts. It starts
//! as Unix time, which is why Unix time can be converted to session time, but not back.

use std::ops::Add;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// An instant of `CLOCK_BOOTTIME`, in ns since the host has booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNs(pub u64);

impl BootNs {
    /// Stands for "not yet", for instance if no packet has come so far.
    pub const NEVER: Self = Self(0);

    /// Time in ns since `earlier`; 0 if that lies in the future.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this is an instant, not [`BootNs::NEVER`].
    pub const fn happened(self) -> bool {
        self.0 > 0
    }
}

/// The instant this many ns later.
impl Add<u64> for BootNs {
    type Output = Self;

    fn add(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// An instant of the wall clock, in ns since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNs(pub u64);

impl UnixNs {
    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / SECOND
    }

    /// Whole milliseconds since the Unix epoch.
    pub const fn milliseconds(self) -> u64 {
        self.0 / MILLISECOND
    }

    /// Seconds since the Unix epoch, as the documents show them.
    pub const fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time of a session whose clock follows this wall clock.
    pub const fn session(self) -> SessionNs {
        SessionNs(self.0)
    }
}

/// An instant of a session's clock, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNs(pub u64);

impl SessionNs {
    /// Later than every instant.
    pub const NEVER: Self = Self(u64::MAX);

    /// Time in ns since `earlier`; 0 if that lies in the future.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The instant this many ns later.
impl Add<u64> for SessionNs {
    type Output = Self;

    fn add(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// Session time minus boot time in ns, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClockOffset(pub u64);

impl ClockOffset {
    /// The offset of a session whose clock shows `time` at an instant of boot time.
    pub const fn of(time: SessionNs, at: BootNs) -> Self {
        Self(time.0.wrapping_sub(at.0))
    }

    /// The time of the session at an instant of boot time.
    pub const fn session(self, at: BootNs) -> SessionNs {
        SessionNs(at.0.wrapping_add(self.0))
    }

    /// The number of ns by which a clock with this offset is ahead of one with the other offset.
    pub const fn ahead_of(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// The offset of a clock that is `ns` ahead of this one.
    #[must_use]
    pub const fn moved(self, ns: i64) -> Self {
        Self(self.0.wrapping_add_signed(ns))
    }
}

/// Readings of both clocks of this host at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Boot time.
    pub boot: BootNs,
    /// The wall clock.
    pub wall: UnixNs,
}

impl Reading {
    /// The offset of a session that starts now, by the wall clock.
    pub const fn offset(self) -> ClockOffset {
        ClockOffset::of(self.wall.session(), self.boot)
    }

    /// The Unix time at another instant of boot time, by this reading of the wall clock.
    pub const fn unix(self, at: BootNs) -> UnixNs {
        UnixNs(at.0.wrapping_add(self.offset().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_clock_is_boot_time_plus_its_offset_also_across_zero() {
        let now = Reading { boot: BootNs(1000), wall: UnixNs(400) };
        let offset = now.offset();
        assert_eq!(offset.session(BootNs(1000)), SessionNs(400));
        assert_eq!(offset.session(BootNs(1700)), SessionNs(1100));
        assert_eq!(offset.moved(-50).ahead_of(offset), -50);
        assert_eq!(now.unix(BootNs(2000)), UnixNs(1400));
    }

    #[test]
    fn no_time_has_passed_since_what_is_yet_to_come() {
        assert_eq!(BootNs(5).since(BootNs(9)), 0);
        assert_eq!(BootNs(9).since(BootNs(5)), 4);
        assert_eq!(BootNs(u64::MAX) + 5, BootNs(u64::MAX));
        assert!(!BootNs::NEVER.happened() && BootNs(1).happened());
    }
}
