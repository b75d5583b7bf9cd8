//! What happens, for whoever wants to know: typed events on a bus that never waits for anybody.
//!
//! Everything that publishes says what has happened in values of its own; JSON and text are made where somebody reads.
//! A [`Subscriber`] has a queue of its own, bounded, and learns how many events it was too slow for. The bus keeps the
//! last events of each [`Lane`] for those who come later: a flood of dropped packets displaces no other event.

mod bus;
mod event;
mod lanes;

pub use bus::{Bus, Received, Subscriber};
pub use event::{
    Configuration, Dropped, Event, Kind, PathChange, Peer, Record, Registration, RegistrationChange,
    SessionChange, TaskEnd,
};
pub use lanes::{Lane, Room};
