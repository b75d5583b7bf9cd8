//! Metrics for Prometheus: the status, summed over all sessions, in the text format that Prometheus reads.
//!
//! Each label has a fixed set of values: no label contains a client's name, key or address, and the number of series does
//! not grow with the number of sessions. No library is used: counters are read on request, so there is nothing to
//! instrument, and the official library writes only `OpenMetrics`, which `promtool check metrics` does not read.

mod process;
pub mod section;
pub mod server;

use std::collections::BTreeMap;
use std::time::Instant;

use mtd_common::DropReason;
use mtd_common::abi::Counter;
use tokio::sync::Mutex;

use crate::model::{MapFill, Program};
use crate::prometheus::{Kind, Text};
use crate::status::{Handshakes, SessionCount, Slots, Status, WallClock, WarningCode};
use crate::subsystem;

/// Media type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long rendered metrics are reused, so that many readers cost no more than one.
const FRESH: std::time::Duration = std::time::Duration::from_millis(500);

/// The states of sessions, by role. Each has a series, even if no session is in that state.
const SESSION_STATES: [(&str, &[&str]); 3] = [
    ("peer", &["waiting", "open", "silent"]),
    ("client", &["finding", "connecting", "half-open", "open", "silent"]),
    ("server", &["half-open", "open"]),
];

/// Rendered metrics, while they are fresh.
#[derive(Default)]
pub struct Cache(Mutex<Option<(Instant, String)>>);

