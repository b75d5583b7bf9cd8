//! Where nodes begin: at the bootstrap nodes, and at nodes that have answered before.

use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep_until};

use super::super::{DhtConfig, StoreError, Task, random};
use super::doubt::{Doubt, lead_elsewhere};
use super::known::{Known, NodeFile};
use super::node::{Way, resolve};

/// Leads all nodes of a store into the network, and notices when it led them into a wrong one.
#[derive(Debug)]
pub(super) struct Guide {
    /// Bootstrap nodes, `host:port`.
    names: Vec<String>,
    /// How names are resolved.
    config: DhtConfig,
    file: Option<NodeFile>,
    loaded: OnceCell<()>,
    state: Mutex<State>,
    moves: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// What the names led to when they were last resolved; without those that are addresses themselves.
    named: Vec<SocketAddrV4>,
    doubt: Doubt,
    /// A task looks after the doubt.
    checking: bool,
    known: Known,
}

/// What names lead to.
struct Resolved {
    /// The addresses behind names.
    named: Vec<SocketAddrV4>,
    /// The names that are addresses.
    literal: Vec<SocketAddrV4>,
}

impl Guide {
    /// A guide to the bootstrap nodes of the configuration, and to those in its file.
    pub(super) fn new(config: &DhtConfig) -> Arc<Self> {
        let names = match config.bootstrap.as_slice() {
            [] => mainline::DEFAULT_BOOTSTRAP_NODES.map(str::to_owned).into(),
            names => names.to_vec(),
        };
        Arc::new(Self {
            names,
            config: config.clone(),
            file: config.nodes_file.clone().map(NodeFile::new),
            loaded: OnceCell::new(),
            state: Mutex::default(),
            moves: watch::Sender::new(0),
        })
    }

    /// The nodes for a new node to begin with.
    pub(super) async fn begin_with(self: &Arc<Self>) -> Result<Vec<SocketAddrV4>, StoreError> {
        self.loaded.get_or_init(|| self.load()).await;
        let Resolved { named, literal } = self.resolve().await;
        let mut nodes = self.lock().known.some(random());
        nodes.extend(named.iter().chain(&literal));
        self.note(named);
        nodes.sort_unstable();
        nodes.dedup();
        if !nodes.is_empty() {
            return Ok(nodes);
        }
        self.doubt();
        Err(StoreError::Unresolved(self.names.join(", ")))
    }

    async fn load(&self) {
        if let Some(file) = &self.file {
            let nodes = file.read().await;
            self.lock().known.add(nodes);
        }
    }

    /// How often the names have turned out to lead into another network than before.
    pub(super) fn moves(&self) -> u64 {
        *self.moves.borrow()
    }

    /// A receiver of that number.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Number of nodes that are kept for the next start.
    pub(super) fn known(&self) -> usize {
        self.lock().known.len()
    }

    /// Something that only the right network can have came from it. Returns whether the nodes that are known now should be
    /// kept.
    pub(super) fn vouch(&self) -> bool {
        let mut state = self.lock();
        state.doubt.clear();
        state.known.is_due(Instant::now())
    }

    /// Keeps nodes that have answered in the right network.
    pub(super) fn keep(&self, nodes: impl IntoIterator<Item = SocketAddrV4>) {
        let changed = self.lock().known.add(nodes);
        if let (Some(nodes), Some(file)) = (changed, &self.file) {
            file.write(nodes);
        }
    }

    /// Whether nothing shows that this is the right network.
    pub(super) fn is_doubtful(&self) -> bool {
        self.lock().doubt.next().is_some()
    }

    /// Nothing that came shows that this is the right network: until something does, names are resolved again and again.
    pub(super) fn doubt(self: &Arc<Self>) {
        if self.names.iter().all(|name| is_address(name)) {
            return;
        }
        let mut state = self.lock();
        state.doubt.raise(Instant::now(), random());
        if !state.checking {
            state.checking = true;
            drop(state);
            tokio::spawn(check(Arc::downgrade(self)));
        }
    }

    /// When names are to be resolved next. `None`: there is no doubt any more, so that the task that asks is not needed.
    fn next_check(&self) -> Option<Instant> {
        let mut state = self.lock();
        let next = state.doubt.next();
        state.checking = next.is_some();
        next
    }

    /// Notes what the names lead to now.
    fn note(&self, named: Vec<SocketAddrV4>) {
        let moved = {
            let mut state = self.lock();
            let moved = state.doubt.next().is_some() && lead_elsewhere(&state.named, &named);
            if !named.is_empty() {
                state.named = named;
            }
            moved
        };
        if moved {
            tracing::info!("the names of the bootstrap nodes lead elsewhere now: looking for the DHT there");
            self.moves.send_modify(|moves| *moves += 1);
        }
    }

    async fn resolve(&self) -> Resolved {
        let (literal, names): (Vec<_>, Vec<_>) = self.names.iter().partition(|name| is_address(name));
        let way = Way::of(&self.config);
        let mut tasks: Vec<_> =
            names.into_iter().cloned().map(|name| Task(tokio::spawn(resolve(name, way.clone())))).collect();
        let mut named = Vec::new();
        for task in &mut tasks {
            named.extend((&mut task.0).await.unwrap_or_default());
        }
        Resolved { named, literal: literal.into_iter().filter_map(|name| name.parse().ok()).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<SocketAddrV4>().is_ok()
}

/// Resolves the names again for as long as there is doubt.
async fn check(guide: Weak<Guide>) {
    while let Some(next) = guide.upgrade().and_then(|guide| guide.next_check()) {
        sleep_until(next).await;
        let Some(guide) = guide.upgrade() else { return };
        let Resolved { named, .. } = guide.resolve().await;
        guide.note(named);
        guide.lock().doubt.checked(Instant::now(), random());
    }
}
