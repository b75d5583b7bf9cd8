//! Records in the ring buffer `EVENTS`: dropped packets, rate-limited.

use core::mem::{offset_of, size_of};

use crate::drop_reason::DropReason;

/// Version of the group of maps: `EVENTS`.
pub const VERSION: u32 = 6;

/// [`DropEvent::version`] of this layout.
pub const EVENT_VERSION: u8 = 1;

/// One dropped packet, as far as its headers could be read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropEvent {
    /// [`EVENT_VERSION`].
    pub version: u8,
    /// Number of a [`DropReason`].
    pub reason: u8,
    /// IPv6 next header of the outer packet, or 0 if it was not read.
    pub next_header: u8,
    /// 1: it would have been dropped, but passed to the kernel because nothing is enforced.
    pub passed: u8,
    /// Interface where the packet was seen.
    pub ifindex: u32,
    /// `CLOCK_BOOTTIME` in ns.
    pub time: u64,
    /// Outer source address, or zero if it was not read.
    pub source: [u8; 16],
    /// Outer destination address, or zero if it was not read.
    pub destination: [u8; 16],
    /// UDP or TCP source port, network order, or zero.
    pub source_port: [u8; 2],
    /// UDP or TCP destination port, network order, or zero.
    pub destination_port: [u8; 2],
    /// Length of the frame in bytes.
    pub length: u32,
}

const _: () = {
    assert!(size_of::<DropEvent>() == 56);
    assert!(offset_of!(DropEvent, ifindex) == 4);
    assert!(offset_of!(DropEvent, time) == 8);
    assert!(offset_of!(DropEvent, source) == 16);
    assert!(offset_of!(DropEvent, destination) == 32);
    assert!(offset_of!(DropEvent, source_port) == 48);
    assert!(offset_of!(DropEvent, length) == 52);
};

/// Reasons why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    /// The record is not as long as a [`DropEvent`].
    Length(usize),
    /// The record is of another version.
    Version(u8),
    /// No [`DropReason`] has this number.
    Reason(u8),
}

impl DropEvent {
    /// Reads a record from the ring buffer.
    ///
    /// # Errors
    /// [`EventError`] if the record was not written by programs of this version.
    pub fn decode(record: &[u8]) -> Result<(Self, DropReason), EventError> {
        let Ok(r) = <&[u8; 56]>::try_from(record) else {
            return Err(EventError::Length(record.len()));
        };
        if r[0] != EVENT_VERSION {
            return Err(EventError::Version(r[0]));
        }
        let reason = DropReason::from_number(r[1]).ok_or(EventError::Reason(r[1]))?;
        // SAFETY: the source has the size of the type, of which every bit pattern is valid; the read is unaligned.
        let event = unsafe { r.as_ptr().cast::<Self>().read_unaligned() };
        Ok((event, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_length_version_or_reason_is_refused() {
        let mut record = [0_u8; 56];
        record[0] = EVENT_VERSION;
        record[1] = DropReason::BadTag as u8;
        let (event, reason) = DropEvent::decode(&record).unwrap();
        assert_eq!((event.reason, reason), (DropReason::BadTag as u8, DropReason::BadTag));
        assert_eq!(DropEvent::decode(&record[1..]), Err(EventError::Length(55)));
        record[1] = 0;
        assert_eq!(DropEvent::decode(&record), Err(EventError::Reason(0)));
        record[0] = 9;
        assert_eq!(DropEvent::decode(&record), Err(EventError::Version(9)));
    }
}
