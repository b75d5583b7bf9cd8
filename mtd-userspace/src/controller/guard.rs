//! What keeps operators from locking themselves out: what a start enforces, confirming it, and taking it back.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::detach;
use super::lock::Lock;
use crate::caller;
use crate::dataplane::{self, View, boot_time};
use crate::instance::Instance;
use crate::model::{Enforcement, Guard, LinkMode, Policy};
use crate::status;

/// How often the guard looks whether somebody has confirmed, at least.
const LOOK: Duration = Duration::from_secs(1);

impl Enforcement {
    /// Refuses to enforce `guard` for `prefixes` where that cuts the SSH connection of whoever asks.
    ///
    /// # Errors
    /// When it would, for good, and nobody insists.
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

/// Says in the log what is enforced.
pub(crate) fn announce(guard: &Guard, interface: &str, what: &str) {
    match guard.policy {
        Policy::Dark => info!("{interface}: {what} dark"),
        Policy::Monitor => {
            warn!("{interface}: {what} NOT dark: policy monitor, what would be dropped passes");
        }
    }
    if let Some(left) = guard.left(boot_time()) {
        warn!(
            "{interface}: open again in {} s unless you say `mtd confirm {interface}`",
            left.as_secs_f64().round()
        );
    }
}

/// What the documents tell of it, at boot time `now` (ns).
pub(crate) fn document(guard: &Guard, now: u64) -> status::Guard {
    status::Guard {
        schema: status::SCHEMA,
        policy: guard.policy.to_string(),
        enforced: guard.enforces(now),
        allow: guard.allow.iter().map(ToString::to_string).collect(),
        confirm_seconds_left: guard.left(now).map(|left| left.as_secs_f64()),
    }
}

/// The same, confirmed.
///
/// # Errors
/// When it is too late at boot time `now` (ns).
pub(crate) fn confirmed(guard: &Guard, now: u64) -> anyhow::Result<Guard> {
    if guard.is_over(now) {
        let since = Duration::from_nanos(now - guard.confirm_until).as_secs();
        bail!(
            "too late: the time to confirm was over {since} s ago, and nothing has been enforced since; attach again to \
             try once more"
        );
    }
    Ok(Guard { confirm_until: 0, ..guard.clone() })
}

/// Confirms what is attached to an interface while no controller runs.
///
/// # Errors
/// When it is too late, nothing is attached, or a controller runs after all.
pub fn confirm(interface: &str) -> anyhow::Result<status::Guard> {
    change(interface, |view, now| confirmed(&view.guard, now))
}

/// Changes the policy of what is attached to an interface while no controller runs.
///
/// # Errors
/// As [`confirm`].
pub fn set_policy(interface: &str, asked: &Enforcement) -> anyhow::Result<status::Guard> {
    change(interface, |view, now| Ok(asked.decide(None, view.guard.allow.clone(), Some(&view.guard), now)))
}

/// Whether the SSH connection of whoever asks outlives a change of the policy. Nothing attached is no error here.
///
/// # Errors
/// When it does not, and nobody insists.
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

fn change(
    interface: &str,
    change: impl FnOnce(&View, u64) -> anyhow::Result<Guard>,
) -> anyhow::Result<status::Guard> {
    let instance = Instance::of(interface)?;
    let _lock = Lock::take(&instance)?;
    let pins = instance.pins();
    let view =
        dataplane::view(&pins).with_context(|| format!("nothing of mtd is attached to {interface}"))?;
    let now = boot_time();
    let guard = change(&view, now)?;
    dataplane::set_guard(&pins, &guard)?;
    Ok(document(&guard, now))
}

/// Waits until what is attached to an interface is confirmed or detached; when the time to confirm is over, detaches it.
/// The programs have opened by themselves then.
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
                // Nobody can confirm any more.
                detach::take_away(&instance, &lock).await?;
                return Ok(());
            }
            // A controller runs, and does it.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    #[test]
    fn it_can_be_too_late_to_confirm() {
        let guard = Guard { confirm_until: NOW, ..Guard::default() };
        assert_eq!(confirmed(&guard, NOW - 1).unwrap(), Guard::default());
        let error = confirmed(&guard, NOW + 3_000_000_000).unwrap_err().to_string();
        assert!(error.contains("3 s ago") && error.contains("attach again"), "{error}");
        assert_eq!(confirmed(&Guard::default(), NOW).unwrap(), Guard::default());
    }
}
