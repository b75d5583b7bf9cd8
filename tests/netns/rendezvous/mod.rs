//! Hosts that know only each other's public keys: how they find each other through a DHT, what their sessions survive, and
//! what strangers can achieve.

mod claims;
mod clocks;
mod copies;
mod crashes;
mod dht;
mod events;
mod filter;
mod flood;
mod insider;
mod insiders;
mod path_mtu;
mod registry;
mod replays;
mod restarts;
mod roaming;
mod sleep;
mod steady;
mod strangers;
mod sybils;
mod torture;
pub(crate) mod watch;
mod web;
mod windows;
pub(crate) mod world;

use std::time::Duration;

/// How long a session may take to open on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
