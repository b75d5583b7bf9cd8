//! The part of the status about announcing own addresses on the link.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// How neighbours learn of the own addresses, where packets come by neighbour discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The routers on the link that are told of every own address.
    pub routers: Vec<Ipv6Addr>,
    /// Announcements sent to routers.
    pub announced: u64,
    /// How often announcements had to wait for their rate limit.
    pub held_back: u64,
    /// Addresses that wait for it now.
    pub waiting: u64,
    /// Groups joined, for peers on the link itself.
    pub groups: u64,
    /// Own addresses whose group was not joined because there are too many already.
    pub groups_refused: u64,
}
