//! The kernel side: loading, attaching and pinning the programs, typed access to their maps.

mod addresses;
mod error;
mod keystream;
mod links;
mod maps;
mod object;
mod pinned;
mod plane;
mod programs;
pub mod report;
mod shared;
mod steering;

pub use error::Error;
pub use keystream::{Maker, Worker};
pub use links::{XdpMode, pinned_mode};
pub use maps::{Counts, MAX_ROUTES, SessionTraffic};
pub use pinned::{View, view};
pub use plane::{Capacity, Plane, Settings, remove_pins};
pub use programs::{program_name, programs};
pub use steering::steering_cpus;
