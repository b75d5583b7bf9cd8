//! What is on the server's cable, and a stranger who puts things there.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv6Net;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::inject::{Injector, Interface};
use mtd_tests::packet::{self, Outer};
use mtd_tests::wait_until;

use super::world::{Who, World};
use crate::adversary::{Drops, difference, ends, icmp};

/// How long counters may take to show what was sent.
const SETTLE: Duration = Duration::from_secs(5);

/// A capture of the server's cable, and a raw socket of a stranger on the server's link.
#[derive(Debug)]
pub(crate) struct Watch {
    capture: Capture,
    stranger: Injector,
    server_mac: [u8; 6],
    server_prefix: Ipv6Net,
    /// The stranger's own address.
    pub(crate) address: Ipv6Addr,
}

impl Watch {
    /// Starts to capture.
    pub(crate) fn start(world: &World) -> Result<Self> {
        let (topology, server) = (world.topology(), world.host(Who::Server));
        Ok(Self {
            capture: Capture::start(&topology.router, &server.tap_ifname, &CaptureOptions::default())?,
            stranger: Injector::open(&topology.scanner.netns, &topology.scanner.ifname)?,
            server_mac: Interface::resolve(&server.netns, &server.ifname)?.mac,
            server_prefix: server.prefix,
            address: topology.scanner.address,
        })
    }

    /// The frames that the server got from this prefix so far, without those of the stranger.
    pub(crate) fn from(&self, prefix: Ipv6Net) -> Vec<Frame> {
        let mut frames = self.capture.snapshot();
        frames.retain(|frame| {
            let genuine = frame.outgoing && frame.data[6..12] != self.stranger.interface().mac;
            genuine && ends(&frame.data).is_some_and(|(source, _)| prefix.contains(&source))
        });
        frames
    }

    /// The frames that the server has sent so far from its protected prefix to addresses for which this holds, and its
    /// ICMPv6 errors to them.
    pub(crate) fn answers(&self, to: impl Fn(Ipv6Addr) -> bool) -> Vec<Frame> {
        let mut frames = self.capture.snapshot();
        frames.retain(|frame| {
            let error = icmp(&frame.data).is_some_and(|(kind, _)| kind < 128);
            !frame.outgoing
                && ends(&frame.data).is_some_and(|(source, destination)| {
                    to(destination) && (error || self.server_prefix.contains(&source))
                })
        });
        frames
    }

    /// That the server has sent nothing to anybody but hosts in these prefixes.
    pub(crate) fn require_silence_but_to(&self, prefixes: &[Ipv6Net]) -> Result<()> {
        let answers = self.answers(|to| prefixes.iter().all(|prefix| !prefix.contains(&to)));
        ensure!(answers.is_empty(), "answers to strangers: {:02x?}", &answers[..answers.len().min(3)]);
        Ok(())
    }

    /// The frames that the server has sent so far to a prefix.
    pub(crate) fn to(&self, prefix: Ipv6Net) -> Vec<Frame> {
        self.answers(|to| prefix.contains(&to))
    }

    /// The frame with the stranger's and the server's Ethernet addresses.
    pub(crate) fn forwarded(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&self.server_mac);
        frame[6..12].copy_from_slice(&self.stranger.interface().mac);
        frame
    }

    /// The same payload to the same place, from another source.
    pub(crate) fn sent_from(&self, frame: &[u8], source: Ipv6Addr, port: u16) -> Result<Vec<u8>> {
        let outer = Outer::parse(frame).context("no packet of mtd's")?;
        let (from, to) = (self.stranger.interface().mac, self.server_mac);
        let path = packet::Path {
            hop_limit: outer.hop_limit,
            flow_label: outer.flow_label,
            ..packet::Path::new(from, to, source, outer.destination)
        };
        Ok(packet::udp(&path, port, outer.destination_port, outer.payload))
    }

    /// A frame that carries an IPv6 packet from the stranger's link to the server.
    pub(crate) fn framed(&self, packet: &[u8]) -> Vec<u8> {
        [&self.server_mac[..], &self.stranger.interface().mac, &[0x86, 0xdd], packet].concat()
    }

    /// Sends frames as they are.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        frames.iter().try_for_each(|frame| self.stranger.send(frame))
    }

    /// What the server drops when the stranger sends these frames: each of them, and not one more.
    pub(crate) fn inject(&self, world: &World, frames: &[Vec<u8>]) -> Result<Drops> {
        let before = received_drops(world)?;
        let mut more = Drops::new();
        // The queue of a virtual cable holds 256 frames.
        for frames in frames.chunks(64) {
            let wanted = more.values().sum::<u64>() + frames.len() as u64;
            self.send(frames)?;
            wait_until("the frames to be dropped", SETTLE, || {
                more = difference(&before, &received_drops(world)?);
                Ok(more.values().sum::<u64>() >= wanted)
            })
            .with_context(|| format!("{wanted} frames were to be dropped; dropped: {more:?}"))?;
        }
        ensure!(
            more.values().sum::<u64>() == frames.len() as u64,
            "{} frames, dropped: {more:?}",
            frames.len()
        );
        Ok(more)
    }
}

/// What the server has dropped on receipt so far.
pub(crate) fn received_drops(world: &World) -> Result<Drops> {
    let drops = world.status(Who::Server)?.drops;
    Ok(drops.into_iter().filter(|(reason, _)| !reason.starts_with("send_")).collect())
}
