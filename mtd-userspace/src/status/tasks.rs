//! The state of the controller itself: its tasks and its events.

use serde::{Deserialize, Serialize};

/// A task of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Whether it runs now; a failed task pauses before it is restarted.
    pub running: bool,
    /// How often it has failed: ended before the shutdown.
    pub failures: u64,
    /// The last failure; absent if there was none.
    pub last_failure: Option<String>,
}

/// Repairs of the tunnel device, which somebody else had changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repairs {
    /// How many since the controller started.
    pub count: u64,
    /// What the last one did; absent if there was none.
    pub last: Option<String>,
    /// Whether the device was changed so often that mtd leaves it alone for a while between repairs.
    pub contested: bool,
}

/// The events of `mtd events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Number of events since the controller started.
    pub published: u64,
    /// Number of events that were lost because followers were too slow, over all followers.
    pub lost: u64,
}
