//! Port stuffing (requirement MT-24 b): a short message as the set of ports that are announced under one info-hash.
//!
//! Byte `b` at index `i` (from 0) is port `(i + 1) << 8 | b`: the high byte sorts, the low byte carries.

use std::collections::BTreeMap;

/// Most bytes that fit: high bytes are 1 to 255, so that no port is below 256.
pub const MAX_BYTES: usize = 255;

/// The ports to announce, in ascending order. `None` when the message is empty or has more than [`MAX_BYTES`].
pub fn encode(message: &[u8]) -> Option<Vec<u16>> {
    if message.is_empty() || message.len() > MAX_BYTES {
        return None;
    }
    Some((1..).zip(message).map(|(high, &byte)| high << 8 | u16::from(byte)).collect())
}

/// Announced ports that were found. Anybody can announce more: an index can have several bytes.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How often each port was reported.
    reports: BTreeMap<u16, u32>,
}

impl Found {
    /// Adds a reported port.
    pub fn add(&mut self, port: u16) {
        let reports = self.reports.entry(port).or_default();
        *reports = reports.saturating_add(1);
    }

    /// Different ports so far.
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The messages of `length` bytes that the ports can mean, at most `limit`; empty while an index is missing.
    /// Where an index has several bytes, those that were reported more often come first. Indices from `length` on
    /// are not looked at.
    pub fn messages(&self, length: usize, limit: usize) -> Vec<Vec<u8>> {
        let mut choices = vec![Vec::new(); length];
        for (&port, &reports) in &self.reports {
            let [high, byte] = port.to_be_bytes();
            if let Some(choice) = usize::from(high).checked_sub(1).and_then(|index| choices.get_mut(index)) {
                choice.push((reports, byte));
            }
        }
        if length == 0 || length > MAX_BYTES || choices.iter().any(Vec::is_empty) {
            return Vec::new();
        }
        for choice in &mut choices {
            choice.sort_by_key(|&(reports, _)| std::cmp::Reverse(reports));
        }
        combinations(&choices, limit)
    }

    /// Length of the message, when it is not known: indices from 0 on without a gap.
    pub fn run(&self) -> usize {
        let announced = |high: &u16| self.reports.range(high << 8..=high << 8 | 0xff).next().is_some();
        (1..=255).take_while(announced).count()
    }
}

/// The first `limit` combinations of one byte of each choice, as a counter whose digits are the choices.
fn combinations(choices: &[Vec<(u32, u8)>], limit: usize) -> Vec<Vec<u8>> {
    let mut digits = vec![0; choices.len()];
    let mut messages = Vec::new();
    while messages.len() < limit {
        messages.push(choices.iter().zip(&digits).map(|(choice, &digit)| choice[digit].1).collect());
        let Some(next) = (0..digits.len()).find(|&index| digits[index] + 1 < choices[index].len()) else {
            break;
        };
        digits[next] += 1;
        digits[..next].fill(0);
    }
    messages
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(ports: impl IntoIterator<Item = u16>) -> Found {
        let mut found = Found::default();
        ports.into_iter().for_each(|port| found.add(port));
        found
    }

    proptest! {
        #[test]
        fn every_message_comes_back_from_ports_in_any_order(
            (message, mut ports) in prop::collection::vec(any::<u8>(), 1..=255)
                .prop_flat_map(|message| (Just(message.clone()), Just(encode(&message).unwrap()).prop_shuffle()))
        ) {
            prop_assert!(ports.iter().all(|&port| port >= 256));
            prop_assert_eq!(found(ports.iter().copied()).messages(message.len(), 4), [message.clone()]);
            prop_assert_eq!(found(ports.iter().copied()).run(), message.len());
            let gap = ports.pop().unwrap();
            prop_assert!(found(ports).messages(message.len(), 4).is_empty(), "{} is missing", gap);
        }
    }

    #[test]
    fn ports_ascend_and_carry_a_byte_each() {
        assert_eq!(encode(&[0, 255, 7]).unwrap(), [0x100, 0x2ff, 0x307]);
        assert_eq!(encode(&[9; 255]).unwrap()[254], 0xff09);
        assert_eq!(encode(&[]), None);
        assert_eq!(encode(&[9; 256]), None);
    }

    #[test]
    fn foreign_ports_are_passed_over() {
        let ports = encode(b"mtd").unwrap();
        let mut found = found(ports);
        for foreign in [0, 80, 255, 0x0401, 0xffff] {
            found.add(foreign);
        }
        assert_eq!(found.messages(3, 8), [b"mtd"]);
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn of_two_bytes_for_an_index_the_more_frequent_one_is_first_and_the_number_is_bounded() {
        let mut found = found(encode(b"mtd").unwrap());
        found.add(0x100 | u16::from(b'x'));
        found.add(0x100 | u16::from(b'x'));
        assert_eq!(found.messages(3, 8), [b"xtd", b"mtd"]);
        for high in 1..=3_u16 {
            (0..=255).for_each(|byte| found.add(high << 8 | byte));
        }
        assert_eq!(found.messages(3, 64).len(), 64);
    }

    #[test]
    fn every_combination_comes_once() {
        let ports = [0x101, 0x102, 0x201, 0x202, 0x301];
        let mut messages = found(ports).messages(3, 100);
        messages.sort();
        assert_eq!(messages, [[1, 1, 1], [1, 2, 1], [2, 1, 1], [2, 2, 1]]);
        assert!(found(ports).messages(0, 100).is_empty());
    }
}
