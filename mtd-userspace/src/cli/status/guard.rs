//! What is enforced, as `mtd status` and `mtd drops` show it.

use super::list;
use crate::cli::output::{self, Section, Style};
use crate::status::{Guard, Status};

/// Rows about what is enforced; a warning if nothing is.
pub(super) fn rows(section: &mut Section, status: &Status) {
    let Guard { policy, enforced, allow, unconfirmed, confirm_seconds_left, .. } = &status.guard;
    let interface = &status.interface;
    let hint = match confirm_seconds_left {
        Some(left) if *left > 0.0 => {
            Some(format!("open again in {left:.0} s unless you say `mtd confirm {interface}`"))
        }
        Some(_) => Some(format!(
            "NOT DARK: nobody confirmed in time, what would be dropped passes; `mtd detach {interface}` takes away \
             what is left"
        )),
        None if *unconfirmed => Some(format!(
            "NOT DARK: nobody confirmed the last enforcement, what would be dropped passes; `mtd confirm {interface}` \
             enforces it from now on, `mtd policy {interface} dark --confirm-within 60s` tries it again"
        )),
        None if !enforced => Some(format!(
            "NOT DARK: policy monitor, what would be dropped passes (see `mtd drops`); `mtd policy {interface} dark` \
             changes that"
        )),
        None => None,
    };
    section.hint(hint.as_deref());
    section.row("policy", policy);
    if !allow.is_empty() {
        section.row("allowed", list(allow));
    }
}

/// A table of the packets that passed because nothing is enforced, or was at the time.
pub(in crate::cli) fn would_be_dropped(status: &Status, style: Style) -> Option<String> {
    let counts = Some(&status.would_drop).filter(|counts| !status.guard.enforced || !counts.is_empty())?;
    Some(output::drop_table(style, &format!("would be dropped at {}, passed", status.interface), counts))
}
