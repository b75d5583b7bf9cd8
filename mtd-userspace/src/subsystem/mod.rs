//! What a part of the controller has to offer, and what it gets: the contract of features such as rendezvous, registry,
//! key stream, metrics and web view.
//!
//! A subsystem is made from the configuration, before anything of the host is changed for good: whatever can fail for
//! its own reasons (an address that is taken, a folder that cannot be read) fails there. It starts when the programs
//! are attached, and gets the [`Context`]. Its section of the configuration, its part of the status document
//! ([`Subsystem::report`], a type of [`crate::status`]), its metrics and its requests at the control socket stand
//! beside it; control socket, metrics and web view show what all of them say, by [`Reports`]. What there is to warn of is
//! found in the whole status document ([`crate::health`]), because warnings have one order over all features.

mod shutdown;
mod tasks;
mod tunnel;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;

pub use self::shutdown::Shutdown;
pub use self::tasks::{AfterEnd, Tasks, metrics};
pub use self::tunnel::Tunnel;
use crate::enforcement::Note;
use crate::events::Bus;
use crate::prometheus::Text;
use crate::proto::clock::Reading;
use crate::sessions::{Clock, Sessions};
use crate::status::Status;

/// What subsystems work with. Clones are of the same things.
#[derive(Clone)]
pub struct Context {
    /// The sessions, and with them the data plane.
    pub sessions: Arc<Mutex<Sessions>>,
    /// What happens.
    pub bus: Arc<Bus>,
    /// The clocks that sessions go by.
    pub clock: Arc<dyn Clock>,
    /// The tunnel device.
    pub tunnel: Arc<Tunnel>,
    /// Where tasks are started, and looked after.
    pub tasks: Tasks,
    /// What all subsystems report.
    pub reports: Arc<dyn Reports>,
    /// The note of an enforcement that is not confirmed.
    pub(crate) note: Note,
}

impl Context {
    /// The sessions, for as long as the guard lives. Nothing else is locked meanwhile.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    /// The end, for whatever has to end with it.
    pub fn shutdown(&self) -> Shutdown {
        self.tasks.shutdown()
    }
}

/// A part of the controller.
pub trait Subsystem: Send + Sync + 'static {
    /// Its name, in logs.
    fn name(&self) -> &'static str;

    /// Begins to work. Called once, within a tokio runtime; what goes on after this runs in tasks of the context.
    ///
    /// # Errors
    /// When it cannot; the controller does not start then.
    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()>;

    /// What it answers at the control socket.
    fn routes(self: Arc<Self>, _context: &Context) -> Router {
        Router::new()
    }

    /// Adds its part to the status document.
    fn report(&self, _now: Reading, _status: &mut Status) {}

    /// Adds its metrics, from its part of the status document.
    fn metrics(&self, _status: &Status, _text: &mut Text) {}

    /// Ends what is no task. Called once, when the tasks have ended.
    fn stop(&self) {}
}

/// A future of [`Reports`].
pub type ReportFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What all subsystems say together.
pub trait Reports: Send + Sync + 'static {
    /// The status as of now. An error is shown to whoever asks, with its causes.
    fn status(&self) -> ReportFuture<'_, anyhow::Result<Status>>;

    /// The metrics, in the text format of Prometheus.
    fn metrics(&self) -> ReportFuture<'_, anyhow::Result<String>>;
}

/// The lock cannot be poisoned for good: a panic while it was held is a bug that is already reported, and the state
/// behind it is brought up to date by the next tick.
pub fn lock(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(|poisoned| {
        tracing::warn!("going on after a panic");
        poisoned.into_inner()
    })
}
