//! Limits that several rooms share. Those of the wire format come from `mtd-common`, in the controller's units.

use std::ops::RangeInclusive;
use std::time::Duration;

use mtd_common::packet::{OVERHEAD, too_big};
use mtd_common::slot;

/// MTU of an ordinary underlay in bytes: Ethernet (RFC 2464, section 2).
const ETHERNET_MTU: usize = 1500;

/// Longest inner packet in bytes: an ordinary underlay less what a packet of the tunnel adds.
pub const MAX_INNER_MTU: u16 = (ETHERNET_MTU - OVERHEAD) as u16;

/// Smallest maximum of inner packets in bytes: what IPv6 needs (RFC 8200, section 5).
pub const MIN_INNER_MTU: u16 = too_big::MIN_MTU as u16;

/// Shortest and longest slot (requirement MT-04).
pub const PERIOD_RANGE: (Duration, Duration) =
    (Duration::from_nanos(slot::MIN_PERIOD), Duration::from_nanos(slot::MAX_PERIOD));

/// The same in ms, for messages.
pub const PERIODS_MS: RangeInclusive<u32> =
    (slot::MIN_PERIOD / 1_000_000) as u32..=(slot::MAX_PERIOD / 1_000_000) as u32;

/// Slot length when the file says nothing (requirement MT-04).
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(3);

/// The horizon covers at least this many slots of every session: previous, current and next (requirement MT-05).
pub const MIN_SLOTS_AHEAD: u32 = 3;

/// Largest number of sessions that the maps can be made for.
pub const MAX_SESSIONS: u32 = 1_000_000;

/// Least time between the renewal of keys and their end: a lost handshake must leave time to repeat it.
pub const MIN_REKEY_MARGIN: Duration = Duration::from_secs(5);
