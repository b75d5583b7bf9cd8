//! Attacks on the packets of a running tunnel: what an observer of the server's link can see, and what a stranger learns
//! from scans, solicitations, replays and forged packets. Meanwhile a TCP connection runs through the tunnel.

mod bystanders;
mod disguise;
mod forgeries;
mod held_back;
mod replays;
mod scans;
mod scene;
mod solicitations;

pub(crate) use self::scene::{Drops, difference, ends, icmp};
