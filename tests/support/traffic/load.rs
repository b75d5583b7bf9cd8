//! TCP and UDP traffic at the same time, both ways.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{TcpFlow, TcpOptions, TcpReport, UdpOptions, UdpReport, UdpStream};
use crate::netns::Netns;

/// Packets per second of each UDP stream.
pub const UDP_RATE: u32 = 1000;

/// Traffic between a client and the server: one TCP connection with data in both directions, and a UDP stream each way.
#[derive(Debug)]
pub struct Load {
    tcp: TcpFlow,
    up: UdpStream,
    down: UdpStream,
    started: Instant,
}

/// The result of a [`Load`].
#[derive(Debug)]
pub struct LoadReport {
    tcp: TcpReport,
    up: UdpReport,
    down: UdpReport,
    lasted: Duration,
}

impl Load {
    /// Starts all three, between a client and a server. Each is given with the address to which packets for it are sent.
    ///
    /// # Errors
    /// When an address cannot be bound, or there is no connection in time.
    pub fn start(client: (&Netns, IpAddr), server: (&Netns, IpAddr)) -> Result<Self> {
        let udp = |to| UdpOptions { rate: UDP_RATE, ..UdpOptions::to(to) };
        Ok(Self {
            tcp: TcpFlow::start(client.0, server.0, &TcpOptions::to(server.1))?,
            up: UdpStream::start(client.0, server.0, &udp(server.1))?,
            down: UdpStream::start(server.0, client.0, &udp(client.1))?,
            started: Instant::now(),
        })
    }

    /// Packets and bytes that have arrived so far at the server.
    pub fn arrived_at_server(&self) -> (u64, u64) {
        (self.up.counters().received(), self.tcp.counters().received_by_server())
    }

    /// Packets and bytes that have arrived so far at the client.
    pub fn arrived_at_client(&self) -> (u64, u64) {
        (self.down.counters().received(), self.tcp.counters().received_by_client())
    }

    /// Stops all and waits for what is in flight.
    ///
    /// # Errors
    /// When a thread of the traffic panicked.
    pub fn stop(self) -> Result<LoadReport> {
        let lasted = self.started.elapsed();
        Ok(LoadReport { tcp: self.tcp.stop(), up: self.up.stop()?, down: self.down.stop()?, lasted })
    }
}

impl LoadReport {
    /// Checks that the TCP connection did not break and that every byte has arrived.
    ///
    /// # Errors
    /// When that is not so.
    pub fn require_unbroken(&self) -> Result<()> {
        let Self { tcp, .. } = self;
        ensure!(tcp.broken.is_none() && tcp.is_complete() && tcp.bytes() > 0, "TCP: {tcp:?}");
        Ok(())
    }

    /// Checks as [`LoadReport::require_unbroken`], and that no UDP packet was lost, changed or duplicated at the full rate.
    ///
    /// # Errors
    /// When that is not so.
    pub fn require_lossless(&self) -> Result<()> {
        self.require_unbroken()?;
        let wanted = self.lasted.as_millis() as u64 * u64::from(UDP_RATE) / 1000 * 9 / 10;
        for udp in [&self.up, &self.down] {
            ensure!(
                udp.lost == 0 && udp.duplicated == 0 && udp.foreign == 0 && udp.sent >= wanted,
                "UDP in {:?}: {udp:?} (TCP: {:?})",
                self.lasted,
                self.tcp
            );
        }
        Ok(())
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tcp, up, down, lasted } = self;
        write!(
            f,
            "{:.1} s, TCP {} bytes, broken: {}, longest stall {:?}; UDP sent {} + {}, lost {} + {}, longest gap {:?}",
            lasted.as_secs_f64(),
            tcp.bytes(),
            tcp.broken.as_deref().unwrap_or("no"),
            tcp.longest_stall,
            up.sent,
            down.sent,
            up.lost,
            down.lost,
            up.longest_gap.max(down.longest_gap)
        )
    }
}
