//! Two bounded queues side by side: dropped packets come in floods, all other events are rare and matter more.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Kind, Record};

/// The queue of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Dropped packets.
    Drops,
    /// All other events.
    Rest,
}

impl Kind {
    /// The queue for events of this kind.
    pub const fn lane(self) -> Lane {
        match self {
            Self::Drop => Lane::Drops,
            _ => Lane::Rest,
        }
    }
}

/// The capacity of each lane, in events.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Dropped packets.
    pub drops: usize,
    /// All other events.
    pub rest: usize,
}

/// The queues. When a lane is full, a new event displaces its oldest one.
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

    /// Adds an event. Returns whether another one was displaced.
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

    /// All events, in order.
    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.drops.iter().chain(&self.rest).cloned().collect();
        all.sort_unstable_by_key(|record| record.number);
        all
    }
}
