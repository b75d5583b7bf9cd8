//! Publishing introductions in the BitTorrent Mainline DHT, and fetching them (requirements MT-21 … MT-26).
//!
//! The content of introductions and its derivation are in [`crate::proto::rendezvous`]. This room has the traffic: a
//! [`Store`] is the network ([`MainlineStore`]) or a stand-in in memory ([`MemoryStore`]); a [`Publisher`] keeps many items
//! published; a [`Fetcher`] finds one, and trusts nothing from the store before it has opened it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::keys::SecretKey;
use crate::proto::rendezvous::{Descriptor, Rendezvous};

mod carried;
mod fetch;
mod meeting;
mod memory;
mod metrics;
mod network;
mod publish;
pub mod section;

pub use carried::{INTRODUCTIONS_PATH, IntroductionDocument};
pub use fetch::{Counters, FetchError, FetchOptions, Fetcher, Found};
pub use meeting::Meeting;
pub use memory::{Faults, MemoryStore};
pub use metrics::metrics;
pub use network::{DEFAULT_REQUEST_TIMEOUT, DhtConfig, MAX_ITEMS, MainlineStore};
pub use publish::{Job, PublishOptions, PublishProgress, Publisher};

/// Largest message in a mutable item, in bytes: BEP 44 allows 1,000 with the length prefix.
pub const MAX_VALUE: usize = 996;

/// A future of a [`Store`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The form of a message in the DHT (MT-24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// A mutable item, signed with a key that only both ends know.
    #[default]
    Item,
    /// Announced ports. Slow, and it reveals the publisher's address to everybody who knows the info-hash: for compatibility
    /// and research.
    Ports,
}

/// A published message for one client and one window.
#[derive(Clone)]
pub struct Item {
    /// Info-hash of the port-stuffed form.
    pub descriptor: Descriptor,
    /// The message.
    pub value: Vec<u8>,
    /// Sequence number of the mutable item; a changed value needs a higher one.
    pub seq: i64,
    signing_seed: Zeroizing<[u8; 32]>,
}

impl Item {
    /// An item with this message. `published_ms` is the introduction's time of publication.
    pub fn new(rendezvous: &Rendezvous, value: Vec<u8>, published_ms: u64) -> Self {
        Self {
            descriptor: rendezvous.descriptor(),
            value,
            seq: i64::try_from(published_ms).unwrap_or(i64::MAX),
            signing_seed: Zeroizing::new(*rendezvous.item_seed()),
        }
    }

    /// An item made of given parts: for tests of a network.
    pub fn raw(descriptor: Descriptor, signing_seed: &SecretKey, value: Vec<u8>, seq: u64) -> Self {
        let signing_seed = Zeroizing::new(*signing_seed.as_bytes());
        Self { descriptor, value, seq: i64::try_from(seq).unwrap_or(i64::MAX), signing_seed }
    }

    /// The place where it will be found.
    pub fn lookup(&self) -> Lookup {
        Lookup { descriptor: self.descriptor, item_key: self.signing_key().verifying_key().to_bytes() }
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.signing_seed)
    }
}

/// Omits the signing key.
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item")
            .field("descriptor", &self.descriptor)
            .field("seq", &self.seq)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// The place of an introduction in the DHT: nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// Info-hash of the port-stuffed form.
    pub descriptor: Descriptor,
    /// Public key (ed25519) of the mutable item.
    pub item_key: [u8; 32],
}

impl Lookup {
    /// The place of the introduction of this server, client and window.
    pub fn new(rendezvous: &Rendezvous) -> Self {
        let key = SigningKey::from_bytes(rendezvous.item_seed());
        Self { descriptor: rendezvous.descriptor(), item_key: key.verifying_key().to_bytes() }
    }

    /// Target of the mutable item in the DHT.
    pub fn item_target(&self) -> [u8; 20] {
        *mainline::MutableItem::target_from_key(&self.item_key, None).as_bytes()
    }
}

