//! What is counted, and what the kernel tells of programs and maps. The documents of the control socket show these as they are.

use std::collections::BTreeMap;

use mtd_common::DropReason;
use serde::{Deserialize, Serialize};

/// What the programs counted since they were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Drops, the reasons that occurred only.
    pub drops: BTreeMap<DropReason, u64>,
    /// What would have been dropped where nothing was enforced, the reasons that occurred only.
    pub would_drop: BTreeMap<DropReason, u64>,
    /// Everything else.
    pub frames: Frames,
}

/// What went through a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionTraffic {
    /// Inner packets received.
    pub received: Traffic,
    /// Inner packets sent.
    pub sent: Traffic,
    /// `CLOCK_BOOTTIME` in ns of the last valid packet; 0: none yet.
    pub last_valid: u64,
}

/// Frames that were not dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Not ours: handed to the kernel untouched.
    pub passed: u64,
    /// Valid packets, opened and delivered.
    pub accepted: u64,
    /// Inner packets sealed and sent.
    pub sent: u64,
    /// Neighbour solicitations answered.
    pub neighbour_answered: u64,
    /// Drop events that were counted but not reported (rate limit, slow reader).
    pub events_suppressed: u64,
    /// Control messages handed to the controller.
    #[serde(default)]
    pub control: u64,
    /// Handed to another CPU, to be opened there.
    #[serde(default)]
    pub steered: u64,
    /// Of those, lost on the way, because that CPU's queue was full.
    #[serde(default)]
    pub steering_lost: u64,
    /// Packets sealed with key stream that was made ahead.
    #[serde(default)]
    pub sealed_ahead: u64,
    /// Packets opened with key stream that was made ahead.
    #[serde(default)]
    pub opened_ahead: u64,
    /// Refused, and passed to the kernel because `allow` names them.
    #[serde(default)]
    pub allowed: u64,
    /// Packet Too Big messages that were believed.
    #[serde(default)]
    pub too_big: u64,
}

/// Inner packets.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, inner headers included.
    pub bytes: u64,
}

/// Inner packets of all sessions together since the controller started, those of ended sessions included.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// A program in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its number, as `bpftool prog` shows it.
    pub id: u32,
    /// A hash of its instructions, 16 hexadecimal digits.
    pub tag: String,
    /// When it was loaded, in unix seconds.
    pub loaded: Option<f64>,
    /// How often it ran; 0 unless the kernel counts that (`sysctl kernel.bpf_stats_enabled=1`).
    pub runs: u64,
    /// How long it ran altogether, in seconds; as `runs`.
    pub run_seconds: f64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// `addresses`, `sessions` or `routes`.
    pub name: String,
    /// Entries that are taken.
    pub used: u64,
    /// Entries that there is room for.
    pub capacity: u64,
}
