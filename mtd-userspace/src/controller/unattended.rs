//! Protection of operators from locking themselves out: what a start enforces, its confirmation, and its end without one.

use std::time::Duration;

use anyhow::Context as _;

use super::detach;
use super::host::noted;
use super::lock::Lock;
use crate::caller;
use crate::dataplane::{self, boot_time};
use crate::enforcement::{Note, confirmed};
use crate::instance::Instance;
use crate::model::{Enforcement, Guard, LinkMode, Policy};
use crate::status;

/// Longest time between two checks for a confirmation.
const LOOK: Duration = Duration::from_secs(1);

impl Enforcement {
    /// Refuses to enforce `guard` for `prefixes` if that cuts the caller's SSH connection.
    ///
    /// # Errors
    /// When it would, permanently, and the caller does not force it.
    pub(super) fn require_way_back(
        &self,
        guard: &Guard,
        link: LinkMode,
        prefixes: &[ipnet::Ipv6Net],
    ) -> anyhow::Result<()> {
        // In a shared prefix, ordinary addresses pass.
        let lasting = guard.policy == Policy::Dark && guard.confirm_until == 0 && link != LinkMode::Shared;
        if self.force || !lasting {
            return Ok(());
        }
        match caller::ssh_connection() {
            Some(connection) => connection.require_open(prefixes, &guard.allow),
            None => Ok(()),
        }
    }
}

/// Confirms what is attached to an interface while no controller runs.
///
/// # Errors
/// When it is too late, nothing is attached, or a controller has started meanwhile.
pub fn confirm(interface: &str) -> anyhow::Result<status::Guard> {
    change(interface, |guard, now| confirmed(guard, now))
}

/// Changes the policy of what is attached to an interface while no controller runs.
///
/// # Errors
/// As [`confirm`].
pub fn set_policy(interface: &str, asked: &Enforcement) -> anyhow::Result<status::Guard> {
    change(interface, |guard, now| Ok(asked.decide(None, guard.allow.clone(), Some(guard), now)))
}

/// Checks that the caller's SSH connection survives a change of the policy. It does if nothing is attached.
///
/// # Errors
/// When it does not, and the caller does not force it.
pub fn require_way_back(interface: &str, asked: &Enforcement) -> anyhow::Result<()> {
    let Some(view) = dataplane::view(&Instance::of(interface)?.pins()) else { return Ok(()) };
    let now = boot_time();
    if view.guard.enforces(now) && view.guard.confirm_until == 0 {
        // It is dark already.
        return Ok(());
    }
    let guard = asked.decide(None, view.guard.allow.clone(), Some(&view.guard), now);
    asked.require_way_back(&guard, view.link, &view.prefixes)
}

/// Checks that the caller's SSH connection survives a confirmation that enforces something: one of what was not confirmed
/// in time. It does if nothing is attached.
///
/// # Errors
/// When it does not.
pub fn require_way_back_after_confirming(interface: &str) -> anyhow::Result<()> {
    let instance = Instance::of(interface)?;
    let Some(view) = dataplane::view(&instance.pins()) else { return Ok(()) };
    let guard = noted(&instance, &view);
    if !guard.unconfirmed {
        return Ok(());
    }
    let guard = confirmed(&guard, boot_time())?;
    Enforcement::default().require_way_back(&guard, view.link, &view.prefixes)
}

fn change(
    interface: &str,
    change: impl FnOnce(&Guard, u64) -> anyhow::Result<Guard>,
) -> anyhow::Result<status::Guard> {
    let instance = Instance::of(interface)?;
    let _lock = Lock::take(&instance)?;
    let pins = instance.pins();
    let view =
        dataplane::view(&pins).with_context(|| format!("nothing of mtd is attached to {interface}"))?;
    let now = boot_time();
    let note = Note::linked(&instance);
    let guard = change(&noted(&instance, &view), now)?;
    let (dark, pending) = (guard.policy == Policy::Dark, guard.confirm_until != 0);
    if let Some(note) = note.as_ref().filter(|_| dark && pending) {
        note.write()?;
    }
    dataplane::set_guard(&pins, &guard)?;
    if let Some(note) = note.filter(|_| dark && !pending) {
        note.clear()?;
    }
    Ok(status::Guard::of(&guard, now))
}

/// Waits until what is attached to an interface is confirmed or detached. When the time to confirm is over, detaches it; by
/// then, the programs enforce nothing any more.
///
/// # Errors
/// When something cannot be removed.
pub async fn watch(interface: &str) -> anyhow::Result<()> {
    let instance = Instance::of(interface)?;
    loop {
        let left = dataplane::view(&instance.pins()).and_then(|view| view.guard.left(boot_time()));
        match left {
            None => return Ok(()),
            Some(Duration::ZERO) => {}
            Some(left) => {
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
        }
        match Lock::try_take(&instance)? {
            Ok(lock) => {
                // With the lock held, nobody can confirm any more.
                detach::take_away(&instance, &lock).await?;
                return Ok(());
            }
            // A controller runs, and detaches it itself.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
