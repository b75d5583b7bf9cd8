//! The Mainline DHT, through the `mainline` crate.
//!
//! The crate's node is an actor on a thread of its own. Four properties of it are worked around here: its callers panic
//! when the actor is gone, so every call runs in a task that may panic; it can wait forever, so every call has a deadline,
//! after which the node is discarded; a client that is reachable from outside turns into a server after 15 minutes, so a
//! client is never allowed to get that old; and it keeps the bootstrap nodes that it was born with, so a node that nobody
//! answers, or whose bootstrap nodes turn out to be the wrong ones, is discarded, and the next one resolves their names again.

mod doubt;
mod guide;
mod known;
mod mark;
mod names;
mod node;
mod ports;

use std::future::Future;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use mainline::MutableItem;
use mainline::async_dht::{AsyncDht, GetMutableDetailed};
use mainline::errors::{ConcurrencyError, PutMutableError, PutQueryError};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, timeout};

use self::guide::Guide;
use self::known::LOOKS;
use self::node::build;
use super::{Answer, Answers, Encoding, Item, Lookup, MAX_VALUE, Message, Store, StoreError, StoreFuture};
use super::{Stored, Summary, Task};

/// How long one request to one node may take, unless the configuration says otherwise.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = mainline::DEFAULT_REQUEST_TIMEOUT;

/// Number of mutable items that a serving node keeps, unless the configuration says otherwise.
pub const MAX_ITEMS: usize = 100_000;

/// Age at which a client node is replaced: well before the 15 minutes after which the crate may make it a server.
const CLIENT_AGE: Duration = Duration::from_mins(10);

/// Largest number of rounds of a lookup: it asks nodes that are closer and closer, and at worst each round has dead nodes.
const ROUNDS: u32 = 10;

/// How long a bootstrap node's name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// Number of nodes that a network has at least: a publication that fewer have stored, or a node that knows fewer others, says
/// nothing against having been led into a wrong one.
const FEW: usize = 4;

/// Number of concurrent publications through one node. Each sends two requests to each of twenty nodes: the answers to more
/// of them overflow the receive buffer, whose size the crate does not raise; and for each incoming message, the crate
/// searches all requests in progress.
const PER_NODE: usize = 6;

/// Options for taking part in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhtConfig {
    /// Bootstrap nodes, `host:port`; empty: those of the public network. Names are resolved whenever a node starts.
    pub bootstrap: Vec<String>,
    /// UDP port; `None`: any free one.
    pub port: Option<u16>,
    /// Address to bind to; `None`: all.
    pub bind: Option<Ipv4Addr>,
    /// How long one request to one node may take.
    pub request_timeout: Duration,
    /// Answer others and store their items, as a visible node. Without it, mtd asks and never answers.
    pub serve: bool,
    /// Number of mutable items that a serving node keeps.
    pub max_items: usize,
    /// File for nodes that have answered, with which the next start begins too; `None`: they are not kept.
    pub nodes_file: Option<PathBuf>,
    /// Mark of all packets; 0: none.
    pub mark: u32,
    /// Name servers that are not asked for bootstrap nodes where there is a mark, since they are inside the tunnel.
    pub tunnel_dns: Vec<IpAddr>,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            port: None,
            bind: None,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            serve: false,
            max_items: MAX_ITEMS,
            nodes_file: None,
            mark: 0,
            tunnel_dns: Vec::new(),
        }
    }
}

/// The DHT. Its node starts at the first use, and is restarted when necessary; more nodes start when there is much to
/// publish. Clones share them.
#[derive(Clone, Debug)]
pub struct MainlineStore {
    inner: Arc<Inner>,
    /// Nodes that only publish. One that is not needed any more ends at the age limit of clients.
    helpers: Arc<std::sync::Mutex<Vec<Arc<Inner>>>>,
}

#[derive(Debug)]
struct Inner {
    config: DhtConfig,
    guide: Arc<Guide>,
    state: Mutex<State>,
    /// Publications in progress.
    publishing: AtomicUsize,
}

/// One of a node's places for publications.
struct Turn(Arc<Inner>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    node: Option<Node>,
    started: u64,
}

#[derive(Clone, Debug)]
struct Node {
    dht: AsyncDht,
    number: u64,
    born: Instant,
    /// [`Guide::moves`] when it began.
    moves: u64,
}

impl MainlineStore {
    /// A store that will take part in the DHT as configured.
    pub fn new(config: DhtConfig) -> Self {
        let guide = Guide::new(&config);
        Self { inner: Arc::new(Inner::new(config, guide)), helpers: Arc::default() }
    }

