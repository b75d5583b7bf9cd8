//! Publishing introductions in the BitTorrent Mainline DHT, and fetching them (requirements MT-21 … MT-26).
//!
//! What is published and how it is derived is [`crate::proto::rendezvous`]'s business. Here is the traffic: a
//! [`Store`] is the network ([`MainlineStore`]) or its twin in memory ([`MemoryStore`]); a [`Publisher`] keeps many
//! items published; a [`Fetcher`] finds one and believes nothing that the store says before it has opened it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::keys::SecretKey;
use crate::proto::rendezvous::{Descriptor, Rendezvous};

mod fetch;
mod meeting;
mod memory;
mod metrics;
mod network;
mod publish;
pub mod section;

pub use fetch::{Counters, FetchError, FetchOptions, Fetcher, Found};
pub use meeting::Meeting;
pub use memory::{Faults, MemoryStore};
pub use metrics::metrics;
pub use network::{DEFAULT_REQUEST_TIMEOUT, DhtConfig, MAX_ITEMS, MainlineStore};
pub use publish::{Job, PublishOptions, PublishProgress, Publisher};

/// Most bytes of a message in a mutable item: BEP 44 allows 1,000 with the length prefix.
pub const MAX_VALUE: usize = 996;

/// A future of a [`Store`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a message is kept in the DHT (MT-24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// A mutable item, signed with a key that only both ends know.
    #[default]
    Item,
    /// Announced ports. Slow, and gives away the publisher's address to whoever learns the info-hash: for
    /// compatibility and research.
    Ports,
}

/// What is published for one client and one window.
#[derive(Clone)]
pub struct Item {
    /// Info-hash of the port-stuffed form.
    pub descriptor: Descriptor,
    /// The message.
    pub value: Vec<u8>,
    /// Sequence number of the mutable item; another value needs a higher one.
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

    /// An item of given parts: for tests of a network.
    pub fn raw(descriptor: Descriptor, signing_seed: &SecretKey, value: Vec<u8>, seq: u64) -> Self {
        let signing_seed = Zeroizing::new(*signing_seed.as_bytes());
        Self { descriptor, value, seq: i64::try_from(seq).unwrap_or(i64::MAX), signing_seed }
    }

    /// Where it will be found.
    pub fn lookup(&self) -> Lookup {
        Lookup { descriptor: self.descriptor, item_key: self.signing_key().verifying_key().to_bytes() }
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.signing_seed)
    }
}

/// Without the signing key.
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item")
            .field("descriptor", &self.descriptor)
            .field("seq", &self.seq)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// Where to look: nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// Info-hash of the port-stuffed form.
    pub descriptor: Descriptor,
    /// Public key (ed25519) of the mutable item.
    pub item_key: [u8; 32],
}

impl Lookup {
    /// Where the introduction of this server, client and window is.
    pub fn new(rendezvous: &Rendezvous) -> Self {
        let key = SigningKey::from_bytes(rendezvous.item_seed());
        Self { descriptor: rendezvous.descriptor(), item_key: key.verifying_key().to_bytes() }
    }

    /// Target of the mutable item in the DHT.
    pub fn item_target(&self) -> [u8; 20] {
        *mainline::MutableItem::target_from_key(&self.item_key, None).as_bytes()
    }
}

/// The DHT, or something like it. Nothing that it returns can be trusted.
pub trait Store: Send + Sync + 'static {
    /// Stores an item.
    ///
    /// # Errors
    /// [`StoreError`]; the item may be stored all the same, at some of the places where it should be.
    fn publish(&self, item: Item, encoding: Encoding) -> StoreFuture<'_, Result<Stored, StoreError>>;

    /// Begins to look for messages of `length` bytes (mutable items come whatever their length). Needs a tokio
    /// runtime. The search ends when the answers are dropped.
    fn look(&self, lookup: Lookup, encoding: Encoding, length: usize) -> Answers;
}

/// Success of [`Store::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Nodes that have it; not known of announced ports.
    pub copies: Option<u32>,
}

/// Why a store did not do what it should.
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
    /// No answer in the time that it takes at worst; or the machinery failed. It was started anew.
    #[error("no result from the DHT in time; trying again starts with a new node")]
    Stuck,
    /// Nodes answered, and none stored it.
    #[error("no DHT node stored the item: {0}")]
    Refused(String),
    /// Somebody with the same keys published a newer one: another instance of this server, or this clock went back.
    #[error(
        "the DHT has a newer item already; see that only one server runs with this key, and check its clock"
    )]
    Superseded,
    /// The value has more than [`MAX_VALUE`] bytes (255 as ports).
    #[error("{0} bytes are too many for the DHT")]
    TooLarge(usize),
}

/// Something that a store found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bytes.
    pub value: Vec<u8>,
    /// Sequence number, of mutable items.
    pub seq: Option<i64>,
}

/// What a search was like, when it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Nodes that answered.
    pub responded: u32,
    /// Answers that the store itself refused: wrong signature, wrong form.
    pub invalid: u32,
}

/// An answer of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message, in no particular order.
    Message(Message),
    /// Nothing comes any more.
    End(Result<Summary, StoreError>),
}

/// A search that goes on.
#[derive(Debug)]
pub struct Answers {
    receiver: mpsc::Receiver<Answer>,
    _task: Task<()>,
}

/// Answers that wait for their reader; the search waits when there are more.
const QUEUED_ANSWERS: usize = 64;

impl Answers {
    /// Runs a search that sends its messages, and at last the outcome of which it is a future.
    fn of<F>(search: impl FnOnce(mpsc::Sender<Answer>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Summary, StoreError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUED_ANSWERS);
        let task = tokio::spawn(async move {
            let end = search(sender.clone()).await;
            // The reader may have seen enough.
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

/// A duration in whole ms, as JSON shows it.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
