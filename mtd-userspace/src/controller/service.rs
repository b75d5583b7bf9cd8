//! What the service manager is told (`sd_notify(3)`), where there is one: that the controller is ready, that it is alive, that it
//! stops.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::status::{Reload, Setting};

/// Everything is attached, and what was asked for with a reload is done.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("no monotonic clock: {error}"),
    }
}

/// The way down begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the manager that we are alive, where it wants to know.
pub(super) struct Watchdog {
    /// How often, and when it last heard of us.
    interval: Option<(Duration, Instant)>,
}

impl Watchdog {
    /// Reads what the manager wants from the environment.
    pub(super) fn new() -> Self {
        // Twice as often as it asks for, as its manual advises.
        Self { interval: sd_notify::watchdog_enabled().map(|time| (time / 2, Instant::now())) }
    }

    /// To be called when slots were looked after: a controller that no longer does that is to be started anew.
    pub(super) fn feed(&mut self) {
        let Some((interval, last)) = &mut self.interval else { return };
        if last.elapsed() >= *interval {
            *last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Without a manager, nothing happens.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot tell the service manager: {error}");
    }
}

/// Logs what came of reading the configuration again.
pub(super) fn log(reload: &Reload) {
    for Setting { key, in_force, in_file } in &reload.settings {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".to_owned());
        warn!("{key} is {} until the next start, the file says {}", text(in_force), text(in_file));
    }
    info!("configuration read again");
}
