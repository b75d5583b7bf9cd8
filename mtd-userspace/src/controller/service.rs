//! Notifications to the service manager (`sd_notify(3)`), if there is one: ready, alive, reloading, stopping.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::status::{Reload, Setting};

/// Reports that everything is attached, or that a reload is complete.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Reports that the service runs, and what it still waits for.
pub(super) fn waiting(text: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// Reports that it waits no longer.
pub(super) fn found(interface: &str) {
    tell(&[NotifyState::Status(&format!("on {interface}"))]);
}

/// Reports that the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("no monotonic clock: {error}"),
    }
}

/// Reports that the controller is stopping.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Watchdog notifications, if the manager asks for them.
pub(super) struct Watchdog {
    /// Interval, and time of the last notification.
    interval: Option<(Duration, Instant)>,
}

impl Watchdog {
    /// Reads the manager's request from the environment.
    pub(super) fn new() -> Self {
        // Twice as often as it asks for, as its manual advises.
        Self { interval: sd_notify::watchdog_enabled().map(|time| (time / 2, Instant::now())) }
    }

    /// To be called after each tick: a controller without ticks must be restarted.
    pub(super) fn feed(&mut self) {
        let Some((interval, last)) = &mut self.interval else { return };
        if last.elapsed() >= *interval {
            *last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Does nothing without a manager.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot tell the service manager: {error}");
    }
}

/// Logs the outcome of a reload.
pub(super) fn log(reload: &Reload) {
    for Setting { key, in_force, in_file } in &reload.settings {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".to_owned());
        warn!("{key} is {} until the next start, the file says {}", text(in_force), text(in_file));
    }
    info!("configuration read again");
}