    /// A place at the first node with a free one, so that few publications need no second node.
    fn turn(&self) -> Turn {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        // Places are taken only under the lock.
        let has_place = |node: &&Arc<Inner>| node.publishing.load(Ordering::Relaxed) < PER_NODE;
        let free = iter::once(&self.inner).chain(helpers.iter()).find(has_place).map(Arc::clone);
        let node = free.unwrap_or_else(|| {
            let config = DhtConfig { port: None, serve: false, ..self.inner.config.clone() };
            let helper = Arc::new(Inner::new(config, Arc::clone(&self.inner.guide)));
            helpers.push(Arc::clone(&helper));
            helper
        });
        node.publishing.fetch_add(1, Ordering::Relaxed);
        Turn(node)
    }

    /// Starts the node if there is none, and returns its UDP port.
    ///
    /// # Errors
    /// As those of a request that needs a node.
    pub async fn port(&self) -> Result<u16, StoreError> {
        let info = self.inner.call(|dht| async move { Ok(dht.info().await) }).await?;
        Ok(info.local_addr().port())
    }

    /// Makes a serving node search for nodes that came later, and returns how many it knows.
    ///
    /// # Errors
    /// As those of any request.
    pub async fn refresh(&self) -> Result<usize, StoreError> {
        self.inner
            .call(|dht| async move {
                dht.bootstrapped().await;
                Ok(dht.to_bootstrap().await.len())
            })
            .await
    }
}

impl Store for MainlineStore {
    fn publish(&self, item: Item, encoding: Encoding) -> StoreFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            let turn = self.turn();
            let stored = match encoding {
                Encoding::Item => turn.0.put(&item).await,
                Encoding::Ports => turn.0.announce(&item).await,
            }?;
            match stored.copies {
                Some(copies) if copies as usize >= FEW => turn.0.vouch(),
                Some(_) => turn.0.guide.doubt(),
                None => {}
            }
            Ok(stored)
        })
    }

    fn vouch(&self) {
        self.inner.vouch();
    }

    fn doubt(&self) {
        self.inner.guide.doubt();
    }

    fn moves(&self) -> watch::Receiver<u64> {
        self.inner.guide.watch()
    }

    fn known_nodes(&self) -> usize {
        self.inner.guide.known()
    }

    fn look(&self, lookup: Lookup, encoding: Encoding, length: usize) -> Answers {
        let inner = Arc::clone(&self.inner);
        Answers::of(move |answers| async move {
            match encoding {
                Encoding::Item => inner.get(lookup.item_key, answers).await,
                Encoding::Ports => inner.collect_ports(lookup.descriptor.0, length, answers).await,
            }
        })
    }
}

impl Inner {
    fn new(config: DhtConfig, guide: Arc<Guide>) -> Self {
        Self { config, guide, state: Mutex::default(), publishing: AtomicUsize::new(0) }
    }

    /// The node; a new one if there is none, if a client has become too old, or if it began in a wrong network.
    async fn node(self: &Arc<Self>) -> Result<Node, StoreError> {
        let mut state = self.state.lock().await;
        let moves = self.guide.moves();
        if let Some(node) = &mut state.node
            && (self.config.serve || node.born.elapsed() < CLIENT_AGE)
            // A serving node that knows enough others may hold their items, and is in a network that works.
            && (node.moves == moves || self.config.serve && knows(&node.dht, FEW).await)
        {
            node.moves = moves;
            return Ok(node.clone());
        }
        // The old one first: it may occupy the port.
        state.node = None;
        let begin_with = self.guide.begin_with().await?;
        // Before the node begins, so that no move is missed.
        let moves = self.guide.moves();
        let dht = build(self.config.clone(), begin_with).await?;
        state.started += 1;
        let node = Node { dht: dht.as_async(), number: state.started, born: Instant::now(), moves };
        state.node = Some(node.clone());
        if !self.config.serve {
            tokio::spawn(retire(Arc::downgrade(self), node.number));
        }
        Ok(node)
    }

    /// What came through the node shows that it is in the right network: the nodes that it knows are kept.
    fn vouch(self: &Arc<Self>) {
        if self.guide.vouch() {
            tokio::spawn(look_for_nodes(Arc::downgrade(self)));
        }
    }

    /// Keeps the nodes that a node knows.
    async fn keep_nodes(&self, dht: AsyncDht) {
        let known = known(&dht).await.unwrap_or_default();
        self.guide.keep(known.iter().filter_map(|node| node.parse().ok()));
    }

    /// Discards a node, unless that was done already.
    async fn discard(&self, number: u64) {
        self.state.lock().await.node.take_if(|node| node.number == number);
    }

    /// Discards a node that nobody answers: its bootstrap nodes may be the wrong ones, as behind the portal of a hotel, where
    /// every name resolves to the portal. A serving node that knows others may hold their items, and stays.
    async fn discard_if_alone(&self, number: u64) {
        let node = self.state.lock().await.node.clone().filter(|node| node.number == number);
        let Some(node) = node else { return };
        if self.config.serve && known(&node.dht).await.is_none_or(|known| !known.is_empty()) {
            return;
        }
        self.discard(number).await;
    }