impl Cache {
    /// The metrics: the cached text while it is fresh, otherwise what `render` returns. Only one request renders at a time.
    ///
    /// # Errors
    /// Those of `render`.
    pub async fn get<E>(&self, render: impl AsyncFnOnce() -> Result<String, E>) -> Result<String, E> {
        let mut cached = self.0.lock().await;
        if let Some((since, text)) = &*cached
            && since.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let text = render().await?;
        *cached = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

/// The metrics of a status and of this process. `features` adds those of the features.
pub fn render(status: &Status, features: impl FnOnce(&mut Text)) -> String {
    let mut text = Text::default();
    let abi = status.abi.to_string();
    text.family("mtd_build_info", Kind::Gauge, "Version, commit and ABI of mtd, as labels: always 1.")
        .sample(&[("version", &status.version), ("commit", &status.commit), ("abi", &abi)], 1);
    text.family("mtd_data_plane_info", Kind::Gauge, "How the receive program is attached: always 1.")
        .sample(&[("xdp", &status.xdp), ("link", &status.link)], 1);
    frames(&mut text, status);
    drops(&mut text, status);
    sessions(&mut text, status);
    if let Some(slots) = &status.slots {
        self::slots(&mut text, slots);
    }
    maps(&mut text, &status.maps);
    programs(&mut text, &status.programs);
    if let Some(clock) = &status.clock {
        self::clock(&mut text, clock);
    }
    if let Some(counts) = &status.handshakes {
        handshakes(&mut text, counts);
    }
    let mut family =
        text.family("mtd_warning", Kind::Gauge, "1 if `mtd status` shows this warning, otherwise 0.");
    for code in WarningCode::ALL.iter().map(|code| code.as_str()) {
        let there = status.warnings.iter().any(|warning| warning.code == code);
        family.sample(&[("code", code)], u8::from(there));
    }
    subsystem::metrics(&status.tasks, &mut text);
    let help = "Events that followers, such as `mtd events --follow`, lost because they were too slow.";
    text.single("mtd_events_lost_total", Kind::Counter, help, status.events.lost);
    features(&mut text);
    process::render(&mut text);
    text.finish()
}

fn frames(text: &mut Text, status: &Status) {
    for &counter in Counter::ALL {
        text.single(counter.metric(), Kind::Counter, counter.help(), status.frames.get(counter));
    }
    let bytes = [
        (
            "mtd_received_bytes_total",
            status.traffic.received.bytes,
            "Bytes of inner packets received through sessions since the controller started.",
        ),
        (
            "mtd_sent_bytes_total",
            status.traffic.sent.bytes,
            "Bytes of inner packets sent through sessions since the controller started.",
        ),
    ];
    for (name, value, help) in bytes {
        text.single(name, Kind::Counter, help, value);
    }
}

fn drops(text: &mut Text, status: &Status) {
    let help = "Packets dropped, by reason; `mtd drops` says what the reasons mean.";
    drops_by_reason(text, "mtd_dropped_packets_total", help, &status.drops);
    let help = "Packets passed that would have been dropped if the policy were enforced, by reason.";
    drops_by_reason(text, "mtd_would_drop_packets_total", help, &status.would_drop);
    let help = "Whether refused packets are dropped: 0 with policy monitor, or if nobody confirmed in time.";
    text.single("mtd_enforced", Kind::Gauge, help, u8::from(status.guard.enforced));
}

fn drops_by_reason(text: &mut Text, name: &'static str, help: &str, drops: &BTreeMap<String, u64>) {
    let mut family = text.family(name, Kind::Counter, help);
    for reason in DropReason::ALL {
        let direction = if reason.is_sending() { "send" } else { "receive" };
        let count = drops.get(reason.name()).copied().unwrap_or_default();
        family.sample(&[("direction", direction), ("reason", reason.name())], count);
    }
}

fn sessions(text: &mut Text, status: &Status) {
    let mut family = text.family("mtd_sessions", Kind::Gauge, "Sessions by role of this host and state.");
    for (role, states) in SESSION_STATES {
        for state in states {
            let same = |found: &&SessionCount| found.role == role && found.state == *state;
            let count = status.session_counts.iter().find(same).map_or(0, |found| found.count);
            family.sample(&[("role", role), ("state", state)], count);
        }
    }
    let help = "Peers whose path has a smaller MTU than the interface, as reported by a router.";
    text.single("mtd_narrow_paths", Kind::Gauge, help, status.paths.narrow);
    if let Some(age) = status.last_valid_seconds {
        let help = "Time since the last valid packet of any session.";
        text.single("mtd_last_valid_packet_age_seconds", Kind::Gauge, help, age);
    }
    if let Some(offset) = status.clock_offset_seconds {
        let help = "Largest difference between a session's clock and the wall clock.";
        text.single("mtd_session_clock_offset_seconds", Kind::Gauge, help, offset);
    }
}

fn slots(text: &mut Text, slots: &Slots) {
    text.single("mtd_slots_loaded", Kind::Gauge, "Slots loaded, over all sessions.", slots.loaded);
    let help = "Loaded slots whose own address could not be entered in the table of addresses.";
    text.single("mtd_slots_missing", Kind::Gauge, help, slots.missing);
    if let Some(horizon) = slots.horizon_seconds {
        let help = "Time until the first session runs out of slots without its controller.";
        text.single("mtd_slot_horizon_seconds", Kind::Gauge, help, horizon);
    }
    let help = "How far loading lags behind the configured horizon.";
    text.single("mtd_slot_refresh_lag_seconds", Kind::Gauge, help, slots.lag_seconds);
    if let Some(refreshed) = slots.refreshed {
        let help = "When the controller last checked the loaded slots, in Unix time.";
        text.single("mtd_slot_refresh_timestamp_seconds", Kind::Gauge, help, refreshed);
    }
}

fn maps(text: &mut Text, maps: &[MapFill]) {
    let mut family = text.family("mtd_map_entries", Kind::Gauge, "Entries of a map that are in use.");
    for map in maps {
        family.sample(&[("map", &map.name)], map.used);
    }
    let help = "Entries that a map has room for.";
    let mut family = text.family("mtd_map_capacity_entries", Kind::Gauge, help);
    for map in maps {
        family.sample(&[("map", &map.name)], map.capacity);
    }
}

fn programs(text: &mut Text, programs: &[Program]) {
    let help = "Time that a program ran; 0 unless kernel.bpf_stats_enabled is on.";
    let mut family = text.family("mtd_program_run_seconds_total", Kind::Counter, help);
    for program in programs {
        family.sample(&[("program", &program.name)], program.run_seconds);
    }
    let help = "Runs of a program; 0 unless kernel.bpf_stats_enabled is on.";
    let mut family = text.family("mtd_program_runs_total", Kind::Counter, help);
    for program in programs {
        family.sample(&[("program", &program.name)], program.runs);
    }
}

fn clock(text: &mut Text, clock: &WallClock) {
    let help = "1 if a time service synchronises the wall clock, otherwise 0.";
    text.single("mtd_clock_synchronised", Kind::Gauge, help, u8::from(clock.synchronised));
    let help = "By how much the wall clock may be wrong, as its time service estimates.";
    text.single("mtd_clock_max_error_seconds", Kind::Gauge, help, clock.max_error_seconds);
}

fn handshakes(text: &mut Text, counts: &Handshakes) {
    let help = "First messages of handshakes that came through an introduction.";
    text.single("mtd_handshakes_received_total", Kind::Counter, help, counts.received);
    text.single("mtd_handshakes_answered_total", Kind::Counter, "First messages answered.", counts.answered);
    let help = "First messages of handshakes that were not answered, by reason.";
    text.by_reason("mtd_handshakes_refused_total", help, &counts.refused);
}

#[cfg(test)]
mod tests;
