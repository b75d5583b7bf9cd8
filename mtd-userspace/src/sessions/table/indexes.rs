//! Allocation of the elements of the session table.

use crate::model::SessionIndex;

/// The elements of the session table that are taken.
#[derive(Debug)]
pub(super) struct Indexes {
    taken: Vec<bool>,
    /// Where the next search begins.
    next: usize,
}

impl Indexes {
    /// All of the `capacity` elements are free.
    pub(super) fn new(capacity: u32) -> Self {
        Self { taken: vec![false; capacity as usize], next: 0 }
    }

    /// Takes a free element, in turn, so that an element that was just given back is not used again at once.
    pub(super) fn take(&mut self) -> Option<SessionIndex> {
        let length = self.taken.len();
        let index = (self.next..length).chain(0..self.next).find(|index| !self.taken[*index])?;
        self.taken[index] = true;
        self.next = (index + 1) % length;
        Some(SessionIndex(index as u32))
    }

    /// The taken elements.
    pub(super) fn taken(&self) -> impl Iterator<Item = SessionIndex> {
        let taken = self.taken.iter().enumerate().filter(|(_, taken)| **taken);
        taken.map(|(index, _)| SessionIndex(index as u32))
    }

    /// Marks this element as taken.
    pub(super) fn mark(&mut self, index: SessionIndex) {
        if let Some(taken) = self.taken.get_mut(index.position()) {
            *taken = true;
        }
    }

    /// Gives an element back.
    pub(super) fn free(&mut self, index: SessionIndex) {
        if let Some(taken) = self.taken.get_mut(index.position()) {
            *taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_taken_once_and_rest_before_they_are_taken_again() {
        let mut indexes = Indexes::new(3);
        indexes.mark(SessionIndex(0));
        let mut take = |free: &[u32]| {
            for index in free {
                indexes.free(SessionIndex(*index));
            }
            [indexes.take(), indexes.take(), indexes.take()].map(|index| index.map(|index| index.0))
        };
        assert_eq!(take(&[]), [Some(1), Some(2), None]);
        assert_eq!(take(&[1, 0]), [Some(0), Some(1), None]);
    }
}
