//! The registry as a part of the controller: its requests at the control socket, and reports of changes to sessions and bus.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get};
use serde::{Deserialize, Serialize};

use super::registrar::Registrar;
use super::{Change, Entry, check_name, not_a_server, parse_key};
use crate::config::Config;
use crate::events::{Bus, Event, Registration, RegistrationChange};
use crate::http::{Reason, Refusal, answer, read};
use crate::keys::PublicKey;
use crate::prometheus::{Kind, Text};
use crate::proto::clock::Reading;
use crate::proto::messages::{self as words, MAX_TEXT};
use crate::sessions::{Clock, Consequences, RegisteredClient, Sessions};
use crate::status::{self, Registered, SessionState, Status};
use crate::subsystem::{AfterEnd, Context, Shutdown, Subsystem, lock};

/// Path of the registered clients; a name may follow.
pub const PEERS_PATH: &str = "/v1/peers";

/// How long after a failure the leases are written again.
const AGAIN: Duration = Duration::from_secs(3);

/// The body of `POST /v1/peers`: the client to register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPeer {
    /// Name that no other client, server or peer has.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
}

/// The body of `DELETE /v1/peers/NAME`, which may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Farewell {
    /// What the client is told, in at most [`MAX_TEXT`] bytes: its `mtd status` shows it.
    #[serde(default)]
    pub tell: Option<String>,
}

/// A receiver of changes: the sessions.
pub trait Audience: Send + Sync + 'static {
    /// The set of registered clients has changed.
    fn apply(&self, consequences: Consequences);

    /// Puts the filters of a configuration into force. Returns the names of those whose filter is another one now.
    ///
    /// # Errors
    /// When there is no room; then nothing is changed.
    fn set_filters(&self, config: &Config<()>) -> anyhow::Result<Vec<String>>;

    /// The states of the sessions with clients.
    fn client_states(&self) -> HashMap<PublicKey, SessionState>;
}

impl Audience for Mutex<Sessions> {
    fn apply(&self, consequences: Consequences) {
        lock(self).apply(consequences);
    }

    fn set_filters(&self, config: &Config<()>) -> anyhow::Result<Vec<String>> {
        lock(self).set_filters(config)
    }

    fn client_states(&self) -> HashMap<PublicKey, SessionState> {
        lock(self).client_states()
    }
}

/// The registered clients of a running server; on a host that is not a server, requests are refused. Its lock is taken
/// before that of the sessions.
pub struct Registrations {
    registrar: Option<Mutex<Registrar>>,
}

impl Registrations {
    /// Reads registry and leases.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(config: &Config, leases: PathBuf, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<Self>> {
        let registrar = Registrar::load(config, leases, clock)?;
        Ok(Arc::new(Self { registrar: registrar.map(Mutex::new) }))
    }

    /// Whether this host is a server.
    pub fn is_server(&self) -> bool {
        self.registrar.is_some()
    }

    /// Every client with its addresses. A client for which no address is left is omitted, with a warning.
    pub fn all(&self) -> Vec<RegisteredClient> {
        self.locked().map(|mut registrar| registrar.all()).unwrap_or_default()
    }

    /// Reads the registry again, with the clients of the configuration, which may have changed, and informs sessions and
    /// bus.
    ///
    /// # Errors
    /// When it cannot be read; then nothing is changed.
    pub fn reload(
        &self,
        config: Option<&Config<()>>,
        sessions: &dyn Audience,
        bus: &Bus,
    ) -> Result<status::Reload, Refusal> {
        let mut registrar = self.registrar()?;
        let (change, consequences) = registrar.reload(config)?;
        sessions.apply(consequences);
        drop(registrar);
        tell(bus, &change);
        Ok(change.document())
    }

    /// Writes the leases that could not be written, until the controller stops.
    async fn save_again(self: Arc<Self>, shutdown: Shutdown) -> anyhow::Result<()> {
        while tokio::time::timeout(AGAIN, shutdown.clone().begun()).await.is_err() {
            let this = Arc::clone(&self);
            // A disk may be slow.
            tokio::task::spawn_blocking(move || {
                if let Some(mut registrar) = this.locked()
                    && registrar.unsaved().is_some()
                {
                    registrar.save();
                }
            })
            .await?;
        }
        Ok(())
    }

    fn locked(&self) -> Option<MutexGuard<'_, Registrar>> {
        let registrar = self.registrar.as_ref()?;
        Some(registrar.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn registrar(&self) -> Result<MutexGuard<'_, Registrar>, Refusal> {
        self.locked().ok_or_else(not_a_server)
    }

    /// The HTTP routes of the registry, which act on these sessions.
    pub fn router(self: Arc<Self>, sessions: Arc<dyn Audience>, bus: Arc<Bus>) -> Router {
        Router::new()
            .route(PEERS_PATH, get(list).post(add))
            .route(&format!("{PEERS_PATH}/{{name}}"), delete(remove))
            .with_state(Handler { registrations: self, sessions, bus })
    }
}

