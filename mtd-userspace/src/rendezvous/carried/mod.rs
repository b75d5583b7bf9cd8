//! Introductions in files: read at the client, handed out at the server. For networks that let nothing of the DHT through.

mod handing;
mod reading;

pub(super) use handing::Handout;
pub use handing::{INTRODUCTIONS_PATH, IntroductionDocument};
pub(super) use reading::{Source, watch};
