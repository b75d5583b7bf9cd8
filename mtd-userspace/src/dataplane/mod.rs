//! The kernel side: loading, attaching and pinning the programs, typed access to their maps.

mod addresses;
mod clock;
mod error;
mod filter;
mod groups;
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
mod settings;
mod shared;
mod stages;
mod steering;

pub use clock::{boot_time, slept};
pub use error::Error;
pub use filter::Policies;
pub use groups::MAX_ROUTES;
pub use keystream::{Maker, Worker};
pub use links::{XdpMode, pinned_mode};
pub use pinned::{View, counts, set_guard, view};
pub use pins::{abandon, remove_pins};
pub use plane::Plane;
pub use programs::{program_name, programs};
pub use settings::{Capacity, Settings};
pub use steering::steering_cpus;
