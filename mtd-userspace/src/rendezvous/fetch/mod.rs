//! Fetching an introduction: the first message that can be opened, and is not older than one seen before, wins.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Answer, Answers, Encoding, Lookup, Message, Store, StoreError};
use crate::proto::rendezvous::{Descriptor, Introduction, OpenError, Rendezvous, SEALED_BYTES};

/// Descriptors whose newest time of publication is remembered.
const REMEMBERED: usize = 1024;

/// Options for fetching.
#[derive(Clone, Copy, Debug)]
pub struct FetchOptions {
    /// The kind of messages to look for.
    pub encoding: Encoding,
    /// Longest time of the search for one window.
    pub time: Duration,
    /// How long to wait for a newer message after the first that can be opened; less when the search ends before. So an old
    /// copy of an item that was published again is not used, even if it comes first.
    pub settle: Duration,
    /// When the search for the next window begins if the one before it has not ended by then.
    pub patience: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            encoding: Encoding::Item,
            time: Duration::from_secs(20),
            settle: Duration::from_millis(100),
            patience: Duration::from_millis(500),
        }
    }
}

/// Results of all searches since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Introductions found.
    pub fetched: u64,
    /// Searches of one window that found nothing, though nodes answered.
    pub absent: u64,
    /// Searches of one window that failed: nobody answered.
    pub failed: u64,
    /// Copies of messages that the search had found already.
    pub copies: u64,
    /// Messages refused for their length.
    pub wrong_length: u64,
    /// Messages refused because this server did not seal them for this client and window.
    pub foreign: u64,
    /// Messages refused because this program cannot use their contents, although the server sealed them.
    pub unusable: u64,
    /// Messages refused because they are older than one seen before.
    pub stale: u64,
    /// Newer messages that came after the decision; the next search will not take an older one.
    pub late: u64,
    /// Answers refused by the store itself: wrong signature or form.
    pub invalid: u64,
}

/// An introduction that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The introduction.
    pub introduction: Introduction,
    /// The position of its window among those asked for.
    pub choice: usize,
    /// Time from the start of the search.
    pub took: Duration,
}

/// Reasons why there is no introduction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nodes answered, but none has an introduction for this client.
    #[error(
        "the server has published nothing for this client; see that it runs and has this client's public key, that \
         its public key is right here, that both use the same window length, and that the clocks agree"
    )]
    Absent {
        /// Messages that were found and refused.
        refused: u64,
    },
    /// The server published something that this program cannot read.
    #[error("{0}; run the same version of mtd at both ends")]
    Unusable(OpenError),
    /// The DHT is out of reach.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches introductions from a store, and remembers what it has seen. Clones share counters and memory.
#[derive(Clone)]
pub struct Fetcher {
    store: Arc<dyn Store>,
    options: FetchOptions,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    counters: Counters,
    /// Newest time of publication of each descriptor, in ms.
    newest: VecDeque<(Descriptor, u64)>,
}

/// The result of checking a message.
enum Verdict {
    Accepted(Introduction),
    Refused(Option<OpenError>),
}

impl Fetcher {
    /// A fetcher without memory.
    pub fn new(store: Arc<dyn Store>, options: FetchOptions) -> Self {
        Self { store, options, memory: Arc::default() }
    }

    /// The results of all searches so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Looks for an introduction in several windows, the preferred one first
    /// ([`crate::proto::rendezvous::windows_around`]). One of a later choice is taken only when those before it have
    /// ended without success. Dropping the future ends the search.
    ///
    /// # Errors
    /// [`FetchError`]. When some windows are absent and the search of others failed, the failure is reported.
    pub async fn fetch(&self, choices: &[Rendezvous]) -> Result<Found, FetchError> {
        let start = Instant::now();
        let mut outcomes: Vec<Option<Result<Introduction, FetchError>>> = Vec::new();
        outcomes.resize_with(choices.len(), || None);
        let mut searches = JoinSet::new();
        let mut started = 0;
        loop {
            for (choice, outcome) in outcomes.iter_mut().enumerate() {
                match outcome.take() {
                    Some(Ok(introduction)) => {
                        self.lock().counters.fetched += 1;
                        self.store.vouch();
                        return Ok(Found { introduction, choice, took: start.elapsed() });
                    }
                    Some(failure) => *outcome = Some(failure),
                    None => break,
                }
            }
            if searches.is_empty() {
                let Some(rendezvous) = choices.get(started) else { break };
                self.begin(&mut searches, started, rendezvous.clone());
                started += 1;
            }
            tokio::select! {
                Some(ended) = searches.join_next() => {
                    let (choice, outcome): (usize, _) = ended.unwrap_or((started - 1, Err(StoreError::Stuck.into())));
                    outcomes[choice] = Some(outcome);
                }
                () = sleep(self.options.patience), if started < choices.len() => {
                    self.begin(&mut searches, started, choices[started].clone());
                    started += 1;
                }
            }
        }
        self.store.doubt();
        Err(outcomes
            .into_iter()
            .flatten()
            .filter_map(Result::err)
            .fold(FetchError::Absent { refused: 0 }, worse))
    }

    fn begin(
        &self,
        searches: &mut JoinSet<(usize, Result<Introduction, FetchError>)>,
        choice: usize,
        rendezvous: Rendezvous,
    ) {
        let this = self.clone();
        searches.spawn(async move { (choice, this.search(rendezvous).await) });
    }

