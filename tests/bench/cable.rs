//! A veth cable at whose end frames are dropped, and measuring the rate at which they are.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mtd_common::packet::outer::{HOP_LIMIT, MIN_INNER};
use mtd_common::packet::{MTD, UDP};
use mtd_tests::inject::Interface;
use mtd_tests::link::Veth;
use mtd_tests::netns::Netns;

use crate::generator::Generator;

/// How long frames are sent before each measurement, to warm the caches.
const WARM_UP: Duration = Duration::from_millis(20);

/// The part of the frames that may get lost between generator and receiver.
const LOST: f64 = 0.01;

/// The protected /64 prefix at the right end, and an address in it that no session has.
pub(crate) const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0);
const TARGET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0x1234, 0x5678, 0x9abc, 0xdef0);
const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);

/// The header fields in which the frames of the cases differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    /// Source address and UDP port.
    pub(crate) source: (Ipv6Addr, u16),
    /// Destination address and UDP port.
    pub(crate) destination: (Ipv6Addr, u16),
    /// Masked sequence number and tag.
    pub(crate) mtd: [u8; MTD],
}

impl Headers {
    /// A frame of a stranger to an address that no session has. The destination can be made random.
    pub(crate) const STRANGER: Self =
        Self { source: (STRANGER, 40_000), destination: (TARGET, 50_000), mtd: [0x5a; MTD] };

    /// The shortest frame that has the form of an mtd packet, between interfaces with these MAC addresses.
    ///
    /// # Errors
    /// Never with headers of these lengths.
    pub(crate) fn frame(&self, from: &Interface, to: &Interface) -> Result<Vec<u8>> {
        let payload = [self.mtd.as_slice(), &[0x5a; MIN_INNER]].concat();
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(from.mac, to.mac)
            .ipv6(self.source.0.octets(), self.destination.0.octets(), HOP_LIMIT)
            .udp(self.source.1, self.destination.1)
            .write(&mut frame, &payload)
            .context("cannot build a frame")?;
        ensure!(frame.len() == 14 + 40 + UDP + payload.len(), "a frame of {} bytes", frame.len());
        Ok(frame)
    }
}

/// A veth cable between two namespaces: frames are sent at the left end, and dropped at the right.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) sender: Netns,
    pub(crate) receiver: Netns,
    pub(crate) veth: Veth,
}

impl Cable {
    pub(crate) fn new(tag: &str) -> Result<Self> {
        let (sender, receiver) = (Netns::new(&format!("{tag}-from"))?, Netns::new(&format!("{tag}-to"))?);
        let veth = Veth::connect((&sender, "gen"), (&receiver, "recv"), 1500)?;
        for (netns, ifname) in [(&sender, &veth.left), (&receiver, &veth.right)] {
            // There must be no traffic other than the generator's.
            netns.set_sysctl(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "1")?;
            netns.set_up(ifname)?;
        }
        Ok(Self { sender, receiver, veth })
    }

    /// The frame with these headers, as sent at the left end.
    pub(crate) fn frame(&self, headers: &Headers) -> Result<Vec<u8>> {
        let to = Interface::resolve(&self.receiver, &self.veth.right)?;
        headers.frame(&Interface::resolve(&self.sender, &self.veth.left)?, &to)
    }

    /// Frames that the XDP program at the right end has dropped.
    pub(crate) fn dropped(&self) -> Result<u64> {
        xdp_drops(&self.receiver, &self.veth.right)
    }
}

/// Millions of frames a second that are dropped, as `dropped` counts them, measured for at least `sample`.
///
/// # Errors
/// When too many frames get lost on the way, so that the rate of drops cannot be measured.
pub(crate) fn rate(
    generator: &Generator<'_>,
    sample: Duration,
    dropped: impl Fn() -> Result<u64>,
) -> Result<f64> {
    let mut told = String::new();
    for _ in 0..TRIES {
        generator.send(WARM_UP)?;
        let before = dropped()?;
        let (sent, elapsed) = generator.send(sample)?;
        let dropped = dropped()? - before;
        if dropped as f64 >= sent as f64 * (1.0 - LOST) {
            return Ok(dropped as f64 / elapsed.as_secs_f64() / 1e6);
        }
        told = format!("only {dropped} of {sent} frames reached the program: this is not its rate");
        eprintln!("measured again: {told}");
    }
    bail!("{told}; let the machine be idle")
}

/// How often a sample is repeated in which frames got lost, because something else used the CPU.
const TRIES: u32 = 5;

/// Frames that the XDP program of a veth end has dropped since it was made, as the driver counted them.
///
/// # Errors
/// When there is no such interface, or its driver does not count them.
pub(crate) fn xdp_drops(netns: &Netns, ifname: &str) -> Result<u64> {
    let output = netns.command("ethtool")?.args(["-S", ifname]).output();
    let output = output.context("could not start `ethtool`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("rx_queue_"));
    let drops: Vec<u64> =
        counts.filter_map(|line| line.split_once("_xdp_drops: ")?.1.trim().parse().ok()).collect();
    ensure!(!drops.is_empty(), "ethtool -S shows no xdp_drops for {ifname}: {text}");
    Ok(drops.iter().sum())
}
