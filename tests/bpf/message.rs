//! Control messages: inner packets of next header 254, and the records in which they reach the controller.

use std::net::{Ipv6Addr, SocketAddrV6};

use anyhow::{Result, ensure};
use mtd_common::control_record::ControlRecord;

use crate::inner::{IPV6_LEN, ipv6};
use crate::peering::Peering;
use crate::wire::Packet;

/// IPv6 next header of control messages.
pub(crate) const NEXT_CONTROL: u8 = 254;
/// Longest message in bytes.
pub(crate) const MAX_MESSAGE: usize = 768;
/// First byte of a message that may be longer, and how much of that is told.
pub(crate) const PATH_PROBE: u8 = 8;
pub(crate) const PROBE_HEAD: usize = 12;
/// Bytes of a record, and of the ring buffer of records; a record has a header of 8 bytes there.
pub(crate) const RECORD: usize = 80 + MAX_MESSAGE;
pub(crate) const RING_BYTES: usize = 1024 * 1024;

/// The inner packet of a message of `length` bytes that look random.
pub(crate) fn inner(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
    let mut packet = ipv6(source, destination, 0, IPV6_LEN + length);
    packet[6..8].copy_from_slice(&[NEXT_CONTROL, 1]);
    packet
}

/// A message, as its record must contain it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) session: u32,
    generation: u32,
    slot: u64,
    /// The sequence number to be marked as used; an introduction has none.
    pub(crate) sequence: Option<u64>,
    from: SocketAddrV6,
    to: SocketAddrV6,
    inner_source: [u8; 16],
    payload: Vec<u8>,
    inner_len: usize,
}

impl Message {
    /// The message of `packet` to the session of `peering`.
    pub(crate) fn new(peering: &Peering, packet: &Packet) -> Self {
        let mut payload = packet.inner[IPV6_LEN..].to_vec();
        if payload.len() > MAX_MESSAGE && payload[0] == PATH_PROBE {
            payload.truncate(PROBE_HEAD);
        }
        Self {
            session: peering.index,
            generation: peering.generation,
            slot: packet.slot,
            sequence: (!peering.introduction).then_some(packet.sequence),
            from: packet.from,
            to: packet.to,
            inner_source: packet.inner[8..24].try_into().expect("16 bytes"),
            payload,
            inner_len: packet.inner.len(),
        }
    }

    pub(crate) const fn inner_len(&self) -> usize {
        self.inner_len
    }

    /// Checks that every byte of `record` is right for this message, received between two boot times (in ns).
    pub(crate) fn require_record(&self, record: &[u8], (began, ended): (u64, u64)) -> Result<()> {
        ensure!(record.len() == RECORD, "a record of {} bytes", record.len());
        let (time, rest) = record.split_first_chunk::<8>().expect("848 bytes");
        ensure!((began..=ended).contains(&u64::from_ne_bytes(*time)), "time of the record");
        let mut expected =
            [self.session.to_ne_bytes(), self.generation.to_ne_bytes(), (self.slot as u32).to_ne_bytes()]
                .concat();
        expected.extend((self.payload.len() as u16).to_ne_bytes());
        // Version, kind.
        expected.extend([3, 0]);
        expected.extend(self.from.ip().octets());
        expected.extend(self.to.ip().octets());
        expected.extend(self.from.port().to_be_bytes());
        expected.extend(self.to.port().to_be_bytes());
        expected.extend([0; 4]);
        expected.extend(self.inner_source);
        expected.extend(&self.payload);
        // The rest contains nothing of earlier records in the ring buffer.
        expected.resize(RECORD - 8, 0);
        ensure!(rest == expected, "the record says {rest:02x?} instead of {expected:02x?}");
        let decoded = ControlRecord::decode(record).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        ensure!(decoded.message() == self.payload, "the message decoded");
        Ok(())
    }
}
