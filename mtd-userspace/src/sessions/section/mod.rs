//! The other ends that this host has sessions with, in the configuration: `[[peer]]` and `[[server]]`.

mod peer;
mod server;

pub use peer::{PEER, Peer, Peers};
pub use server::{DEFAULT_KEEPALIVE, KEEPALIVE_RANGE, SERVER, Server, ServerFields};
