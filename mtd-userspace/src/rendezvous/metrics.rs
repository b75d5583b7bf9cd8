//! The metrics of rendezvous for Prometheus.

use crate::prometheus::{Kind, Text};
use crate::status::{Network, Status};

/// The metrics of rendezvous.
pub fn metrics(status: &Status, text: &mut Text) {
    let Some(rendezvous) = &status.rendezvous else { return };
    let counters = [
        ("mtd_rendezvous_publications_total", rendezvous.published, "Introductions published."),
        ("mtd_rendezvous_fetches_total", rendezvous.fetched, "Introductions fetched and accepted."),
        ("mtd_rendezvous_failures_total", rendezvous.failed, "Publications and fetches that failed."),
    ];
    for (name, value, help) in counters {
        text.single(name, Kind::Counter, help, value);
    }
    let help = "What the DHT gave and was not accepted, by reason.";
    text.by_reason("mtd_rendezvous_rejected_total", help, &rendezvous.rejected);
    let help = "Publications and fetches that are due or under way.";
    text.single("mtd_rendezvous_pending", Kind::Gauge, help, rendezvous.pending);
    let reachable = match rendezvous.network {
        Network::Ok => Some(1),
        Network::Unreachable => Some(0),
        Network::Unknown => None,
    };
    if let Some(reachable) = reachable {
        let help = "1 if nodes of the DHT answer, otherwise 0.";
        text.single("mtd_rendezvous_reachable", Kind::Gauge, help, reachable);
    }
    let times = [
        (
            "mtd_rendezvous_publication_timestamp_seconds",
            rendezvous.last_publication,
            "When an introduction was last published.",
        ),
        (
            "mtd_rendezvous_fetch_timestamp_seconds",
            rendezvous.last_fetch,
            "When an introduction was last fetched and accepted.",
        ),
    ];
    for (name, time, help) in times {
        if let Some(time) = time {
            text.single(name, Kind::Gauge, help, time);
        }
    }
    let help = "Length of a window.";
    text.single("mtd_rendezvous_window_seconds", Kind::Gauge, help, rendezvous.window_seconds);
}
