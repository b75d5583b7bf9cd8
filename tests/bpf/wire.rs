//! The reference: seals and opens packets according to the wire format, with ciphers of other libraries.
//!
//! ```text
//! IPv6 40 | UDP 8 | masked sequence number 8, little-endian | tag 16 | inner packet
//! ```
//! Nonce: slot number (low 32 bits) and sequence number (64 bits), little-endian. Mask: SipHash-2-4 of the tag. To
//! encrypt, the inner packet is the plaintext; to authenticate, it is the associated data.

use std::hash::Hasher as _;
use std::net::SocketAddrV6;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN, Outer, Path, UDP_LEN, udp};
use siphasher::sip::SipHasher24;

/// Bytes of masked sequence number and tag.
pub(crate) const HEADER_LEN: usize = 8 + TAG_LEN;
/// Number of bytes before the inner packet, without the Ethernet header.
pub(crate) const OVERHEAD: usize = IPV6_LEN + UDP_LEN + HEADER_LEN;
/// Number of bytes before the inner packet in a frame.
pub(crate) const INNER_AT: usize = ETHERNET_LEN + OVERHEAD;
/// Offset of mtd's header in a frame.
pub(crate) const HEADER_AT: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

const TAG_LEN: usize = 16;

/// Ethernet addresses on the underlay: the next router's, the host's own.
pub(crate) const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0xaa, 0x01];
pub(crate) const UNDERLAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0xaa, 0x02];

/// How inner packets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Encrypt,
    Authenticate,
}

impl Mode {
    pub(crate) const BOTH: [Self; 2] = [Self::Encrypt, Self::Authenticate];
}

/// The keys of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) seal: [u8; 32],
    pub(crate) mask: [u8; 16],
}

impl Keys {
    fn mask_of(&self, tag: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.mask);
        hasher.write(tag);
        hasher.finish()
    }

    /// The sequence number in a frame's header.
    pub(crate) fn sequence(&self, frame: &[u8]) -> u64 {
        self.unmask(&frame[HEADER_AT..HEADER_AT + HEADER_LEN])
    }

    fn unmask(&self, header: &[u8]) -> u64 {
        let (masked, tag) = header.split_first_chunk::<8>().expect("8 bytes in front of the tag");
        u64::from_le_bytes(*masked) ^ self.mask_of(tag)
    }
}

/// A packet from one end to the other, before it is sealed.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddrV6,
    pub(crate) to: SocketAddrV6,
    pub(crate) keys: Keys,
    pub(crate) mode: Mode,
    pub(crate) slot: u64,
    pub(crate) sequence: u64,
    pub(crate) inner: Vec<u8>,
    /// The traffic class of the outer header.
    pub(crate) traffic_class: u8,
}

impl Packet {
    /// The frame in which the packet reaches the underlay.
    pub(crate) fn frame(&self) -> Vec<u8> {
        udp(&self.path(), self.from.port(), self.to.port(), &self.sealed())
    }

    /// Its outer headers.
    pub(crate) fn path(&self) -> Path {
        let path = Path::new(ROUTER_MAC, UNDERLAY_MAC, *self.from.ip(), *self.to.ip());
        Path { traffic_class: self.traffic_class, ..path }
    }

    /// Masked sequence number, tag, sealed inner packet.
    pub(crate) fn sealed(&self) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new(&self.keys.seal.into());
        let payload = match self.mode {
            Mode::Encrypt => Payload { msg: &self.inner, aad: &[] },
            Mode::Authenticate => Payload { msg: &[], aad: &self.inner },
        };
        let nonce = nonce(self.slot, self.sequence);
        let mut text = cipher.encrypt(&nonce.into(), payload).expect("a short text");
        let tag = text.split_off(text.len() - TAG_LEN);
        if self.mode == Mode::Authenticate {
            text.clone_from(&self.inner);
        }
        let masked = self.sequence ^ self.keys.mask_of(&tag);
        [&masked.to_le_bytes(), tag.as_slice(), &text].concat()
    }
}

/// The sequence number and the inner packet in the result of [`Packet::sealed`]; `None` if the tag is wrong.
pub(crate) fn open(keys: &Keys, mode: Mode, slot: u64, payload: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (header, text) = payload.split_at_checked(HEADER_LEN)?;
    let tag = &header[8..];
    let sequence = keys.unmask(header);
    let cipher = ChaCha20Poly1305::new(&keys.seal.into());
    let nonce = nonce(slot, sequence).into();
    match mode {
        Mode::Encrypt => {
            let message = [text, tag].concat();
            let inner = cipher.decrypt(&nonce, message.as_slice()).ok()?;
            Some((sequence, inner))
        }
        Mode::Authenticate => {
            cipher.decrypt(&nonce, Payload { msg: tag, aad: text }).ok()?;
            Some((sequence, text.to_vec()))
        }
    }
}

fn nonce(slot: u64, sequence: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&(slot as u32).to_le_bytes());
    nonce[4..].copy_from_slice(&sequence.to_le_bytes());
    nonce
}

/// The frame with length fields of IPv6 and UDP that match its length, and a correct checksum.
pub(crate) fn with_right_lengths(frame: &[u8]) -> Vec<u8> {
    let payload = (frame.len() - ETHERNET_LEN - IPV6_LEN) as u16;
    let mut changed = frame.to_vec();
    changed[ETHERNET_LEN + 4..][..2].copy_from_slice(&payload.to_be_bytes());
    changed[ETHERNET_LEN + IPV6_LEN + 4..][..2].copy_from_slice(&payload.to_be_bytes());
    with_right_checksum(&changed)
}

/// The frame with a correct UDP checksum.
pub(crate) fn with_right_checksum(frame: &[u8]) -> Vec<u8> {
    let outer = Outer::parse(frame).expect("a UDP packet");
    let path = Path {
        hop_limit: outer.hop_limit,
        traffic_class: outer.traffic_class,
        flow_label: outer.flow_label,
        ..Path::new(ROUTER_MAC, UNDERLAY_MAC, outer.source, outer.destination)
    };
    udp(&path, outer.source_port, outer.destination_port, outer.payload)
}
