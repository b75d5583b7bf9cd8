//! Keeping many items published: spread over time, a few at once, with retries after failures and renewal before they
//! expire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Encoding, Item, Store, StoreError, Stored, Task, milliseconds, random};
use crate::keys::PublicKey;
use crate::proto::backoff::Backoff;

/// Options for publishing.
#[derive(Clone, Copy, Debug)]
pub struct PublishOptions {
    /// The form of the items in the DHT.
    pub encoding: Encoding,
    /// Largest number of concurrent publications. Each takes as long as the slowest node that it asks: seconds, if nodes
    /// have disappeared. The items of many clients are published in time only if many publications run at once.
    pub in_flight: usize,
    /// Time after which a published item is published again. The network keeps items for two hours.
    pub renew: Duration,
    /// Pauses of an item that failed, and of everything while no node answers.
    pub pauses: Backoff,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            encoding: Encoding::Item,
            in_flight: 64,
            renew: Duration::from_mins(45),
            pauses: Backoff { first: Duration::from_millis(500), longest: Duration::from_mins(1) },
        }
    }
}

/// One item to keep published.
#[derive(Clone, Debug)]
pub struct Job {
    /// The client that it is for.
    pub client: PublicKey,
    /// Start of its window, Unix time in s.
    pub window: u64,
    /// The item to be published.
    pub item: Item,
}

/// The progress of publication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishProgress {
    /// Number of the set of items that this is about, from 1 on.
    pub set: u64,
    /// Items to keep published.
    pub total: usize,
    /// Items that have been published at least once.
    pub done: usize,
    /// Items whose last attempt failed, and that will be retried.
    pub retrying: usize,
    /// Publications in progress.
    pub in_flight: usize,
    /// Failed attempts since the start of this program.
    pub failed: u64,
    /// Successful publications since the start of this program, including renewals.
    pub published: u64,
    /// Whether nodes answered the last attempt; absent if there was none.
    pub reached: Option<bool>,
    /// The last failure; absent after a success.
    pub last_error: Option<String>,
    /// When the present set of items was set, Unix time in ms.
    pub started_ms: Option<u64>,
    /// When every item had been published once, Unix time in ms.
    pub finished_ms: Option<u64>,
    /// When an item was last published, Unix time in ms.
    pub last_published_ms: Option<u64>,
}

/// Keeps a set of items published until it is dropped.
#[derive(Debug)]
pub struct Publisher {
    commands: mpsc::UnboundedSender<Command>,
    sets: AtomicU64,
    progress: watch::Receiver<PublishProgress>,
    _task: Task<()>,
}

impl Publisher {
    /// A publisher without items. Needs a tokio runtime.
    pub fn new(store: Arc<dyn Store>, options: PublishOptions) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, progress) = watch::channel(PublishProgress::default());
        let worker = Worker {
            store,
            options,
            entries: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: JoinSet::new(),
            allowed: 1,
            unreached: 0,
            rests_until: None,
            progress: PublishProgress::default(),
            report: sender,
        };
        Self { commands, sets: AtomicU64::new(0), progress, _task: Task(tokio::spawn(worker.run(receiver))) }
    }

    /// Replaces the set of items to keep published. New items are published spread over the time `over`, in the order given;
    /// present ones go on as before; items that are missing from the jobs are left to expire. The last of several jobs for
    /// one client and window counts. Returns the number of the set, as in [`PublishProgress::set`].
    pub fn replace(&self, jobs: Vec<Job>, over: Duration) -> u64 {
        let set = self.sets.fetch_add(1, Ordering::Relaxed) + 1;
        // The worker lives as long as `self`.
        let _ = self.commands.send(Command::Replace(Replace { set, jobs, over }));
        set
    }

    /// Publishes everything once more, at once: what was published may be in a wrong network.
    pub fn again(&self) {
        let _ = self.commands.send(Command::Again);
    }

    /// The present progress.
    pub fn progress(&self) -> PublishProgress {
        self.progress.borrow().clone()
    }

    /// A receiver for changes of the progress.
    pub fn watch(&self) -> watch::Receiver<PublishProgress> {
        self.progress.clone()
    }
}

enum Command {
    Replace(Replace),
    Again,
}

/// A new set of items.
struct Replace {
    set: u64,
    jobs: Vec<Job>,
    over: Duration,
}

/// Client and window.
type Key = (PublicKey, u64);

struct Entry {
    item: Item,
    due: Instant,
    done: bool,
    /// Failures since the last success.
    failures: u32,
    /// The sequence number that is being published; `None`: not in progress.
    running: Option<i64>,
    /// It is to be published once more, whatever comes of the publication in progress.
    again: bool,
}

