//! A store in memory, with faults: what model tests use instead of the DHT.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Answer, Answers, Encoding, Item, Lookup, MAX_VALUE, Message, Store, StoreError, StoreFuture};
use super::{Stored, Summary};
use crate::proto::rendezvous::ports;

/// How long nodes keep items that are not published again.
const LIFETIME: Duration = Duration::from_hours(2);

/// Number of nodes that this stand-in for a network reports.
const NODES: u32 = 20;

/// Faults to simulate. None by default.
#[expect(clippy::struct_excessive_bools, reason = "any of these goes with any other")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The network is out of reach.
    pub dead: bool,
    /// Nodes answer, but have no items.
    pub absent: bool,
    /// Duration of every operation.
    pub delay: Duration,
    /// Time between two answers of one search.
    pub between: Duration,
    /// Number of publications that will fail, although the network is reachable.
    pub failing: u32,
    /// Meaningless bytes come first, one message of them longer than allowed.
    pub garbage: bool,
    /// An item with a wrong signature comes first: the store refuses it.
    pub forged: bool,
    /// The oldest item under the descriptor comes first, and the newest after it.
    pub stale: bool,
    /// Items of all other descriptors come first.
    pub foreign: bool,
}

/// Keeps items in memory as the DHT would: by descriptor and encoding, for two hours, a lower sequence number
/// refused. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    items: BTreeMap<Lookup, Vec<Kept>>,
    ports: BTreeMap<Lookup, Vec<Kept>>,
    published: u64,
    in_flight: usize,
    most_in_flight: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    message: Message,
    until: Instant,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Number of successful publications so far.
    pub fn published(&self) -> u64 {
        self.lock().published
    }

    /// Largest number of publications in flight at one time.
    pub fn most_in_flight(&self) -> usize {
        self.lock().most_in_flight
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn map(&mut self, encoding: Encoding) -> &mut BTreeMap<Lookup, Vec<Kept>> {
        match encoding {
            Encoding::Item => &mut self.items,
            Encoding::Ports => &mut self.ports,
        }
    }

    fn store(&mut self, item: Item, encoding: Encoding) -> Result<Stored, StoreError> {
        let limit = if encoding == Encoding::Item { MAX_VALUE } else { ports::MAX_BYTES };
        if item.value.len() > limit {
            return Err(StoreError::TooLarge(item.value.len()));
        }
        if self.faults.dead {
            return Err(StoreError::Dead);
        }
        if self.faults.failing > 0 {
            self.faults.failing -= 1;
            return Err(StoreError::Refused("a fault of the test".to_owned()));
        }
        let kept = self.map(encoding).entry(item.lookup()).or_default();
        let now = Instant::now();
        kept.retain(|kept| kept.until > now);
        let seq = (encoding == Encoding::Item).then_some(item.seq);
        if kept.iter().any(|kept| kept.message.seq > seq) {
            return Err(StoreError::Superseded);
        }
        kept.retain(|kept| kept.message.seq != seq);
        kept.push(Kept { message: Message { value: item.value, seq }, until: now + LIFETIME });
        self.published += 1;
        Ok(Stored { copies: seq.map(|_| NODES) })
    }

    /// The answers of a search, in order.
    fn find(&mut self, lookup: Lookup, encoding: Encoding) -> Result<(Vec<Message>, Summary), StoreError> {
        let faults = self.faults;
        if faults.dead {
            return Err(StoreError::Dead);
        }
        let mut messages = Vec::new();
        if faults.garbage {
            let seq = (encoding == Encoding::Item).then_some(1);
            messages
                .extend([vec![0xaa; 2000], Vec::new(), vec![0x55; 116]].map(|value| Message { value, seq }));
        }
        let (now, map) = (Instant::now(), self.map(encoding));
        let live = |kept: &&Kept| kept.until > now;
        if faults.foreign {
            let others = map.iter().filter(|(other, _)| **other != lookup).flat_map(|(_, kept)| kept);
            messages.extend(others.filter(live).map(|kept| kept.message.clone()));
        }
        if !faults.absent
            && let Some(kept) = map.get(&lookup)
        {
            let mut live = kept.iter().filter(live).map(|kept| &kept.message);
            let oldest = live.next();
            let newest = live.next_back();
            messages.extend(oldest.filter(|_| faults.stale || newest.is_none()).cloned());
            messages.extend(newest.cloned());
        }
        Ok((messages, Summary { responded: NODES, invalid: u32::from(faults.forged) }))
    }
}

impl Store for MemoryStore {
    fn publish(&self, item: Item, encoding: Encoding) -> StoreFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            let delay = {
                let mut state = self.lock();
                state.in_flight += 1;
                state.most_in_flight = state.most_in_flight.max(state.in_flight);
                state.faults.delay
            };
            // Lets other tasks run even without a delay.
            sleep(delay).await;
            let mut state = self.lock();
            state.in_flight -= 1;
            state.store(item, encoding)
        })
    }

    fn look(&self, lookup: Lookup, encoding: Encoding, _: usize) -> Answers {
        let this = self.clone();
        Answers::of(move |answers| async move {
            let faults = this.lock().faults;
            sleep(faults.delay).await;
            let (messages, summary) = this.lock().find(lookup, encoding)?;
            for message in messages {
                if answers.send(Answer::Message(message)).await.is_err() {
                    break;
                }
                sleep(faults.between).await;
            }
            Ok(summary)
        })
    }
}
