//! How the controller itself does: its tasks and its events.

use serde::{Deserialize, Serialize};

/// A task of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Whether it runs now; one that has failed rests before it is started again.
    pub running: bool,
    /// How often it has ended although it should go on.
    pub failures: u64,
    /// Why it has ended the last time; absent when it never has.
    pub last_failure: Option<String>,
}

/// The events of `mtd events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// How many there were since the controller started.
    pub published: u64,
    /// Those that followers were too slow for, over all followers.
    pub lost: u64,
}
