//! Dropped packets.

use std::net::{IpAddr, Ipv6Addr};

use mtd_common::DropReason;
use mtd_common::event::DropEvent;
use serde::{Deserialize, Serialize};

/// A line of `GET /v1/drops/events` and of `mtd drops --follow --json`: one dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPacket {
    /// Unix time in ns.
    pub time_ns: u64,
    /// Name of the reason (`mtd_common::DropReason`).
    pub reason: String,
    /// It was not dropped, because nothing is enforced.
    #[serde(default)]
    pub passed: bool,
    /// `receive` or `send`.
    pub direction: String,
    /// Interface index where the packet was seen.
    pub ifindex: u32,
    /// Source address, if it was read.
    pub source: Option<IpAddr>,
    /// Source port, if there was one.
    pub source_port: Option<u16>,
    /// Destination address, if it was read.
    pub destination: Option<IpAddr>,
    /// Destination port, if there was one.
    pub destination_port: Option<u16>,
    /// IPv6 next header, if it was read.
    pub next_header: Option<u8>,
    /// Length of the frame in bytes.
    pub length: u32,
}

impl DroppedPacket {
    /// The line for a record of the programs, of this Unix time in ns.
    pub fn new(event: &DropEvent, reason: DropReason, time_ns: u64) -> Self {
        let address = |bytes: [u8; 16]| {
            (bytes != [0; 16]).then(|| {
                let address = Ipv6Addr::from(bytes);
                address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
            })
        };
        let port = |bytes| Some(u16::from_be_bytes(bytes)).filter(|&port| port != 0);
        Self {
            time_ns,
            reason: reason.name().to_owned(),
            passed: event.passed != 0,
            direction: if reason.is_sending() { "send" } else { "receive" }.to_owned(),
            ifindex: event.ifindex,
            source: address(event.source),
            source_port: port(event.source_port),
            destination: address(event.destination),
            destination_port: port(event.destination_port),
            next_header: Some(event.next_header).filter(|&header| header != 0),
            length: event.length,
        }
    }
}

/// A line of `GET /v1/drops/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DropLine {
    /// A dropped packet.
    Drop(DroppedPacket),
    /// Events that were lost because this reader was too slow.
    Lost {
        /// The number of lost events.
        lost: u64,
    },
}
