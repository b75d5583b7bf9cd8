//! The sessions of the tests. Their values are invented, not derived, so that a test can choose them freely.

use std::net::{Ipv6Addr, SocketAddrV6};

use mtd_common::abi::{self, DirectionKeys, FLAG_ANYBODY, FLAG_HEARD, Slot};
use mtd_common::bytes::part;
use sha2::{Digest as _, Sha256};

use crate::inner::{OWN6, PEER4, PEER6};
use crate::message;
use crate::wire::{Keys, Mode, Packet};

/// Slot length in ns: long, so that no test sees a slot end by itself.
pub(crate) const PERIOD: u64 = 3_600_000_000_000;
/// Phase of the slots in ns.
pub(crate) const PHASE: u64 = 1_234_567_890_123;
/// The slot in whose middle every test begins.
pub(crate) const CURRENT: u64 = 500_000;
/// Session time in ns at which every test begins.
pub(crate) const BEGIN: u64 = slot_start(CURRENT) + PERIOD / 2;

/// The protected prefixes, in the order of the settings.
pub(crate) const PREFIXES: [(&str, Ipv6Addr); 2] = [
    ("2001:db8:a::/64", Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0)),
    ("2001:db8:b0:0:77::/80", Ipv6Addr::new(0x2001, 0xdb8, 0xb0, 0, 0x77, 0, 0, 0)),
];

/// Session time in ns at which a slot begins.
pub(crate) const fn slot_start(slot: u64) -> u64 {
    slot * PERIOD - PHASE
}

/// One session, as both ends know it.
#[derive(Clone, Debug)]
pub(crate) struct Peering {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    /// Number of the peer.
    pub(crate) peer: u32,
    /// Whether it is an introduction.
    pub(crate) introduction: bool,
    /// Whether packets from any source are accepted, not only from the peer: those of an introduction, or of a session whose
    /// peer a router translates.
    pub(crate) anybody: bool,
    pub(crate) mode: Mode,
    /// The keys with which the peer seals.
    pub(crate) rx: Keys,
    /// The keys with which this end seals.
    pub(crate) tx: Keys,
    /// The peer's own inner addresses, in the form of the maps.
    pub(crate) peer_tunnel: [[u8; 16]; 2],
    /// Index of the own prefix in [`PREFIXES`].
    pub(crate) prefix: u16,
    /// The own address in every slot, if sessions are to have the same one.
    pub(crate) pinned: Option<Ipv6Addr>,
}

impl Peering {
    pub(crate) fn new(index: u32, mode: Mode) -> Self {
        let keys =
            |direction: &str| Keys { seal: bytes(direction, index, 0), mask: bytes(direction, index, 1) };
        Self {
            index,
            generation: 7 + index,
            peer: 100 + index,
            introduction: false,
            anybody: false,
            mode,
            rx: keys("receive"),
            tx: keys("send"),
            peer_tunnel: [PEER4.to_ipv6_mapped().octets(), PEER6.octets()],
            prefix: 0,
            pinned: None,
        }
    }

    /// The server's end of an introduction.
    pub(crate) fn introduction(index: u32) -> Self {
        Self {
            peer: 0,
            introduction: true,
            anybody: true,
            peer_tunnel: [[0; 16]; 2],
            ..Self::new(index, Mode::Encrypt)
        }
    }

    /// The own end in a slot.
    pub(crate) fn local(&self, slot: u64) -> SocketAddrV6 {
        let address = self.pinned.unwrap_or_else(|| {
            let (_, network) = PREFIXES[usize::from(self.prefix)];
            let host: [u8; 6] = bytes("own address", self.index, slot);
            let mut octets = network.octets();
            octets[10..].copy_from_slice(&host);
            octets.into()
        });
        socket(address, bytes("own port", self.index, slot))
    }

    /// The peer's end in a slot.
    pub(crate) fn remote(&self, slot: u64) -> SocketAddrV6 {
        let mut address = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0).octets();
        address[8..].copy_from_slice(&bytes::<8>("peer address", self.index, slot));
        socket(address.into(), bytes("peer port", self.index, slot))
    }

    /// A packet from the peer in a slot.
    pub(crate) fn packet(&self, slot: u64, sequence: u64, inner: Vec<u8>) -> Packet {
        Packet {
            from: self.remote(slot),
            to: self.local(slot),
            keys: self.rx,
            mode: self.mode,
            slot,
            sequence,
            inner,
            traffic_class: 0,
        }
    }

    /// A control message of `length` bytes from the peer in a slot. Its inner addresses are the tunnel addresses, or for an
    /// introduction the outer ones.
    pub(crate) fn message(&self, slot: u64, sequence: u64, length: usize) -> Packet {
        self.message_from(self.remote(slot), slot, sequence, length)
    }

    /// The same from another outer source.
    pub(crate) fn message_from(&self, from: SocketAddrV6, slot: u64, sequence: u64, length: usize) -> Packet {
        let (source, destination) =
            if self.introduction { (*from.ip(), *self.local(slot).ip()) } else { (PEER6, OWN6) };
        let inner = message::inner(source, destination, length);
        Packet { from, ..self.packet(slot, sequence, inner) }
    }

    /// The element of the session table.
    pub(crate) fn element(&self, clock_offset: u64) -> abi::Session {
        let direction = |keys: &Keys| DirectionKeys { seal: keys.seal, mask: keys.mask };
        abi::Session {
            generation: self.generation,
            mode: match self.mode {
                _ if self.introduction => abi::MODE_INTRODUCTION,
                Mode::Encrypt => abi::MODE_ENCRYPT,
                Mode::Authenticate => abi::MODE_AUTHENTICATE,
            },
            clock_offset,
            period: PERIOD,
            phase: PHASE,
            rx: direction(&self.rx),
            tx: direction(&self.tx),
            until: u64::MAX,
            local_high: *part::<0, 8, 16>(&self.local(CURRENT).ip().octets()),
            peer_high: *part::<0, 8, 16>(&self.remote(CURRENT).ip().octets()),
            peer_tunnel: self.peer_tunnel,
            peer: self.peer,
            flags: match (self.anybody, self.introduction) {
                (false, _) => 0,
                (true, true) => FLAG_ANYBODY,
                (true, false) => FLAG_ANYBODY | FLAG_HEARD,
            },
        }
    }

    /// The slot as it is stored in the maps.
    pub(crate) fn slot(&self, slot: u64) -> Slot {
        let (local, remote) = (self.local(slot), self.remote(slot));
        Slot {
            slot,
            local_low: *part::<8, 8, 16>(&local.ip().octets()),
            peer_low: *part::<8, 8, 16>(&remote.ip().octets()),
            local_port: local.port().to_be_bytes(),
            peer_port: remote.port().to_be_bytes(),
            generation: self.generation,
        }
    }
}

fn socket(address: Ipv6Addr, [low, high]: [u8; 2]) -> SocketAddrV6 {
    // Ports below 1,024 are never derived.
    SocketAddrV6::new(address, u16::from_be_bytes([high | 0x04, low]), 0, 0)
}

/// Bytes that look random and are always the same.
fn bytes<const N: usize>(label: &str, index: u32, slot: u64) -> [u8; N] {
    let mut hash = Sha256::new();
    hash.update(label);
    hash.update(index.to_be_bytes());
    hash.update(slot.to_be_bytes());
    *hash.finalize().first_chunk().expect("up to 32 bytes")
}