    /// Looks in one window.
    async fn search(&self, rendezvous: Rendezvous) -> Result<Introduction, FetchError> {
        let mut answers = self.store.look(Lookup::new(&rendezvous), self.options.encoding, SEALED_BYTES);
        let mut deadline = Instant::now() + self.options.time;
        let mut best: Option<Introduction> = None;
        let (mut refused, mut unusable) = (0, None);
        let end = loop {
            let answer = timeout_at(deadline, answers.next()).await;
            match answer {
                Ok(Answer::Message(message)) => match self.judge(&rendezvous, &message, best.as_ref()) {
                    Verdict::Accepted(introduction) => {
                        if best.is_none() {
                            deadline = deadline.min(Instant::now() + self.settle());
                        }
                        best = Some(introduction);
                    }
                    Verdict::Refused(why) => {
                        refused += 1;
                        unusable = why
                            .filter(|why| !matches!(why, OpenError::Length(_) | OpenError::Sealed))
                            .or(unusable);
                    }
                },
                Ok(Answer::End(end)) => break Some(end),
                Err(_) => break None,
            }
        };
        let mut memory = self.lock();
        if let Some(Ok(summary)) = &end {
            memory.counters.invalid += u64::from(summary.invalid);
            refused += u64::from(summary.invalid);
        }
        if let Some(introduction) = best {
            drop(memory);
            if end.is_none() && self.options.encoding == Encoding::Item {
                tokio::spawn(self.clone().watch(answers, rendezvous, introduction.clone()));
            }
            return Ok(introduction);
        }
        match end {
            Some(Ok(_)) => {
                memory.counters.absent += 1;
                Err(unusable.map_or(FetchError::Absent { refused }, FetchError::Unusable))
            }
            Some(Err(error)) => {
                memory.counters.failed += 1;
                Err(error.into())
            }
            None => {
                memory.counters.failed += 1;
                Err(StoreError::Stuck.into())
            }
        }
    }

    /// How long to wait for something newer. Announced ports carry no order of age: the first message is used.
    fn settle(&self) -> Duration {
        match self.options.encoding {
            Encoding::Item => self.options.settle,
            Encoding::Ports => Duration::ZERO,
        }
    }

    /// Goes on counting messages that come after the decision.
    async fn watch(self, mut answers: Answers, rendezvous: Rendezvous, accepted: Introduction) {
        let deadline = Instant::now() + self.options.time;
        let mut best = accepted;
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Answer::Message(message) => {
                        if let Verdict::Accepted(newer) = self.judge(&rendezvous, &message, Some(&best)) {
                            self.lock().counters.late += u64::from(newer.published_ms > best.published_ms);
                            best = newer;
                        }
                    }
                    Answer::End(end) => {
                        self.lock().counters.invalid += end.map_or(0, |summary| u64::from(summary.invalid));
                        return;
                    }
                },
                () = sleep_until(deadline) => return,
            }
        }
    }

    /// Opens a message, compares it with the remembered ones, and counts it.
    fn judge(&self, rendezvous: &Rendezvous, message: &Message, best: Option<&Introduction>) -> Verdict {
        let opened = Introduction::open(rendezvous, &message.value);
        let mut memory = self.lock();
        match opened {
            Err(error) => {
                match error {
                    OpenError::Length(_) => memory.counters.wrong_length += 1,
                    OpenError::Sealed => memory.counters.foreign += 1,
                    OpenError::Version(_) | OpenError::Field(_) => memory.counters.unusable += 1,
                }
                Verdict::Refused(Some(error))
            }
            // The store's signature covers only the sequence number outside the seal: both must be equal.
            Ok(introduction)
                if message.seq.is_some_and(|seq| seq.cast_unsigned() != introduction.published_ms) =>
            {
                memory.counters.unusable += 1;
                Verdict::Refused(None)
            }
            Ok(introduction) => {
                if !memory.remember(rendezvous.descriptor(), introduction.published_ms) {
                    memory.counters.stale += 1;
                    return Verdict::Refused(None);
                }
                memory.counters.copies += u64::from(best.is_some_and(|best| *best == introduction));
                Verdict::Accepted(introduction)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Whether no newer message has been seen under a descriptor.
    fn remember(&mut self, descriptor: Descriptor, published: u64) -> bool {
        if let Some((_, newest)) = self.newest.iter_mut().find(|(known, _)| *known == descriptor) {
            let fresh = published >= *newest;
            *newest = published.max(*newest);
            return fresh;
        }
        if self.newest.len() == REMEMBERED {
            self.newest.pop_front();
        }
        self.newest.push_back((descriptor, published));
        true
    }
}

/// Of two failures, the more specific one.
fn worse(a: FetchError, b: FetchError) -> FetchError {
    let rank = |error: &FetchError| match error {
        FetchError::Absent { .. } => 0,
        FetchError::Store(_) => 1,
        FetchError::Unusable(_) => 2,
    };
    match (a, b) {
        (FetchError::Absent { refused: a }, FetchError::Absent { refused: b }) => {
            FetchError::Absent { refused: a + b }
        }
        (a, b) if rank(&a) >= rank(&b) => a,
        (_, b) => b,
    }
}

#[cfg(test)]
mod tests;