struct Worker {
    store: Arc<dyn Store>,
    options: PublishOptions,
    entries: BTreeMap<Key, Entry>,
    /// Entries that are not in progress, by the time when they are due.
    queue: BTreeSet<(Instant, Key)>,
    running: JoinSet<(Key, i64, Result<Stored, StoreError>)>,
    /// Number of concurrent publications that the network handles: one more after each success, half as many after a
    /// failure. So a small or troubled network is not overloaded.
    allowed: usize,
    /// How often in a row nobody answered; publications that were under way together count once.
    unreached: u32,
    /// Nothing is begun before this, since nobody answered.
    rests_until: Option<Instant>,
    progress: PublishProgress,
    report: watch::Sender<PublishProgress>,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let may_start = self.running.len() < self.allowed;
            let due = self.queue.first().map(|(due, _)| *due).filter(|_| may_start);
            let next = due.map(|due| self.rests_until.map_or(due, |until| due.max(until)));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Replace(replace)) => self.replace(replace),
                    Some(Command::Again) => self.again(),
                    None => return,
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok((key, seq, result)) => self.ended(key, seq, result),
                    Err(error) => self.lost(&error.to_string()),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.start(),
            }
            self.tell();
        }
    }

    fn replace(&mut self, Replace { set, jobs, over }: Replace) {
        let now = Instant::now();
        let mut old = std::mem::take(&mut self.entries);
        self.queue.clear();
        let mut fresh = Vec::new();
        for Job { client, window, item } in jobs {
            let key = (client, window);
            match old.remove(&key) {
                Some(entry) if entry.item.seq == item.seq && entry.item.value == item.value => {
                    self.entries.insert(key, entry);
                }
                // A publication in progress has to end first: two publications to one place conflict.
                replaced => {
                    let running = replaced.and_then(|entry| entry.running);
                    self.entries.insert(
                        key,
                        Entry { item, due: now, done: false, failures: 0, running, again: false },
                    );
                    fresh.push(key);
                }
            }
        }
        let count = u32::try_from(fresh.len()).unwrap_or(u32::MAX).max(1);
        for (nth, key) in (0..).zip(&fresh) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.due = now + over / count * nth;
            }
        }
        let waiting = self.entries.iter().filter(|(_, entry)| entry.running.is_none());
        self.queue = waiting.map(|(key, entry)| (entry.due, *key)).collect();
        let count = |what: fn(&Entry) -> bool| self.entries.values().filter(|entry| what(entry)).count();
        self.progress.set = set;
        self.progress.total = self.entries.len();
        self.progress.done = count(|entry| entry.done);
        self.progress.retrying = count(|entry| entry.failures > 0);
        self.progress.started_ms = Some(unix_ms());
        self.progress.finished_ms = None;
    }

    fn again(&mut self) {
        let now = Instant::now();
        (self.unreached, self.rests_until) = (0, None);
        self.queue.clear();
        for (key, entry) in &mut self.entries {
            entry.due = now;
            entry.again = entry.running.is_some();
            if entry.running.is_none() {
                self.queue.insert((now, *key));
            }
        }
    }

    fn start(&mut self) {
        let Some((_, key)) = self.queue.pop_first() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (store, item, encoding) = (Arc::clone(&self.store), entry.item.clone(), self.options.encoding);
        let seq = item.seq;
        entry.running = Some(seq);
        self.running.spawn(async move { (key, seq, store.publish(item, encoding).await) });
    }

    fn ended(&mut self, key: Key, seq: i64, result: Result<Stored, StoreError>) {
        let error = result.err();
        self.progress.reached = Some(error.as_ref().is_none_or(StoreError::is_answer));
        match &error {
            None => {
                (self.unreached, self.rests_until) = (0, None);
                self.progress.published += 1;
                self.progress.last_error = None;
                self.progress.last_published_ms = Some(unix_ms());
                self.allowed = (self.allowed + 1).min(self.options.in_flight.max(1));
            }
            Some(error) => {
                self.allowed = (self.allowed / 2).max(1);
                self.progress.failed += 1;
                self.progress.last_error = Some(error.to_string());
                let now = Instant::now();
                if !error.is_answer() && self.rests_until.is_none_or(|until| now >= until) {
                    self.unreached = self.unreached.saturating_add(1);
                    self.rests_until = Some(now + self.options.pauses.wait(self.unreached, random()));
                }
                tracing::debug!("publishing for {}: {error}", key.0);
            }
        }
        // Removed, or replaced while it was in progress: the new item is due as it is.
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.running = None;
        let again = std::mem::take(&mut entry.again);
        if entry.item.seq == seq && !again {
            let pause = if error.is_none() {
                self.progress.done += usize::from(!entry.done);
                self.progress.retrying -= usize::from(entry.failures > 0);
                entry.done = true;
                entry.failures = 0;
                self.options.renew
            } else {
                self.progress.retrying += usize::from(entry.failures == 0);
                entry.failures = entry.failures.saturating_add(1);
                // While nobody answers, all rest together.
                let reached = error.as_ref().is_none_or(StoreError::is_answer);
                if reached { self.options.pauses.wait(entry.failures, random()) } else { Duration::ZERO }
            };
            entry.due = Instant::now() + pause;
        }
        self.queue.insert((entry.due, key));
    }

    /// A publication panicked. It is not known which one: all that are not running any more are due again.
    fn lost(&mut self, error: &str) {
        self.progress.failed += 1;
        self.progress.last_error = Some(error.to_owned());
        if self.running.is_empty() {
            let due = Instant::now() + self.options.pauses.first;
            for (key, entry) in &mut self.entries {
                if entry.running.take().is_some() {
                    entry.due = due;
                    self.queue.insert((due, *key));
                }
            }
        }
    }

    fn tell(&mut self) {
        self.progress.in_flight = self.running.len();
        if self.progress.done == self.progress.total && self.progress.finished_ms.is_none() {
            self.progress.finished_ms = self.progress.started_ms.map(|_| unix_ms());
        }
        self.report.send_if_modified(|told| {
            let changed = *told != self.progress;
            if changed {
                told.clone_from(&self.progress);
            }
            changed
        });
    }
}

fn unix_ms() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
