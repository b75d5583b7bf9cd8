//! Attacks on a running tunnel, on the wire: what an observer of the server's link can see, and what a stranger gets
//! out of scans, solicitations, replays and forged packets. A TCP connection runs through the tunnel all the while.

mod bystanders;
mod disguise;
mod forgeries;
mod held_back;
mod replays;
mod scans;
mod scene;
mod solicitations;

pub(crate) use self::scene::{Drops, difference, ends, icmp};
