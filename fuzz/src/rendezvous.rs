//! What comes out of the DHT.

use std::time::Duration;

use mtd::proto::rendezvous::{Introduction, OpenError, ports::Found};

use super::take;

/// An introduction as it is after it has been opened: one form for each.
pub fn introduction(mut data: &[u8]) -> bool {
    let Some(text) = take(&mut data) else { return false };
    match Introduction::decode(&text) {
        Ok(introduction) => {
            assert!(matches!(introduction.network.length, 64..=112 | 128));
            let slots = Duration::from_secs(1)..=Duration::from_hours(1);
            assert!(slots.contains(&introduction.rot) && slots.contains(&introduction.slot));
            assert_eq!(introduction.encode().as_deref(), Ok(&text), "a second form of the same introduction");
            true
        }
        Err(error) => {
            assert!(matches!(error, OpenError::Version(_) | OpenError::Field(_)));
            false
        }
    }
}

/// Announced ports (after the length that is expected): messages of that length, all different, each from the ports.
pub fn ports(mut data: &[u8]) -> bool {
    let Some([length, limit]) = take(&mut data) else { return false };
    let (length, limit) = (usize::from(length), usize::from(limit));
    let mut found = Found::default();
    let mut announced = Vec::new();
    while let Some(port) = take(&mut data) {
        found.add(u16::from_be_bytes(port));
        announced.push(port);
    }
    let mut messages = found.messages(length, limit);
    assert!(messages.len() <= limit && messages.iter().all(|message| message.len() == length));
    for message in &messages {
        assert!((1..).zip(message).all(|(high, &byte)| announced.contains(&[high, byte])));
    }
    let complete = length > 0 && found.run() >= length;
    assert_eq!(messages.is_empty(), !complete || limit == 0);
    let count = messages.len();
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), count, "the same message twice");
    count > 0
}
