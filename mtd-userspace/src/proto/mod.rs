//! The protocols: rendezvous, handshakes, sessions, slots, clocks. Sans-IO: time and randomness come in as arguments,
//! effects go out through traits and return values.

pub mod backoff;
pub mod client;
pub mod clock;
pub mod exchange;
pub mod messages;
pub mod middlebox;
#[cfg(test)]
mod model;
pub mod noise;
pub mod packet;
pub mod path_probe;
pub mod rendezvous;
#[cfg(test)]
mod schedules;
pub mod server;
pub mod session;
pub mod slots;
#[cfg(test)]
mod vectors;
