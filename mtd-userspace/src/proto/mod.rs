//! What decides: sessions, slots, clocks. Sans-IO: time and randomness come in as arguments, effects go out through
//! traits and return values.

pub mod clock;
pub mod session;
pub mod slots;
