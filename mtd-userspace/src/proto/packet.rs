//! Packets that user space makes itself: those of an introduction, and the inner packets of control messages
//! (`docs/wire-format.md`). Everything else is sealed and opened by the programs in the kernel.

use mtd_common::DropReason;
use mtd_common::abi::MODE_AUTHENTICATE;
use mtd_common::address::Endpoint;
use mtd_common::aead::{self, Buffer, MAX_TEXT, Operation, Pass, Sums};
use mtd_common::bytes::part;
use mtd_common::packet::inner::NEXT_CONTROL;
use mtd_common::packet::outer::MIN_INNER;
use mtd_common::packet::{IPV6, MTD, OVERHEAD, UDP, outer};

use super::session::Session;

/// Hop limit of control messages: they are for the other end of the tunnel, not for hosts behind it.
const HOP_LIMIT: u8 = 1;

/// The inner packet that carries a control message.
pub fn control(source: [u8; 16], destination: [u8; 16], message: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(IPV6 + message.len());
    packet.extend([0x60, 0, 0, 0]);
    packet.extend((message.len() as u16).to_be_bytes());
    packet.extend([NEXT_CONTROL, HOP_LIMIT]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(message);
    packet
}

/// Source, destination and slot of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Slot number.
    pub slot: u64,
    /// Own endpoint.
    pub local: Endpoint,
    /// The peer's endpoint.
    pub remote: Endpoint,
}

/// Seals an inner packet for a session; returns the packet on the wire, from the IPv6 header on. `None`: it is shorter
/// than an IP header, or longer than a session carries.
pub fn seal(session: &Session, path: &Path, sequence: u64, inner: &[u8]) -> Option<Vec<u8>> {
    if !(MIN_INNER..=MAX_TEXT).contains(&inner.len()) {
        return None;
    }
    let mut packet = vec![0; OVERHEAD + inner.len()];
    let (headers, text) = packet.split_first_chunk_mut::<OVERHEAD>()?;
    text.copy_from_slice(inner);
    let keys = &session.tx.0;
    let nonce = aead::nonce(path.slot as u32, sequence);
    let sums = match session.mode {
        MODE_AUTHENTICATE => pass(Operation::Authenticate, &keys.seal, nonce, text)?,
        _ => pass(Operation::Seal, &keys.seal, nonce, text)?,
    };
    let halves = |address| [part::<0, 8, 16>(address), part::<8, 8, 16>(address)];
    outer::Send {
        local: halves(&path.local.address),
        peer: halves(&path.remote.address),
        local_port: path.local.port.to_be_bytes(),
        peer_port: path.remote.port.to_be_bytes(),
        mask: &keys.mask,
        sequence,
        tag: sums.tag,
        checksum: sums.checksum,
        inner: inner.len() as u16,
        ecn: outer::NOT_ECT,
    }
    .write(headers);
    Some(packet)
}

/// Opens a packet on the wire, from the IPv6 header on, that came in `slot`; returns its sequence number and the inner
/// packet. For ends without a data plane in the kernel. Addresses and ports, and whether the number was used before,
/// are the caller's to check.
///
/// # Errors
/// The reason for which the receive program would drop it.
pub fn open(session: &Session, slot: u32, packet: &[u8]) -> Result<(u64, Vec<u8>), DropReason> {
    let (ipv6, rest) = packet.split_first_chunk::<IPV6>().ok_or(DropReason::Truncated)?;
    let (udp, rest) = rest.split_first_chunk::<UDP>().ok_or(DropReason::Truncated)?;
    outer::require_udp(ipv6)?;
    outer::inner_length(ipv6, udp, packet.len(), MAX_TEXT as u32)?;
    let (header, sealed) = rest.split_first_chunk::<MTD>().ok_or(DropReason::Truncated)?;
    let keys = &session.rx.0;
    let sequence = outer::sequence(header, &keys.mask);
    let nonce = aead::nonce(slot, sequence);
    let mut text = sealed.to_vec();
    let sums = match session.mode {
        MODE_AUTHENTICATE => pass(Operation::Authenticate, &keys.seal, nonce, &mut text),
        _ => pass(Operation::Open, &keys.seal, nonce, &mut text),
    };
    let sums = sums.ok_or(DropReason::Oversized)?;
    if !aead::verify(sums.tag, outer::tag(header)) {
        return Err(DropReason::BadTag);
    }
    if !outer::checksum_valid(ipv6, udp, header, sums.checksum) {
        return Err(DropReason::BadChecksum);
    }
    Ok((sequence, text))
}

/// The control message in an inner packet, if it carries one.
pub fn control_message(inner: &[u8]) -> Option<&[u8]> {
    let (header, message) = inner.split_first_chunk::<IPV6>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (header[0] >> 4 == 6 && header[6] == NEXT_CONTROL && length == message.len()).then_some(message)
}

fn pass(operation: Operation, key: &[u8; 32], nonce: [u32; 3], text: &mut [u8]) -> Option<Sums> {
    let length = text.len();
    aead::pass(operation, key, nonce, &mut Buffer(text), length, &mut Pass::default())
}
