//! Typed events about everything that happens, on a bus that never waits for a subscriber.
//!
//! Publishers use typed values; JSON and text are made by the readers. A [`Subscriber`] has a bounded queue of its own, and
//! learns how many events it lost. The bus keeps the last events of each [`Lane`] for later subscribers: a flood of dropped
//! packets displaces no other event.

mod bus;
mod event;
mod lanes;

pub use bus::{Bus, Received, Subscriber};
pub use event::{
    Configuration, Dropped, Event, Kind, PathChange, Peer, Record, Registration, RegistrationChange, Repair,
    SessionChange, TaskEnd,
};
pub use lanes::{Lane, Room};