impl Subsystem for Registrations {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        if self.is_server() {
            let shutdown = context.shutdown();
            context.tasks.spawn(self.name(), AfterEnd::Restart, move || {
                Arc::clone(&self).save_again(shutdown.clone())
            });
        }
        Ok(())
    }

    fn routes(self: Arc<Self>, context: &Context) -> Router {
        self.router(Arc::clone(&context.sessions) as Arc<dyn Audience>, Arc::clone(&context.bus))
    }

    /// Adds the number of clients, and whether their addresses are saved.
    fn report(&self, _now: Reading, status: &mut Status) {
        if let Some(registrar) = self.locked() {
            status.clients_registered = Some(registrar.count() as u64);
            if let Some(saved) = &mut status.saved {
                saved.failures.extend(registrar.unsaved().map(str::to_owned));
            }
        }
    }

    fn metrics(&self, status: &Status, text: &mut Text) {
        metrics(status, text);
    }
}

/// The metrics of the registry.
pub fn metrics(status: &Status, text: &mut Text) {
    if let Some(clients) = status.clients_registered {
        text.single("mtd_clients_registered", Kind::Gauge, "Clients that may come.", clients);
    }
}

#[cfg(test)]
impl Registrations {
    /// The registry of a folder, for a server without addresses to lease; `None`: not a server.
    pub(crate) fn of_folder(dir: Option<&std::path::Path>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            registrar: dir
                .map(|dir| Mutex::new(Registrar::of_folder(dir, crate::model::Pool::default(), clock))),
        })
    }
}

#[derive(Clone)]
struct Handler {
    registrations: Arc<Registrations>,
    sessions: Arc<dyn Audience>,
    bus: Arc<Bus>,
}

async fn list(State(handler): State<Handler>) -> Response {
    let document =
        |registrar: MutexGuard<'_, Registrar>| registrar.document(&handler.sessions.client_states());
    answer::<Registered>(handler.registrations.registrar().map(document))
}

async fn add(State(handler): State<Handler>, body: Body) -> Response {
    answer(match new_peer(body).await {
        Ok((name, key)) => handler.add(&name, key),
        Err(refusal) => Err(refusal),
    })
}

async fn remove(State(handler): State<Handler>, Path(name): Path<String>, body: Body) -> Response {
    let told = farewell(body).await;
    answer(told.and_then(|told| {
        check_name(&name)?;
        handler.remove(&name, told)
    }))
}

impl Handler {
    fn add(&self, name: &str, key: PublicKey) -> Result<status::Client, Refusal> {
        let mut registrar = self.registrations.registrar()?;
        let (client, consequences) = registrar.add(name, key)?;
        self.sessions.apply(consequences);
        drop(registrar);
        tell_one(&self.bus, (name, key), RegistrationChange::Added);
        Ok(client)
    }

    fn remove(&self, name: &str, tell: words::Text) -> Result<status::Client, Refusal> {
        let mut registrar = self.registrations.registrar()?;
        let (client, consequences) = registrar.remove(name)?;
        let keys = consequences.remove.clone();
        let consequences = Consequences { tell, ..consequences };
        self.sessions.apply(consequences);
        drop(registrar);
        for key in keys {
            tell_one(&self.bus, (name, key), RegistrationChange::Removed);
        }
        Ok(client)
    }
}

/// What a client is told, in a request's body.
async fn farewell(body: Body) -> Result<words::Text, Refusal> {
    if hyper::body::Body::is_end_stream(&body) {
        return Ok(words::Text::NONE);
    }
    let Farewell { tell } = read(body, "farewell").await?;
    let tell = tell.unwrap_or_default();
    if tell.len() > MAX_TEXT {
        let message = format!("a client is told {MAX_TEXT} bytes at most, and this has {}", tell.len());
        return Err(Refusal::new(Reason::Invalid, message));
    }
    Ok(words::Text::new(&tell))
}

/// The client in a request's body, with a valid name and a usable key.
async fn new_peer(body: Body) -> Result<(String, PublicKey), Refusal> {
    let NewPeer { name, public_key } = read(body, "new peer").await?;
    check_name(&name)?;
    Ok((name, parse_key(&public_key)?))
}

fn tell(bus: &Bus, change: &Change) {
    let tell_all = |entries: &[Entry], change| {
        for entry in entries {
            tell_one(bus, (&entry.name, entry.public_key), change);
        }
    };
    tell_all(&change.removed, RegistrationChange::Removed);
    tell_all(&change.added, RegistrationChange::Added);
    tell_all(&change.changed, RegistrationChange::Changed);
}

fn tell_one(bus: &Bus, (name, key): (&str, PublicKey), change: RegistrationChange) {
    bus.publish(Event::Registration(Registration { name: name.to_owned(), key, change }));
}
