//! Records of the kernel, and what is kept of a session.

use std::array;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use mtd_common::DropReason;
use mtd_common::control_record::{
    CONTROL_RECORD, CONTROL_VERSION, ControlError, ControlRecord, KIND_TOO_BIG, MAX_CONTROL,
};
use mtd_common::event::{DropEvent, EVENT_VERSION, EventError};
use mtd_common::slot::{SEQUENCE_SLACK, sequence_seed};
use mtd_common::window::{WIDTH, WINDOW_WORDS, place};

use super::take;

/// A record of the ring buffer `EVENTS`: what is read is what the bytes say, in the layout of the ABI.
pub fn event(data: &[u8]) -> bool {
    let decoded = DropEvent::decode(data);
    match decoded {
        Ok((event, reason)) => {
            assert_eq!((event.version, event.reason), (EVENT_VERSION, reason as u8));
            let written = [
                &[event.version, event.reason, event.next_header, event.passed][..],
                &event.ifindex.to_ne_bytes(),
                &event.time.to_ne_bytes(),
                &event.source,
                &event.destination,
                &event.source_port,
                &event.destination_port,
                &event.length.to_ne_bytes(),
            ];
            assert_eq!(written.concat(), data);
        }
        Err(EventError::Length(length)) => assert!(length == data.len() && length != 56),
        Err(EventError::Version(version)) => assert!(version == data[0] && version != EVENT_VERSION),
        Err(EventError::Reason(number)) => {
            assert!(number == data[1] && DropReason::ALL.iter().all(|&reason| reason as u8 != number));
        }
    }
    decoded.is_ok()
}

/// A record of the ring buffer `CONTROL`: what is read is what the bytes say, in the layout of the ABI, and the message
/// is inside.
pub fn control_record(data: &[u8]) -> bool {
    let decoded = ControlRecord::decode(data);
    match decoded {
        Ok(record) => {
            let written = [
                &record.time.to_ne_bytes()[..],
                &record.session.to_ne_bytes(),
                &record.generation.to_ne_bytes(),
                &record.slot.to_ne_bytes(),
                &record.length.to_ne_bytes(),
                &[record.version, record.kind],
                &record.source,
                &record.destination,
                &record.source_port,
                &record.destination_port,
                &record.reserved_end,
                &record.inner_source,
                &record.payload,
            ];
            assert_eq!(written.concat(), data);
            assert_eq!(record.message(), &data[80..80 + usize::from(record.length)]);
            assert_eq!(record.too_big().is_some(), record.kind == KIND_TOO_BIG && record.length == 4);
        }
        Err(ControlError::Length(length)) => assert!(length == data.len() && length != CONTROL_RECORD),
        Err(ControlError::Version(version)) => assert!(version == data[22] && version != CONTROL_VERSION),
        Err(ControlError::Message(length)) => {
            assert!(length.to_ne_bytes() == data[20..22] && usize::from(length) > MAX_CONTROL);
        }
    }
    decoded.is_ok()
}

/// The sequence window against a model that remembers every number. Bytes: a first number (8), then steps (2 each)
/// from the highest number seen so far: bit 0 ahead or back, bits 1–15 how far.
pub fn window(mut data: &[u8]) -> bool {
    // The highest that is ever asked for: see `slot::sequence_possible`.
    let limit = sequence_seed(u64::MAX) + SEQUENCE_SLACK;
    let Some(first) = take(&mut data).map(u64::from_le_bytes) else { return false };
    let ring: [AtomicU64; WINDOW_WORDS] = array::from_fn(|_| AtomicU64::new(0));
    let known = AtomicU64::new(0);
    let mut used = HashSet::new();
    let mut highest = first % (limit + 1);
    while let Some(step) = take(&mut data).map(u16::from_le_bytes) {
        let distance = u64::from(step >> 1);
        let sequence = match step & 1 {
            0 => highest.saturating_sub(distance),
            _ => highest.saturating_add(distance).min(limit),
        };
        let place = place(sequence);
        let before = known.load(Ordering::Relaxed);
        let expected = if sequence < before.saturating_sub(WIDTH) {
            Err(DropReason::InvalidSequence)
        } else if used.contains(&sequence) {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        };
        let word = &ring[place.index];
        let found = word.load(Ordering::Relaxed);
        assert_eq!(place.check(found, before), expected, "check of {sequence}");
        assert_eq!(word.load(Ordering::Relaxed), found, "a check marks nothing");
        assert_eq!(place.mark(word, &known), expected, "mark of {sequence}");
        assert_eq!(
            known.load(Ordering::Relaxed),
            if expected.is_ok() { before.max(sequence) } else { before }
        );
        if expected.is_ok() {
            used.insert(sequence);
            highest = highest.max(sequence);
        }
    }
    !used.is_empty()
}
