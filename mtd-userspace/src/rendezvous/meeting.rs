//! Rendezvous as a part of the controller: publishing and fetching introductions, and changing the tunnel device, as
//! sessions request it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::carried::{Handout, Source, watch};
use super::{
    DhtConfig, Encoding, FetchError, FetchOptions, Fetcher, Found, Item, Job, MainlineStore, PublishOptions,
    Publisher, Store,
};
use crate::config::Config;
use crate::keys::PublicKey;
use crate::model::{self, ClientId};
use crate::prometheus::Text;
use crate::proto::client::Fetched;
use crate::proto::clock::Reading;
use crate::proto::exchange::Publication;
use crate::proto::rendezvous::{Introduction, NONCE_BYTES, Rendezvous, SEALED_BYTES, window_start};
use crate::sessions::Effect;
use crate::status::{self, Status};
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Requests of the sessions.
type Effects = mpsc::UnboundedReceiver<Effect>;

/// Largest number of effects that are taken at once.
const MAX_BATCH: usize = 100_000;

/// Number of fetches whose duration is remembered.
const MAX_TIMES: usize = 256;

/// Publishes and fetches introductions.
pub struct Meeting {
    window: Duration,
    role: status::RendezvousRole,
    store: Arc<dyn Store>,
    fetcher: Fetcher,
    publisher: Option<Publisher>,
    /// For clients that do not reach the DHT.
    pub(super) handout: Handout,
    /// The folder of the handout, and how long an introduction outlives its window, in s.
    pub(super) listen: Option<(Option<PathBuf>, u64)>,
    /// The handout has changed.
    pub(super) handout_changed: Notify,
    /// Files with introductions of servers.
    sources: Vec<Arc<Source>>,
    effects: Arc<tokio::sync::Mutex<Effects>>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    /// The published items, by client and window.
    jobs: BTreeMap<(PublicKey, u64), Job>,
    /// Duration in ms of the last fetches that found something.
    times: VecDeque<f64>,
    last_fetch: Option<f64>,
    fetching: u64,
    reached: Option<bool>,
    /// Why the last fetch reached nobody.
    trouble: Option<String>,
}

impl Meeting {
    /// Publishes and fetches as configured, on the requests in `effects`, in packets with this mark (0: none), and keeps nodes
    /// that have answered in a file. `None`: neither servers nor clients are configured. Must be called within a tokio runtime.
    pub(crate) fn new(
        config: &Config,
        nodes_file: PathBuf,
        effects: Effects,
        mark: u32,
    ) -> Option<Arc<Self>> {
        let role = match (&config.listen, config.servers.is_empty()) {
            (Some(_), true) => status::RendezvousRole::Server,
            (Some(_), false) => status::RendezvousRole::Both,
            (None, false) => status::RendezvousRole::Client,
            (None, true) => return None,
        };
        let settings = &config.rendezvous;
        let encoding = match settings.encoding {
            model::Encoding::Mutable => Encoding::Item,
            model::Encoding::Ports => Encoding::Ports,
        };
        let store: Arc<dyn Store> = Arc::new(MainlineStore::new(DhtConfig {
            bootstrap: settings.bootstrap.clone(),
            port: settings.port,
            serve: settings.serve,
            nodes_file: Some(nodes_file),
            mark,
            tunnel_dns: config.dns.clone(),
            ..DhtConfig::default()
        }));
        let publisher = config.listen.is_some().then(|| {
            let options = PublishOptions {
                encoding,
                in_flight: settings.publish_in_flight as usize,
                ..PublishOptions::default()
            };
            Publisher::new(Arc::clone(&store), options)
        });
        let options = FetchOptions { encoding, ..FetchOptions::default() };
        Some(Arc::new(Self {
            window: settings.window,
            role,
            fetcher: Fetcher::new(Arc::clone(&store), options),
            store,
            publisher,
            handout: Handout::default(),
            listen: config
                .listen
                .as_ref()
                .map(|listen| (listen.introductions_dir.clone(), listen.introduction_grace.as_secs())),
            handout_changed: Notify::new(),
            sources: Source::all(config),
            effects: Arc::new(tokio::sync::Mutex::new(effects)),
            work: Mutex::default(),
        }))
    }

