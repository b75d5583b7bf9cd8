//! Records in the ring buffer `CONTROL`: control messages of peers, which the receive program has opened and checked, and
//! hands to the controller instead of the tunnel device; and routers' reports on a session's path.

use core::mem::{offset_of, size_of};

/// Version of the group of maps: `CONTROL`.
pub const VERSION: u32 = 7;

/// [`ControlRecord::version`] of this layout.
pub const CONTROL_VERSION: u8 = 3;

/// [`ControlRecord::kind`]: a control message of the session's peer, authentic, never handed out twice.
pub const KIND_MESSAGE: u8 = 0;
/// [`ControlRecord::kind`]: a router reports the MTU of the outer path (Packet Too Big). The message is the MTU, four bytes
/// in network order; the ports and the slot of the destination are not set.
pub const KIND_TOO_BIG: u8 = 1;

/// Longest control message in bytes, without its inner IPv6 header.
pub const MAX_CONTROL: usize = 768;

/// First byte of a control message that probes how long packets the path carries (RFC 8899, section 3): inside a session, it
/// may be longer than [`MAX_CONTROL`].
pub const TYPE_PATH_PROBE: u8 = 8;

/// Bytes of such a longer message that are handed to the controller: the rest is padding.
pub const PROBE_HEAD: usize = 12;

/// One control message, or one report of a router.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlRecord {
    /// `CLOCK_BOOTTIME` in ns of the receipt.
    pub time: u64,
    /// Index of the session into `SESSIONS`.
    pub session: u32,
    /// [`crate::abi::Session::generation`] of that session.
    pub generation: u32,
    /// Low 32 bits of the number of the slot whose address it was sent to.
    pub slot: u32,
    /// Bytes of `payload` that are used, at most [`MAX_CONTROL`].
    pub length: u16,
    /// [`CONTROL_VERSION`].
    pub version: u8,
    /// [`KIND_MESSAGE`] or [`KIND_TOO_BIG`].
    pub kind: u8,
    /// Outer source address.
    pub source: [u8; 16],
    /// Outer destination address.
    pub destination: [u8; 16],
    /// Outer UDP source port, network order.
    pub source_port: [u8; 2],
    /// Outer UDP destination port, network order.
    pub destination_port: [u8; 2],
    /// Padding.
    pub reserved_end: [u8; 4],
    /// Source address of the inner packet: what the sender's own address was before any router translated it, if the
    /// message came through an introduction.
    pub inner_source: [u8; 16],
    /// The message; zero from `length` on.
    pub payload: [u8; MAX_CONTROL],
}

/// Bytes of a record.
pub const CONTROL_RECORD: usize = size_of::<ControlRecord>();

const _: () = {
    assert!(CONTROL_RECORD == 848);
    assert!(offset_of!(ControlRecord, session) == 8);
    assert!(offset_of!(ControlRecord, slot) == 16);
    assert!(offset_of!(ControlRecord, length) == 20);
    assert!(offset_of!(ControlRecord, version) == 22);
    assert!(offset_of!(ControlRecord, kind) == 23);
    assert!(offset_of!(ControlRecord, source) == 24);
    assert!(offset_of!(ControlRecord, destination) == 40);
    assert!(offset_of!(ControlRecord, source_port) == 56);
    assert!(offset_of!(ControlRecord, destination_port) == 58);
    assert!(offset_of!(ControlRecord, inner_source) == 64);
    assert!(offset_of!(ControlRecord, payload) == 80);
};

/// Shows the length of the message instead of the message.
impl core::fmt::Debug for ControlRecord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ControlRecord")
            .field("time", &self.time)
            .field("session", &self.session)
            .field("generation", &self.generation)
            .field("slot", &self.slot)
            .field("kind", &self.kind)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Reasons why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The record is not as long as a [`ControlRecord`].
    Length(usize),
    /// The record is of another version.
    Version(u8),
    /// The record claims this many bytes of message, more than it has room for.
    Message(u16),
}

impl ControlRecord {
    /// Reads a record from the ring buffer.
    ///
    /// # Errors
    /// [`ControlError`] if the record was not written by programs of this version.
    pub fn decode(record: &[u8]) -> Result<Self, ControlError> {
        let Ok(r) = <&[u8; CONTROL_RECORD]>::try_from(record) else {
            return Err(ControlError::Length(record.len()));
        };
        // SAFETY: the source has the size of the type, of which every bit pattern is valid; the read is unaligned.
        let found = unsafe { r.as_ptr().cast::<Self>().read_unaligned() };
        if found.version != CONTROL_VERSION {
            return Err(ControlError::Version(found.version));
        }
        if usize::from(found.length) > MAX_CONTROL {
            return Err(ControlError::Message(found.length));
        }
        Ok(found)
    }

    /// The MTU that a router reports, in bytes of the outer packet; `None`: the record is of another kind.
    pub fn too_big(&self) -> Option<u32> {
        let mtu = <[u8; 4]>::try_from(self.message()).ok()?;
        (self.kind == KIND_TOO_BIG).then(|| u32::from_be_bytes(mtu))
    }

    /// The message.
    pub fn message(&self) -> &[u8] {
        self.payload.get(..usize::from(self.length)).unwrap_or(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_length_or_version_or_with_too_long_a_message_is_refused() {
        let mut record = [0_u8; CONTROL_RECORD];
        record[22] = CONTROL_VERSION;
        record[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        record[80..85].copy_from_slice(b"hello");
        for length in [0, 5, MAX_CONTROL as u16] {
            record[20..22].copy_from_slice(&length.to_ne_bytes());
            let found = ControlRecord::decode(&record).unwrap();
            assert_eq!((found.session, found.message()), (7, &record[80..80 + usize::from(length)]));
        }
        record[20..22].copy_from_slice(&769_u16.to_ne_bytes());
        assert_eq!(ControlRecord::decode(&record), Err(ControlError::Message(769)));
        assert_eq!(ControlRecord::decode(&record[1..]), Err(ControlError::Length(847)));
        record[22] = CONTROL_VERSION + 1;
        assert_eq!(ControlRecord::decode(&record), Err(ControlError::Version(CONTROL_VERSION + 1)));
        record[22] = CONTROL_VERSION;
        record[20..22].copy_from_slice(&4_u16.to_ne_bytes());
        assert_eq!(ControlRecord::decode(&record).unwrap().too_big(), None, "a control message");
        record[23] = KIND_TOO_BIG;
        record[80..84].copy_from_slice(&1400_u32.to_be_bytes());
        assert_eq!(ControlRecord::decode(&record).unwrap().too_big(), Some(1400));
        record[20..22].copy_from_slice(&3_u16.to_ne_bytes());
        assert_eq!(ControlRecord::decode(&record).unwrap().too_big(), None);
    }
}
