//! The bus.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::lanes::Lanes;
use super::{Event, Kind, Record, Room};

/// Number of events that a subscriber may lag behind before it loses some.
const BACKLOG: Room = Room { drops: 1024, rest: 1024 };

/// Number of events that are kept for later subscribers.
const HISTORY: Room = Room { drops: 64, rest: 256 };

/// The bus, on which everybody publishes and subscribes. Publishing never waits for a subscriber.
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
    /// The kind that the subscriber wants; `None`: all.
    only: Option<Kind>,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

struct Waiting {
    lanes: Lanes,
    lost: u64,
}

/// An item that a subscriber receives.
#[derive(Clone, Debug)]
pub enum Received {
    /// An event.
    Event(Arc<Record>),
    /// This many events, older than all that follow, were lost because this subscriber was too slow.
    Lost(u64),
}

impl Bus {
    /// A bus whose events get the Unix time in ns from `now`.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::with_backlog(now, BACKLOG)
    }

    /// The same, with another number of events that a subscriber may lag behind.
    pub fn with_backlog(now: impl Fn() -> u64 + Send + Sync + 'static, backlog: Room) -> Self {
        let shared = Shared { published: 0, history: Lanes::new(HISTORY), subscribers: Vec::new() };
        Self { now: Box::new(now), backlog, shared: Mutex::new(shared), lost: AtomicU64::new(0) }
    }

    /// Publishes an event that happens now.
    pub fn publish(&self, event: Event) {
        self.publish_at((self.now)(), event);
    }

    /// Publishes an event that happened at this Unix time in ns.
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

    /// Subscribes to all events from now on, or to those of one kind.
    pub fn subscribe(&self, only: Option<Kind>) -> Subscriber {
        let waiting = Mutex::new(Waiting { lanes: Lanes::new(self.backlog), lost: 0 });
        let queue = Arc::new(Queue { only, waiting, filled: Notify::new() });
        lock(&self.shared).subscribers.push(Arc::downgrade(&queue));
        Subscriber(queue)
    }

    /// The last events, in order.
    pub fn history(&self) -> Vec<Arc<Record>> {
        lock(&self.shared).history.all()
    }

    /// Number of events published.
    pub fn published(&self) -> u64 {
        lock(&self.shared).published
    }

    /// Number of events lost because subscribers were too slow, over all of them.
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
    /// Whether another event was dropped from the queue for this one.
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

/// A subscriber to events. It costs the bus nothing after it is dropped.
pub struct Subscriber(Arc<Queue>);

impl Subscriber {
    /// The next event, or the number of events lost before it. Cancel-safe: no event is lost.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.0.pop() {
                return received;
            }
            self.0.filled.notified().await;
        }
    }
}

/// The data behind these locks is consistent at any time, so poisoning can be ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
