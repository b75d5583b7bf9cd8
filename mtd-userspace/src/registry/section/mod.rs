//! `[listen]` and `[[client]]` in the configuration: this host as a server with registered clients.

mod client;
mod listen;

pub use client::{CLIENT, Client, Clients};
pub use listen::{DEFAULT_CLIENTS_DIR, LISTEN, Listen, ListenFields};