    /// Longest time of a request.
    fn deadline(&self) -> Duration {
        self.config.request_timeout * ROUNDS
    }

    /// Runs a request with the node. If the node dies or exceeds the time, it is discarded; a request to a dead node is
    /// repeated with a new one.
    async fn call<T, F>(self: &Arc<Self>, request: impl Fn(AsyncDht) -> F + Send) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        for _ in 0..2 {
            let Node { dht, number, .. } = self.node().await?;
            // The crate's own method panics when the actor is gone: only this task may panic.
            let mut task = Task(tokio::spawn(request(dht)));
            match timeout(self.deadline(), &mut task.0).await {
                Ok(Ok(result)) => {
                    if matches!(result, Err(StoreError::Dead)) {
                        self.guide.doubt();
                        self.discard_if_alone(number).await;
                    }
                    return result;
                }
                Ok(Err(_)) => self.discard(number).await,
                Err(_) => {
                    // A serving node holds items of others, and is not discarded for one request.
                    if !self.config.serve {
                        self.discard(number).await;
                    }
                    return Err(StoreError::Stuck);
                }
            }
        }
        Err(StoreError::Stuck)
    }

    async fn put(self: &Arc<Self>, item: &Item) -> Result<Stored, StoreError> {
        // The crate would return a time-out.
        if item.value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge(item.value.len()));
        }
        let item = MutableItem::new(item.signing_key(), &item.value, item.seq, None);
        let put = |dht: AsyncDht| {
            let item = item.clone();
            async move { dht.put_mutable(item, None).await.map_err(refused) }
        };
        Ok(Stored { copies: Some(self.call(put).await?.stored_at) })
    }

    async fn get(
        self: &Arc<Self>,
        key: [u8; 32],
        answers: mpsc::Sender<Answer>,
    ) -> Result<Summary, StoreError> {
        let get = |dht: AsyncDht| {
            let answers = answers.clone();
            async move {
                let GetMutableDetailed { mut items, outcome } = dht.get_mutable_detailed(&key, None, None);
                while let Some(item) = items.next().await {
                    let message = Message { value: item.value().to_vec(), seq: Some(item.seq()) };
                    if answers.send(Answer::Message(message)).await.is_err() {
                        break;
                    }
                }
                let outcome = outcome.recv().await;
                if outcome.responded() == 0 { Err(StoreError::Dead) } else { Ok(outcome) }
            }
        };
        let outcome = self.call(get).await?;
        let invalid = outcome.invalid_values + outcome.invalid_responses;
        Ok(Summary { responded: outcome.responded(), invalid })
    }
}

/// Keeps the nodes that are known now and a little later.
async fn look_for_nodes(inner: Weak<Inner>) {
    for look in LOOKS {
        tokio::time::sleep(look).await;
        let Some(inner) = inner.upgrade().filter(|inner| !inner.guide.is_doubtful()) else { return };
        let node = inner.state.lock().await.node.clone();
        if let Some(node) = node {
            inner.keep_nodes(node.dht).await;
        }
    }
}

/// Ends a client node that has become too old.
async fn retire(inner: Weak<Inner>, number: u64) {
    tokio::time::sleep(CLIENT_AGE).await;
    let Some(inner) = inner.upgrade() else { return };
    let node = inner.state.lock().await.node.clone();
    let Some(node) = node.filter(|node| node.number == number) else { return };
    // The nodes that it knows are a better start for the next one than the bootstrap nodes alone.
    if !inner.guide.is_doubtful() {
        inner.keep_nodes(node.dht).await;
    }
    inner.discard(number).await;
}

/// The nodes that a node knows; `None`: it does not answer.
async fn known(dht: &AsyncDht) -> Option<Vec<String>> {
    let dht = dht.clone();
    // The crate's own method panics when the actor is gone: only this task may panic.
    let mut task = Task(tokio::spawn(async move { dht.to_bootstrap().await }));
    timeout(RESOLVE, &mut task.0).await.ok()?.ok()
}

/// Whether a node knows this many others.
async fn knows(dht: &AsyncDht, enough: usize) -> bool {
    known(dht).await.is_some_and(|known| known.len() >= enough)
}

fn refused(error: PutMutableError) -> StoreError {
    match error {
        PutMutableError::Query(PutQueryError::NoClosestNodes) => StoreError::Dead,
        PutMutableError::Query(error) => StoreError::Refused(error.to_string()),
        PutMutableError::Concurrency(ConcurrencyError::NotMostRecent) => StoreError::Superseded,
        PutMutableError::Concurrency(error) => StoreError::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