    /// Carries out the requests until the sender is gone or the controller stops.
    async fn serve(self: Arc<Self>, context: Context) -> anyhow::Result<()> {
        let mut effects = self.effects.lock().await;
        let (mut batch, mut fetches) = (Vec::new(), JoinSet::new());
        let mut moves = self.store.moves();
        loop {
            tokio::select! {
                () = context.shutdown().begun() => return Ok(()),
                Some(fetched) = fetches.join_next() => fetched.context("a fetch")?,
                Ok(()) = moves.changed() => {
                    if let Some(publisher) = &self.publisher {
                        publisher.again();
                    }
                    context.sessions().hurry();
                }
                taken = effects.recv_many(&mut batch, MAX_BATCH) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.act(&mut batch, &mut fetches, &context).await;
                }
            }
        }
    }

    async fn act(self: &Arc<Self>, batch: &mut Vec<Effect>, fetches: &mut JoinSet<()>, context: &Context) {
        let (mut device, mut within) = (false, None);
        for effect in batch.drain(..) {
            match effect {
                Effect::Fetch { client, window } => {
                    fetches.spawn(Arc::clone(self).fetch(context.clone(), client, window));
                }
                Effect::Publish(publication) => {
                    let now = context.clock.read().wall.seconds();
                    self.handout.add(&publication, (window_start(now, self.window()), self.window()));
                    self.handout_changed.notify_one();
                    if publication.ahead {
                        continue;
                    }
                    self.add(context, &publication);
                    within = Some(within.unwrap_or(u64::MAX).min(publication.within));
                }
                Effect::Withdraw(client) => {
                    self.work().jobs.retain(|(other, _), _| *other != client);
                    self.handout_changed.notify_one();
                    within.get_or_insert(0);
                }
                Effect::Device => device = true,
            }
        }
        // Once for all of them, since the cost of each call grows with the number of clients.
        if let (Some(within), Some(publisher)) = (within, &self.publisher) {
            publisher.replace(self.work().jobs.values().cloned().collect(), Duration::from_nanos(within));
        }
        if device {
            context.tunnel.update(&context.sessions).await;
        }
    }

    async fn fetch(self: Arc<Self>, context: Context, client: ClientId, window: u64) {
        let Some(rendezvous) = context.sessions().rendezvous(client, window) else { return };
        // From a file, it is there at once; the DHT may have a newer one.
        let mut of_client = self.sources.iter().filter(|source| source.client == client);
        if let Some(introduction) = of_client.find_map(|source| source.find(window)) {
            context.sessions().handle_fetched(client, window, Fetched::Found(introduction));
        }
        let fetching = Fetching::begin(&self.work);
        let (choices, mut moves) = ([rendezvous], self.store.moves());
        let result = loop {
            tokio::select! {
                result = self.fetcher.fetch(&choices) => break result,
                // What was asked so far was another network.
                Ok(()) = moves.changed() => {}
            }
        };
        drop(fetching);
        let fetched = self.work().note(result, context.clock.read());
        context.sessions().handle_fetched(client, window, fetched);
    }

    /// Takes introductions from files until the controller stops.
    async fn read_files(self: Arc<Self>, context: Context) -> anyhow::Result<()> {
        let mut contents = watch(self.sources.clone()).context("reading introduction_file")?;
        loop {
            tokio::select! {
                () = context.shutdown().begun() => return Ok(()),
                Some((source, content)) = contents.recv() => {
                    let now = context.clock.read().wall.seconds();
                    for (window, introduction) in source.take(&content, now) {
                        context.sessions().handle_brought(source.client, window, introduction);
                    }
                }
            }
        }
    }

    /// Introductions that are in the DHT for a client, sealed, by their windows.
    pub(super) fn published(&self, client: &PublicKey) -> BTreeMap<u64, Vec<u8>> {
        let work = self.work();
        let jobs = work.jobs.range((*client, 0)..=(*client, u64::MAX));
        jobs.map(|((_, window), job)| (*window, job.item.value.clone())).collect()
    }

    /// Length of a window, in s.
    pub(super) const fn window(&self) -> u64 {
        self.window.as_secs()
    }

    /// Files with introductions, here and for others.
    fn files(&self, now: u64) -> Vec<status::IntroductionFile> {
        let folder = self.listen.as_ref().and_then(|(folder, _)| folder.as_ref());
        let handed_out = folder.map(|folder| self.handout.status(folder, self.window.as_secs()));
        self.sources.iter().map(|source| source.status(now)).chain(handed_out).collect()
    }

    /// Adds an introduction to the published items.
    fn add(&self, context: &Context, publication: &Publication) {
        let recipients = { context.sessions().recipients(publication) };
        let oldest = publication.window.saturating_sub(self.window.as_secs());
        let mut work = self.work();
        work.jobs.retain(|(_, window), _| *window >= oldest);
        for (client, rendezvous) in recipients {
            if let Some(job) = job(client, &rendezvous, publication) {
                work.jobs.insert((client, publication.window), job);
            }
        }
        debug!("publishing the introduction of window {}", publication.window);
    }

    /// The status of rendezvous at this Unix time in s.
    fn status(&self, now: u64) -> status::Rendezvous {
        let (counters, work) = (self.fetcher.counters(), self.work());
        let progress = self.publisher.as_ref().map(Publisher::progress).unwrap_or_default();
        let window_start = window_start(now, self.window.as_secs());
        let mut times: Vec<_> = work.times.iter().copied().collect();
        times.sort_unstable_by(f64::total_cmp);
        let rejected = [
            ("foreign", counters.foreign),
            ("invalid", counters.invalid),
            ("stale", counters.stale),
            ("unusable", counters.unusable),
            ("wrong_length", counters.wrong_length),
        ];
        // Whoever fetches and publishes has a problem if either fails.
        let reached = [work.reached, progress.reached].into_iter().flatten().reduce(|a, b| a && b);
        let trouble =
            (reached == Some(false)).then(|| work.trouble.clone().or(progress.last_error)).flatten();
        let pending = (progress.total - progress.done) as u64 + work.fetching;
        status::Rendezvous {
            role: self.role,
            window_seconds: self.window.as_secs(),
            window_start,
            last_publication: progress.last_published_ms.map(|ms| ms as f64 / 1e3),
            last_fetch: work.last_fetch,
            published: progress.published,
            fetched: counters.fetched,
            failed: progress.failed + counters.failed,
            absent: counters.absent,
            pending,
            rejected: rejected
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            next_seconds: (pending == 0).then(|| (window_start + self.window.as_secs() - now) as f64),
            network: match reached {
                Some(true) => status::Network::Ok,
                Some(false) => status::Network::Unreachable,
                None => status::Network::Unknown,
            },
            trouble,
            known_nodes: self.store.known_nodes() as u64,
            files: self.files(now),
            median_fetch_ms: times.get(times.len() / 2).copied(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Records the result of a fetch that ended at this time.
    fn note(&mut self, result: Result<Found, FetchError>, now: Reading) -> Fetched {
        self.trouble = None;
        match result {
            Ok(found) => {
                self.reached = Some(true);
                self.last_fetch = Some(now.wall.as_seconds());
                self.times.push_back(found.took.as_secs_f64() * 1e3);
                if self.times.len() > MAX_TIMES {
                    self.times.pop_front();
                }
                Fetched::Found(found.introduction)
            }
            Err(FetchError::Store(error)) => {
                debug!("fetching: {error}");
                self.reached = Some(false);
                self.trouble = Some(error.to_string());
                Fetched::Unreachable
            }
            Err(FetchError::Unusable(error)) => {
                debug!("fetching: {error}");
                self.reached = Some(true);
                Fetched::Unreadable(error)
            }
            Err(error) => {
                debug!("fetching: {error}");
                self.reached = Some(true);
                Fetched::Absent
            }
        }
    }
}

/// A fetch in progress: counted until this is dropped.
struct Fetching<'a>(&'a Mutex<Work>);

impl<'a> Fetching<'a> {
    fn begin(work: &'a Mutex<Work>) -> Self {
        work.lock().unwrap_or_else(PoisonError::into_inner).fetching += 1;
        Self(work)
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fetching -= 1;
    }
}

impl Subsystem for Meeting {
    fn name(&self) -> &'static str {
        "rendezvous"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let own = context.clone();
        let this = Arc::clone(&self);
        context.tasks.spawn(self.name(), AfterEnd::Restart, move || Arc::clone(&this).serve(own.clone()));
        if !self.sources.is_empty() {
            let (this, own) = (Arc::clone(&self), context.clone());
            let read = move || Arc::clone(&this).read_files(own.clone());
            context.tasks.spawn("introduction files", AfterEnd::Restart, read);
        }
        if self.listen.as_ref().is_some_and(|(folder, _)| folder.is_some()) {
            let own = context.clone();
            let write = move || Arc::clone(&self).hand_out(own.clone());
            context.tasks.spawn("introductions folder", AfterEnd::Restart, write);
        }
        Ok(())
    }

    fn routes(self: Arc<Self>, context: &Context) -> Router {
        self.handing_routes(context)
    }

    fn report(&self, now: Reading, status: &mut Status) {
        status.rendezvous = Some(self.status(now.wall.seconds()));
    }

    fn metrics(&self, status: &Status, text: &mut Text) {
        super::metrics(status, text);
    }
}

/// Seals an introduction for one client.
fn job(client: PublicKey, rendezvous: &Rendezvous, publication: &Publication) -> Option<Job> {
    let sealed = seal(&publication.introduction, rendezvous)?;
    let item = Item::new(rendezvous, sealed.to_vec(), publication.introduction.published_ms);
    Some(Job { client, window: publication.window, item })
}

/// Seals an introduction with a fresh nonce.
pub(super) fn seal(introduction: &Introduction, rendezvous: &Rendezvous) -> Option<[u8; SEALED_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    if let Err(error) = getrandom::fill(&mut nonce) {
        warn!("no randomness from the kernel: {error}");
        return None;
    }
    let sealed = introduction.seal(rendezvous, nonce);
    sealed.inspect_err(|error| warn!("the introduction cannot be published: {error}")).ok()
}
