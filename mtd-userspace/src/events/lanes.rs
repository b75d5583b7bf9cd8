//! Two bounded queues beside each other: dropped packets come in floods, all else is rare and matters more.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Kind, Record};

/// Where an event queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Dropped packets.
    Drops,
    /// Everything else.
    Rest,
}

impl Kind {
    /// Where events of this kind queue.
    pub const fn lane(self) -> Lane {
        match self {
            Self::Drop => Lane::Drops,
            _ => Lane::Rest,
        }
    }
}

/// How many events each lane has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Dropped packets.
    pub drops: usize,
    /// All else.
    pub rest: usize,
}

/// The queues. What is too much displaces the oldest of its lane.
#[derive(Debug)]
pub(super) struct Lanes {
    room: Room,
    drops: VecDeque<Arc<Record>>,
    rest: VecDeque<Arc<Record>>,
}

impl Lanes {
    pub(super) const fn new(room: Room) -> Self {
        Self { room, drops: VecDeque::new(), rest: VecDeque::new() }
    }

    /// Adds an event. Whether another one had to go for it.
    pub(super) fn push(&mut self, record: Arc<Record>) -> bool {
        let (queue, room) = match record.event.kind().lane() {
            Lane::Drops => (&mut self.drops, self.room.drops),
            Lane::Rest => (&mut self.rest, self.room.rest),
        };
        let full = queue.len() >= room;
        if full {
            queue.pop_front();
        }
        queue.push_back(record);
        full
    }

    /// Takes the oldest event.
    pub(super) fn pop(&mut self) -> Option<Arc<Record>> {
        let drop_first = match (self.drops.front(), self.rest.front()) {
            (Some(drop), Some(other)) => drop.number < other.number,
            (drop, _) => drop.is_some(),
        };
        if drop_first { self.drops.pop_front() } else { self.rest.pop_front() }
    }

    /// All events, in their order.
    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.drops.iter().chain(&self.rest).cloned().collect();
        all.sort_unstable_by_key(|record| record.number);
        all
    }
}
