//! What keeps operators from locking themselves out: what a start enforces, confirming it, and taking it back.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::detach;
use super::lock::Lock;
use crate::caller;
use crate::config::{Allow, LinkMode, Policy};
use crate::dataplane::{self, Guard, View, boot_time};
use crate::instance::Instance;
use crate::status;

/// How often the guard looks whether somebody has confirmed, at least.
const LOOK: Duration = Duration::from_secs(1);

/// What somebody asks for who makes prefixes dark.
#[derive(Clone, Copy, Debug, Default)]
pub struct Enforcement {
    /// The policy; `None`: that of the configuration, or the one in force.
    pub policy: Option<Policy>,
    /// After this time nothing is enforced any more, unless somebody confirms; `None`: there is nothing to confirm,
    /// unless there was before.
    pub confirm_within: Option<Duration>,
    /// Also where it cuts the caller's own connection.
    pub force: bool,
}

impl Enforcement {
    /// What is to be enforced from boot time `now` (ns) on, where `earlier` was. What was waiting to be confirmed still is;
    /// what nobody confirmed in time begins anew.
    pub(super) fn decide(
        &self,
        configured: Option<Policy>,
        allow: Vec<Allow>,
        earlier: Option<&Guard>,
        now: u64,
    ) -> Guard {
        let policy = self.policy.or(configured).or(earlier.map(|guard| guard.policy)).unwrap_or_default();
        let pending = earlier.filter(|guard| !guard.is_over(now)).map_or(0, |guard| guard.confirm_until);
        let asked = self.confirm_within.map(|within| now.saturating_add(within.as_nanos() as u64));
        Guard { policy, allow, confirm_until: asked.unwrap_or(pending) }
    }

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
pub(super) fn announce(guard: &Guard, interface: &str, what: &str) {
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
pub(super) fn document(guard: &Guard, now: u64) -> status::Guard {
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
pub(super) fn confirmed(guard: &Guard, now: u64) -> anyhow::Result<Guard> {
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

    fn within(seconds: u64) -> Enforcement {
        Enforcement { confirm_within: Some(Duration::from_secs(seconds)), ..Enforcement::default() }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_what_was() {
        let earlier = Guard { policy: Policy::Monitor, ..Guard::default() };
        let decide = |policy, file, earlier| {
            let asked = Enforcement { policy, ..Enforcement::default() };
            asked.decide(file, Vec::new(), earlier, NOW).policy
        };
        assert_eq!(decide(None, None, None), Policy::Dark);
        assert_eq!(decide(None, None, Some(&earlier)), Policy::Monitor);
        assert_eq!(decide(None, Some(Policy::Dark), Some(&earlier)), Policy::Dark);
        assert_eq!(decide(Some(Policy::Monitor), Some(Policy::Dark), None), Policy::Monitor);
    }

    #[test]
    fn what_waits_to_be_confirmed_goes_on_waiting() {
        let decide = |asked: Enforcement, earlier: Option<&Guard>| {
            asked.decide(None, Vec::new(), earlier, NOW).confirm_until
        };
        let until = |confirm_until| Guard { confirm_until, ..Guard::default() };
        assert_eq!(decide(Enforcement::default(), None), 0);
        assert_eq!(decide(within(60), None), NOW + 60_000_000_000);
        assert_eq!(decide(Enforcement::default(), Some(&until(NOW + 5))), NOW + 5);
        assert_eq!(decide(within(1), Some(&until(NOW + 5))), NOW + 1_000_000_000);
        // Nobody confirmed: it is as if it had been detached.
        assert_eq!(decide(Enforcement::default(), Some(&until(NOW))), 0);
    }

    #[test]
    fn it_can_be_too_late_to_confirm() {
        let guard = Guard { confirm_until: NOW, ..Guard::default() };
        assert_eq!(confirmed(&guard, NOW - 1).unwrap(), Guard::default());
        let error = confirmed(&guard, NOW + 3_000_000_000).unwrap_err().to_string();
        assert!(error.contains("3 s ago") && error.contains("attach again"), "{error}");
        assert_eq!(confirmed(&Guard::default(), NOW).unwrap(), Guard::default());
    }
}
