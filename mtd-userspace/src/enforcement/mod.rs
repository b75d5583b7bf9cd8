//! What is enforced at the protected prefixes: logging it, and confirming it before it ends by itself.

mod note;

use std::time::Duration;

use anyhow::bail;
use tracing::{info, warn};

pub(crate) use self::note::{Note, unlink_note};
use crate::dataplane::boot_time;
use crate::model::{Guard, Policy};

/// Logs what is enforced.
pub(crate) fn announce(guard: &Guard, interface: &str, what: &str) {
    match guard.policy {
        _ if guard.unconfirmed => warn!(
            "{interface}: {what} NOT dark, since nobody confirmed the last time that {interface} was: say `mtd confirm \
             {interface}`, or `mtd policy {interface} dark --confirm-within 60s` to try again"
        ),
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

/// What is enforced after a confirmation.
///
/// # Errors
/// When it is too late at boot time `now` (ns).
pub(crate) fn confirmed(guard: &Guard, now: u64) -> anyhow::Result<Guard> {
    if guard.is_over(now) {
        let since = Duration::from_nanos(now - guard.confirm_until).as_secs();
        bail!(
            "too late: the time to confirm ended {since} s ago, and nothing has been enforced since; attach again to try \
             once more"
        );
    }
    let policy = if guard.unconfirmed { Policy::Dark } else { guard.policy };
    Ok(Guard { policy, confirm_until: 0, unconfirmed: false, ..guard.clone() })
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
        let unconfirmed = Guard { policy: Policy::Monitor, unconfirmed: true, ..Guard::default() };
        assert_eq!(confirmed(&unconfirmed, NOW).unwrap(), Guard::default(), "what it was to be");
    }
}
