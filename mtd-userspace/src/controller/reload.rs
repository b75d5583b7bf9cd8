//! Reading the configuration again: changes to clients and filters take effect, other changes are only reported.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use crate::config::{self, Change, Config, ConfigError, Written};
use crate::control::RELOAD_PATH;
use crate::events::{Bus, Configuration, Event};
use crate::http::{Refusal, answer};
use crate::registry::{Audience, Registrations};
use crate::status::{self, Reload, Setting};
use crate::subsystem::{Context, Subsystem};

/// Reads configuration and registry again.
pub(crate) struct Reloader {
    /// The settings in force, and the file that they came from.
    settings: Option<Mutex<(Written, PathBuf)>>,
    registry: Arc<Registrations>,
}

impl Reloader {
    /// For this file, if there is one, and this registry.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn new(file: Option<PathBuf>, registry: Arc<Registrations>) -> Result<Arc<Self>, ConfigError> {
        let settings = file.map(|path| Ok::<_, ConfigError>(Mutex::new((Written::read(&path)?, path))));
        Ok(Arc::new(Self { settings: settings.transpose()?, registry }))
    }

    /// Reads both again, each once.
    ///
    /// # Errors
    /// When they cannot be read: then nothing is changed, or if it is the registry, nothing but filters.
    pub(crate) fn reload(&self, sessions: &dyn Audience, bus: &Bus) -> Result<Reload, Refusal> {
        let Some(settings) = &self.settings else {
            return self.registry.reload(None, sessions, bus);
        };
        let mut settings = settings.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_force, path) = &mut *settings;
        // Both are read completely before anything is changed.
        let (config, in_file) = Config::read_with_written(path).map_err(anyhow::Error::from)?;
        // Filters first: a client must not come before its own.
        let filters = sessions.set_filters(&config)?;
        let mut reload = if self.registry.is_server() {
            self.registry.reload(Some(&config), sessions, bus)?
        } else {
            Reload { schema: status::SCHEMA, ..Reload::default() }
        };
        for change in in_force.changes(&in_file) {
            if config::reloads(&change.key) && (self.registry.is_server() || is_filter(&change.key)) {
                in_force.apply(&change);
            } else {
                let Change { key, before, after } = change;
                reload.settings.push(Setting { key, in_force: before, in_file: after });
            }
        }
        reload.filters = filters;
        let not_in_force = reload.settings.iter().map(|setting| setting.key.clone()).collect();
        bus.publish(Event::Configuration(Configuration { not_in_force }));
        Ok(reload)
    }
}

/// Whether a setting is about filters, which are applied on every host.
fn is_filter(key: &str) -> bool {
    key == "filter_reject" || key.ends_with(".filter")
}

impl Reloader {
    /// The HTTP route of a reload, which acts on these sessions.
    pub(crate) fn router(self: Arc<Self>, sessions: Arc<dyn Audience>, bus: Arc<Bus>) -> Router {
        Router::new().route(RELOAD_PATH, post(reload)).with_state((self, sessions, bus))
    }
}

impl Subsystem for Reloader {
    fn name(&self) -> &'static str {
        "reload"
    }

    fn start(self: Arc<Self>, _context: &Context) -> anyhow::Result<()> {
        // It has no task: it only answers requests.
        Ok(())
    }

    fn routes(self: Arc<Self>, context: &Context) -> Router {
        self.router(Arc::clone(&context.sessions) as Arc<dyn Audience>, Arc::clone(&context.bus))
    }
}

/// The state of the request handler.
type Handler = (Arc<Reloader>, Arc<dyn Audience>, Arc<Bus>);

async fn reload(State((reloader, sessions, bus)): State<Handler>) -> Response {
    answer(reloader.reload(&*sessions, &bus))
}
