//! The bus.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::lanes::Lanes;
use super::{Event, Kind, Record, Room};

/// Events that a subscriber may lag behind before it loses some.
const BACKLOG: Room = Room { drops: 1024, rest: 1024 };

/// Events that are kept for those who come later.
const HISTORY: Room = Room { drops: 64, rest: 256 };

/// Where everybody publishes, and subscribes. Publishing never waits for a subscriber.
pub struct Bus {
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    backlog: Room,
    shared: Mutex<Shared>,
    lost: AtomicU64,
}

struct Shared {
    published: u64,
    history: Lanes,
    subscribers: Vec<Weak<Queue>>,
}

/// The queue of one subscriber.
struct Queue {
    /// The kind that it wants; `None`: all.
    only: Option<Kind>,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

struct Waiting {
    lanes: Lanes,
    lost: u64,
}

/// What a subscriber gets.
#[derive(Clone, Debug)]
pub enum Received {
    /// An event.
    Event(Arc<Record>),
    /// So many events were lost, all of them older than those that follow, since this subscriber was too slow.
    Lost(u64),
}

impl Bus {
    /// A bus whose events have the Unix time in ns that `now` tells.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::with_backlog(now, BACKLOG)
    }

    /// The same, with room for another number of events that a subscriber may lag behind.
    pub fn with_backlog(now: impl Fn() -> u64 + Send + Sync + 'static, backlog: Room) -> Self {
        let shared = Shared { published: 0, history: Lanes::new(HISTORY), subscribers: Vec::new() };
        Self { now: Box::new(now), backlog, shared: Mutex::new(shared), lost: AtomicU64::new(0) }
    }

    /// Tells everybody of something that happens now.
    pub fn publish(&self, event: Event) {
        self.publish_at((self.now)(), event);
    }

    /// Tells everybody of something that has happened at this Unix time in ns.
    pub fn publish_at(&self, time_ns: u64, event: Event) {
        let mut shared = lock(&self.shared);
        shared.published += 1;
        let record = Arc::new(Record { number: shared.published, time_ns, event });
        shared.history.push(Arc::clone(&record));
        let kind = record.event.kind();
        shared.subscribers.retain(|subscriber| {
            let Some(queue) = subscriber.upgrade() else { return false };
            if queue.only.is_none_or(|only| only == kind) && queue.push(Arc::clone(&record)) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            true
        });
    }

    /// The events from now on, those of one kind if it is named.
    pub fn subscribe(&self, only: Option<Kind>) -> Subscriber {
        let waiting = Mutex::new(Waiting { lanes: Lanes::new(self.backlog), lost: 0 });
        let queue = Arc::new(Queue { only, waiting, filled: Notify::new() });
        lock(&self.shared).subscribers.push(Arc::downgrade(&queue));
        Subscriber(queue)
    }

    /// The last events, in their order.
    pub fn history(&self) -> Vec<Arc<Record>> {
        lock(&self.shared).history.all()
    }

    /// Events published.
    pub fn published(&self) -> u64 {
        lock(&self.shared).published
    }

    /// Events that subscribers were too slow for, over all of them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Number of subscribers.
    pub fn subscribers(&self) -> usize {
        lock(&self.shared).subscribers.iter().filter(|queue| queue.strong_count() > 0).count()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("published", &self.published()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Whether another event was lost for this one.
    fn push(&self, record: Arc<Record>) -> bool {
        let lost = {
            let mut waiting = lock(&self.waiting);
            let lost = waiting.lanes.push(record);
            waiting.lost += u64::from(lost);
            lost
        };
        self.filled.notify_one();
        lost
    }

    fn pop(&self) -> Option<Received> {
        let mut waiting = lock(&self.waiting);
        if waiting.lost > 0 {
            return Some(Received::Lost(std::mem::take(&mut waiting.lost)));
        }
        waiting.lanes.pop().map(Received::Event)
    }
}

/// One that follows the events. It costs the bus nothing any more when it is dropped.
pub struct Subscriber(Arc<Queue>);

impl Subscriber {
    /// The next event, or how many were lost before it. A wait that is given up loses nothing.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.0.pop() {
                return received;
            }
            self.0.filled.notified().await;
        }
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
