//! Numbers that name something, each a type of its own.

use std::fmt;

/// The index of an element in the session table of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

/// A server of the configuration that this host is a client of: its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// A peer, the same in all sessions with it ([`mtd_common::abi::Session::peer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNumber(pub u32);

impl SessionIndex {
    /// Its position in a list of all elements.
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl ClientId {
    /// Its position in the list of the configured servers.
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SessionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