/// The DHT, or a stand-in for it. Nothing that it returns can be trusted.
pub trait Store: Send + Sync + 'static {
    /// Stores an item.
    ///
    /// # Errors
    /// [`StoreError`]; the item may nevertheless be stored at some of its places.
    fn publish(&self, item: Item, encoding: Encoding) -> StoreFuture<'_, Result<Stored, StoreError>>;

    /// Begins a search for messages of `length` bytes (mutable items are returned whatever their length). Needs a tokio
    /// runtime. The search ends when the answers are dropped.
    fn look(&self, lookup: Lookup, encoding: Encoding, length: usize) -> Answers;

    /// What came from this store was authentic: it is the right one.
    fn vouch(&self) {}

    /// A search has found nothing that is authentic: perhaps this is not the network that it should be.
    fn doubt(&self) {}

    /// Counts how often the store has found that it asked the wrong network, and has turned to another one.
    fn moves(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Number of nodes that are kept for the next start.
    fn known_nodes(&self) -> usize {
        0
    }
}

/// The result of a successful [`Store::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Nodes that have it; unknown for announced ports.
    pub copies: Option<u32>,
}

/// Reasons why an operation of a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers.
    #[error(
        "the DHT is out of reach: no node answers; see that UDP over IPv4 gets out of this host, \
         and that the bootstrap nodes are up"
    )]
    Dead,
    /// No bootstrap node has an address.
    #[error(
        "the DHT is out of reach: no IPv4 address for {0}; see that name resolution works, or name other nodes"
    )]
    Unresolved(String),
    /// There is no socket for the DHT.
    #[error("no UDP socket for the DHT: {0}")]
    Socket(String),
    /// No answer within the longest possible time; or the node failed, and was restarted.
    #[error("no result from the DHT in time; trying again starts with a new node")]
    Stuck,
    /// Nodes answered, but none stored it.
    #[error("no DHT node stored the item: {0}")]
    Refused(String),
    /// A newer item was published with the same keys: by another instance of this server, or before this clock went back.
    #[error(
        "the DHT has a newer item already; see that only one server runs with this key, and check its clock"
    )]
    Superseded,
    /// The value has more than [`MAX_VALUE`] bytes (255 as ports).
    #[error("{0} bytes are too many for the DHT")]
    TooLarge(usize),
}

impl StoreError {
    /// Whether nodes answered, so that the network is not out of reach.
    pub const fn is_answer(&self) -> bool {
        match self {
            Self::Dead | Self::Unresolved(_) | Self::Socket(_) | Self::Stuck => false,
            Self::Refused(_) | Self::Superseded | Self::TooLarge(_) => true,
        }
    }
}

/// A message that a store found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bytes.
    pub value: Vec<u8>,
    /// Sequence number; only for mutable items.
    pub seq: Option<i64>,
}

/// A summary of a search that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Nodes that answered.
    pub responded: u32,
    /// Answers refused by the store itself: wrong signature or form.
    pub invalid: u32,
}

/// An answer of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message, in no particular order.
    Message(Message),
    /// The end of the search.
    End(Result<Summary, StoreError>),
}

/// A search in progress.
#[derive(Debug)]
pub struct Answers {
    receiver: mpsc::Receiver<Answer>,
    _task: Task<()>,
}

/// Number of answers that are queued for the reader; after that, the search waits.
const QUEUED_ANSWERS: usize = 64;

impl Answers {
    /// Runs a search, which sends its messages and returns its outcome.
    fn of<F>(search: impl FnOnce(mpsc::Sender<Answer>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Summary, StoreError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUED_ANSWERS);
        let task = tokio::spawn(async move {
            let end = search(sender.clone()).await;
            // The reader may be gone already.
            let _ = sender.send(Answer::End(end)).await;
        });
        Self { receiver, _task: Task(task) }
    }

    /// The next answer; after the end, the end again.
    pub async fn next(&mut self) -> Answer {
        self.receiver.recv().await.unwrap_or(Answer::End(Err(StoreError::Stuck)))
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A random number, for waits. Nothing secret depends on it.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness, everybody waits as long as everybody else.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// A duration in whole ms, as JSON shows it.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
