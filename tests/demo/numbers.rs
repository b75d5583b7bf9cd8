//! The resulting numbers of the demonstration, in the form of `--json`.

use std::collections::BTreeMap;

use mtd_tests::traffic::{TcpReport, UdpReport};
use serde::Serialize;

/// The resulting numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Numbers {
    /// Slots that all traffic survived.
    pub(crate) slots: u32,
    /// Different protected addresses from which the server was seen to send.
    pub(crate) server_addresses_seen: usize,
    /// Different UDP ports from which it was seen to send.
    pub(crate) server_ports_seen: usize,
    /// All TCP connections.
    pub(crate) tcp: Tcp,
    /// All UDP streams.
    pub(crate) udp: Udp,
    /// Counts of the stranger's probes and of replies.
    pub(crate) stranger: Probing,
    /// Captured packets with the marker that was sent through the tunnel.
    pub(crate) plaintext_seen: u64,
    /// Packets that the server's data plane dropped, by reason, as `mtd status` shows them.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Counts of the rendezvous, as `mtd status` shows them.
    pub(crate) rendezvous: Rendezvous,
    /// Registered clients that exchanged a packet through the tunnel.
    pub(crate) clients: usize,
    /// Sessions that both ends report as open after the traffic.
    pub(crate) sessions_open: usize,
    /// Median over the clients of the time from the start to the first answer through the tunnel, in ms.
    pub(crate) start_to_first_packet_ms: Option<f64>,
}

/// See [`Numbers::rendezvous`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rendezvous {
    /// Introductions that the server published in the DHT.
    pub(crate) published: u64,
    /// Introductions that clients found in the DHT.
    pub(crate) fetched: u64,
    /// Median of the clients' median times for finding an introduction, in ms.
    pub(crate) median_fetch_ms: Option<f64>,
}

/// See [`Numbers::tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Tcp {
    /// Connections opened.
    pub(crate) connections: usize,
    /// Connections that ended early, or of whose data something did not arrive.
    pub(crate) broken: usize,
    /// Payload bytes that arrived, all of them compared.
    pub(crate) bytes: u64,
}

/// See [`Numbers::udp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Udp {
    /// Packets sent.
    pub(crate) sent: u64,
    /// Packets that did not arrive.
    pub(crate) lost: u64,
}

/// See [`Numbers::stranger`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Probing {
    /// Frames that the stranger sent to the server or about its prefix, as captured on its link.
    pub(crate) probes: u64,
    /// Frames of the server that tell a stranger anything, as captured on the server's link.
    pub(crate) replies: u64,
}

impl Tcp {
    /// The sum of the reports.
    pub(crate) fn of(reports: &[TcpReport]) -> Self {
        let broken = |report: &&TcpReport| report.broken.is_some() || !report.is_complete();
        Self {
            connections: reports.len(),
            broken: reports.iter().filter(broken).count(),
            bytes: reports.iter().map(TcpReport::bytes).sum(),
        }
    }
}

impl Udp {
    /// The sum of the reports.
    pub(crate) fn of(reports: &[UdpReport]) -> Self {
        Self {
            sent: reports.iter().map(|report| report.sent).sum(),
            lost: reports.iter().map(|report| report.lost).sum(),
        }
    }
}

/// The median, rounded to a tenth; `None` without values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(((lower + upper) * 5.0).round() / 10.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use super::*;

    /// A connection and a stream without faults.
    pub(crate) fn flows() -> (TcpReport, UdpReport) {
        let end = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        let tcp = TcpReport {
            local: end,
            peer: end,
            sent_to_server: 100,
            received_by_server: 100,
            sent_to_client: 50,
            received_by_client: 50,
            broken: None,
            longest_stall: Duration::ZERO,
        };
        let udp = UdpReport {
            sent: 10,
            send_errors: 0,
            received: 10,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            foreign: 0,
            longest_gap: Duration::ZERO,
        };
        (tcp, udp)
    }

    #[test]
    fn the_sums_are_over_all_connections_and_streams() {
        let (tcp, udp) = flows();
        let broken = TcpReport { broken: Some("reset".to_owned()), ..tcp.clone() };
        let incomplete = TcpReport { sent_to_server: 101, ..tcp.clone() };
        let sum = Tcp::of(&[tcp, broken, incomplete]);
        assert_eq!(sum, Tcp { connections: 3, broken: 2, bytes: 450 });
        assert_eq!(
            Udp::of(&[udp, UdpReport { sent: 7, received: 4, lost: 3, ..udp }]),
            Udp { sent: 17, lost: 3 }
        );
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |values: &[f64]| median(values.iter().copied());
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.04]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[9.0, 1.0, 4.0, 5.0]), Some(4.5));
    }
}
