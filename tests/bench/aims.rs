//! The aims: what the benchmarks' figures should reach.

use serde_json::Value;

/// An aim of one benchmark.
pub(crate) struct Aim {
    /// The benchmark.
    pub(crate) benchmark: &'static str,
    /// What is compared.
    pub(crate) what: &'static str,
    /// The bound for the figure.
    pub(crate) bound: Bound,
    /// Finds the figure in the results, as they are written to a file; `None` if it was not measured.
    pub(crate) figure: fn(&Value) -> Option<f64>,
}

/// The bound for a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// Whether a figure is within the bound.
    pub(crate) fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

const fn aim(
    benchmark: &'static str,
    what: &'static str,
    bound: Bound,
    figure: fn(&Value) -> Option<f64>,
) -> Aim {
    Aim { benchmark, what, bound, figure }
}

use Bound::{AtLeast, AtMost};

/// All aims, in the order of the benchmarks.
pub(crate) const AIMS: &[Aim] = &[
    aim("drop", "strangers / bare, 1,000 sessions, random destinations", AtLeast(0.8), |all| {
        at(all, "/drop/unauthorised_1k/ratio_to_bare")
    }),
    aim("drop", "strangers / bare, 1,000 sessions, one destination", AtLeast(0.8), |all| {
        at(all, "/drop/unauthorised_1k_fixed/ratio_to_bare")
    }),
    aim("drop", "strangers / bare, 1,000,000 sessions, random destinations", AtLeast(0.65), |all| {
        at(all, "/drop/unauthorised_1m/ratio_to_bare")
    }),
    aim("drop", "strangers / bare, 1,000,000 sessions, one destination", AtLeast(0.65), |all| {
        at(all, "/drop/unauthorised_1m_fixed/ratio_to_bare")
    }),
    aim("drop", "wrong sequence numbers / bare", AtLeast(0.5), |all| {
        at(all, "/drop/bad_sequence/ratio_to_bare")
    }),
    aim("drop", "strangers, 1,000 sessions / nftables", AtLeast(2.5), |all| {
        quotient(all, "/drop/unauthorised_1k/mpps", "/drop/nft/mpps")
    }),
    aim("drop", "strangers, 1,000,000 sessions / nftables", AtLeast(2.5), |all| {
        quotient(all, "/drop/unauthorised_1m/mpps", "/drop/nft/mpps")
    }),
    aim("tunnel", "encrypted / veth without segmentation offload", AtLeast(0.25), |all| {
        quotient(all, "/tunnel/mtd_encrypt/gbps", "/tunnel/veth_nogso/gbps")
    }),
    aim("tunnel", "the same, 4 flows", AtLeast(0.25), |all| {
        quotient(all, "/tunnel/mtd_encrypt_4/gbps", "/tunnel/veth_nogso_4/gbps")
    }),
    aim("tunnel", "encrypted / the best peer in user space", AtLeast(2.0), |all| {
        Some(at(all, "/tunnel/mtd_encrypt/gbps")? / best_peer(all, "")?)
    }),
    aim("tunnel", "the same, 4 flows", AtLeast(2.0), |all| {
        Some(at(all, "/tunnel/mtd_encrypt_4/gbps")? / best_peer(all, "_4")?)
    }),
    aim("tunnel", "authenticated / veth without segmentation offload", AtLeast(0.6), |all| {
        quotient(all, "/tunnel/mtd_authenticate/gbps", "/tunnel/veth_nogso/gbps")
    }),
    aim("tunnel", "the same, 4 flows", AtLeast(0.6), |all| {
        quotient(all, "/tunnel/mtd_authenticate_4/gbps", "/tunnel/veth_nogso_4/gbps")
    }),
    aim("latency", "median added to bare veth by encryption, in µs", AtMost(30.0), |all| {
        Some(at(all, "/latency/mtd_encrypt/p50_us")? - at(all, "/latency/veth/p50_us")?)
    }),
    aim("latency", "median at slot edges / away from them", AtMost(1.1), |all| {
        quotient(all, "/latency/mtd_encrypt_edge/p50_us", "/latency/mtd_encrypt_away/p50_us")
    }),
    aim("latency", "99th percentile at slot edges / away from them", AtMost(1.1), |all| {
        quotient(all, "/latency/mtd_encrypt_edge/p99_us", "/latency/mtd_encrypt_away/p99_us")
    }),
    aim("rotate", "turn-over of 16,000 sessions, in ms", AtMost(50.0), |all| at(all, "/rotate/16k/slot_ms")),
    aim("rotate", "share of a core for 1,000,000 sessions", AtMost(0.5), |all| {
        at(all, "/rotate/1m/core_share")
    }),
    aim("rotate", "late entries of 1,000,000 sessions", AtMost(0.0), |all| at(all, "/rotate/1m/late")),
    aim("handshake", "handshakes per second and core", AtLeast(3000.0), |all| {
        at(all, "/handshake/per_second_core")
    }),
    aim("handshake", "bytes of a session in kernel maps", AtMost(1024.0), |all| {
        at(all, "/handshake/kernel_bytes_per_session")
    }),
    aim("handshake", "the same with room for 1,000,000", AtMost(1024.0), |all| {
        at(all, "/handshake/kernel_bytes_of_many")
    }),
    aim("handshake", "bytes of a session in the controller", AtMost(1024.0), |all| {
        at(all, "/handshake/controller_bytes_per_session")
    }),
    aim("publish", "seconds to publish for 15,000 clients (a window: 900)", AtMost(900.0), |all| {
        at(all, "/publish/15k/seconds")
    }),
    aim("publish", "share of a core for 15,000 clients", AtMost(0.25), |all| {
        at(all, "/publish/15k/core_share")
    }),
    aim("publish", "clients of 15,000 not published for", AtMost(0.0), |all| at(all, "/publish/15k/failed")),
];

/// The figure at this place in the results.
fn at(results: &Value, pointer: &str) -> Option<f64> {
    results.pointer(pointer)?.as_f64()
}

fn quotient(results: &Value, figure: &str, base: &str) -> Option<f64> {
    Some(at(results, figure)? / at(results, base)?)
}

/// The rate of the fastest other tunnel in user space, among the measured cases whose name has this ending.
fn best_peer(results: &Value, ending: &str) -> Option<f64> {
    let peers = ["wireguard_go", "boringtun", "openvpn", "nebula"];
    let rates = peers.iter().filter_map(|peer| at(results, &format!("/tunnel/{peer}{ending}/gbps")));
    rates.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures(results: &Value) -> Vec<(&'static str, f64, bool)> {
        let figure = |aim: &Aim| (aim.figure)(results).map(|x| (aim.what, x, aim.bound.holds(x)));
        AIMS.iter().filter_map(figure).collect()
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        assert_eq!(figures(&json!({ "drop": { "nft": { "mpps": 1.0 } } })), []);
    }

    #[test]
    fn bounds_hold_on_their_own_side() {
        let results =
            json!({ "rotate": { "16k": { "slot_ms": 50.0 }, "1m": { "core_share": 0.6, "late": 0 } } });
        let held: Vec<bool> = figures(&results).iter().map(|(.., holds)| *holds).collect();
        assert_eq!(held, [true, false, true]);
    }

    #[test]
    fn the_best_peer_counts() {
        let rate = |gbps: f64| json!({ "gbps": gbps });
        let results = json!({ "tunnel": {
            "mtd_encrypt": rate(3.0), "wireguard_go": rate(1.0), "boringtun": rate(2.0), "boringtun_4": rate(9.0),
        } });
        assert_eq!(figures(&results), [("encrypted / the best peer in user space", 1.5, false)]);
    }
}
