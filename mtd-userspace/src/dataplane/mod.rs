//! The kernel side: loading, attaching and pinning the programs, typed access to their maps.

mod addresses;
mod error;
mod guard;
mod keystream;
mod links;
mod maps;
mod object;
mod pinned;
mod pins;
mod plane;
mod programs;
pub mod report;
pub mod section;
mod shared;
mod steering;

pub use error::Error;
pub use guard::boot_time;
pub use keystream::{Maker, Worker};
pub use links::{XdpMode, pinned_mode};
pub use maps::MAX_ROUTES;
pub use pinned::{View, set_guard, view};
pub use pins::{abandon, remove_pins};
pub use plane::{Capacity, Plane, Settings};
pub use programs::{program_name, programs};
pub use steering::steering_cpus;
