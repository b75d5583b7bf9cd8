//! Frames that the stranger sends by hand.

use std::fmt;
use std::net::Ipv6Addr;

use anyhow::{Result, anyhow};
use ipnet::Ipv6Net;
use mtd_tests::packet::{
    DESTINATION_OPTIONS, ETHERNET_LEN, HOP_BY_HOP, IPV6_LEN, Path, UDP_LEN, echo_request, fragments,
    neighbour_solicitation, tcp_syn, udp, with_extension_header, with_fragment_header, with_vlan_tag,
};

use crate::parties::Parties;

/// Kinds of probes made by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Neighbour solicitations for addresses that nobody has.
    Solicitation,
    /// Echo requests.
    Echo,
    /// TCP connection attempts.
    Syn,
    /// UDP datagrams, also to the live port.
    Datagram,
    /// Captured packets, sent again at once and some slots later.
    Replay,
    /// Captured packets with changed bits, truncated, or in another form (VLAN tag, extension header, fragments).
    Altered,
    /// Probes of all these kinds to the server's introduction, at which clients begin a handshake.
    Introduction,
}

impl Kind {
    const ALL: [(Self, &str); 7] = [
        (Self::Solicitation, "neighbour solicitations"),
        (Self::Echo, "echo requests"),
        (Self::Syn, "TCP SYNs"),
        (Self::Datagram, "UDP datagrams"),
        (Self::Replay, "replays"),
        (Self::Altered, "altered packets"),
        (Self::Introduction, "of all these kinds towards the server's introduction"),
    ];
}

/// The number of probes of each kind. Displays as a list in words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally([u64; Kind::ALL.len()]);

impl Tally {
    /// The number of probes of a kind.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Counts one more probe.
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            Kind::ALL.iter().map(|&(kind, name)| format!("{} {name}", self.of(kind))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Makes probes.
#[derive(Debug)]
pub(crate) struct Forger {
    parties: Parties,
    prefix: Ipv6Net,
}

impl Forger {
    /// A maker of probes from the stranger to the protected prefix of the server.
    pub(crate) fn new(parties: &Parties, prefix: Ipv6Net) -> Self {
        Self { parties: parties.clone(), prefix }
    }

    /// A random address of the prefix.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(crate) fn random_address(&self) -> Result<Ipv6Addr> {
        let host = u128::from_be_bytes(random()?) & u128::from(self.prefix.hostmask());
        Ok(Ipv6Addr::from(u128::from(self.prefix.network()) | host))
    }

    /// A neighbour solicitation, as multicast or to the server's Ethernet address.
    pub(crate) fn solicitation(&self, target: Ipv6Addr, direct: bool) -> Vec<u8> {
        let Parties { stranger_mac, stranger, server_mac, .. } = self.parties;
        neighbour_solicitation(stranger_mac, stranger, target, direct.then_some(server_mac))
    }

    /// The probes of an address: echo, TCP, UDP to the live port and to others.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(crate) fn knocks(&self, target: Ipv6Addr, live_port: u16) -> Result<Vec<(Kind, Vec<u8>)>> {
        let noise: [u8; 64] = random()?;
        let [a, b, c, d, ..] = noise;
        let (port, sequence) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([a, b, c, d]));
        let path = self.path(target);
        Ok(vec![
            (Kind::Echo, echo_request(&path, port, 1, &noise)),
            (Kind::Syn, tcp_syn(&path, port | 1024, 22, sequence)),
            (Kind::Syn, tcp_syn(&path, port | 1024, live_port, sequence)),
            (Kind::Datagram, udp(&path, port | 1024, live_port, &noise)),
            (Kind::Datagram, udp(&path, port | 1024, 53, &noise)),
        ])
    }

    /// A captured frame as the stranger sends it: the IPv6 packet is unchanged, but comes from the stranger's Ethernet
    /// address, so that captures can distinguish it from the original.
    pub(crate) fn readdressed(&self, captured: &[u8]) -> Vec<u8> {
        let mut frame = captured.to_vec();
        for (at, byte) in
            frame.iter_mut().zip(self.parties.server_mac.into_iter().chain(self.parties.stranger_mac))
        {
            *at = byte;
        }
        frame
    }

    /// Changed forms of a captured frame: with random bit flips, truncated, and in a form that the tunnel never sends (a
    /// different one each `round`).
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(crate) fn alterations(&self, captured: &[u8], round: usize) -> Result<Vec<Vec<u8>>> {
        let frame = self.readdressed(captured);
        let headers = (ETHERNET_LEN, ETHERNET_LEN + IPV6_LEN + UDP_LEN);
        let payload = (headers.1, frame.len());
        let mut altered = vec![flip(&frame, headers)?, flip(&frame, payload)?, cut(&frame)?];
        match round % 5 {
            0 => altered.push(with_vlan_tag(&frame, 7)),
            1 => altered.push(with_extension_header(&frame, HOP_BY_HOP)),
            2 => altered.push(with_extension_header(&frame, DESTINATION_OPTIONS)),
            3 => altered.push(with_fragment_header(&frame, 1)),
            _ => altered.extend(fragments(&frame, 2, frame.len() / 2)),
        }
        // A longer form of a full packet would not fit on the link.
        altered.retain(|form| form.len() <= frame.len().max(ROOMY));
        Ok(altered)
    }

    fn path(&self, target: Ipv6Addr) -> Path {
        let Parties { stranger_mac, stranger, server_mac, .. } = self.parties;
        Path::new(stranger_mac, server_mac, stranger, target)
    }
}

/// Frames up to this length fit on a link of 1,500 bytes, in any form.
const ROOMY: usize = 1500;

/// The frame with one bit between two offsets changed.
fn flip(frame: &[u8], (from, to): (usize, usize)) -> Result<Vec<u8>> {
    let mut changed = frame.to_vec();
    let bit = below(8 * to.saturating_sub(from))?;
    if let Some(byte) = changed.get_mut(from + bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    Ok(changed)
}

/// The frame, truncated at a random place after the Ethernet header.
fn cut(frame: &[u8]) -> Result<Vec<u8>> {
    let end = ETHERNET_LEN + below(frame.len().saturating_sub(ETHERNET_LEN))?;
    Ok(frame[..end.min(frame.len())].to_vec())
}

/// A random number below `end`; 0 if `end` is 0.
fn below(end: usize) -> Result<usize> {
    Ok(usize::from_be_bytes(random()?).checked_rem(end).unwrap_or(0))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the kernel has no random numbers: {error}"))?;
    Ok(bytes)
}
