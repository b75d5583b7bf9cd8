//! Keys that several tables share.

use super::{Key, Kind, Problems, Section, unlocated};
use crate::model::{Filter, MiddleboxChoice, Mode, PERIOD_RANGE, Rule};

/// The values of a name, in all tables that have one.
pub const NAME: Kind = Kind::Text("1 to 32 letters, digits, \".\", \"_\" and \"-\", in ASCII");

/// The length of slots, in all tables that have one.
pub const PERIOD: Key = Key::preset(
    "period",
    Kind::Duration(PERIOD_RANGE.0, PERIOD_RANGE.1),
    r#""3s""#,
    "Length of a slot: how long an address lives.",
)
.from_requirement("MT-04");

/// The range of a slot of certain sessions, in all tables that have one.
pub const SLOT: Kind = Kind::Duration(PERIOD_RANGE.0, PERIOD_RANGE.1);

/// How inner packets are protected, in all tables with this key.
pub const MODE: Key = Key::preset(
    "mode",
    Kind::Choice(Mode::WORDS),
    r#""encrypt""#,
    "What is done to inner packets. \"authenticate\" is as secure against forgery and faster, and they can be read on the wire.",
);

/// The own prefix of sessions, in all tables with this key.
pub const LOCAL_PREFIX: Key = Key::required(
    "local_prefix",
    Kind::Text("one of the values of prefix"),
    r#""2001:db8:1::/64""#,
    "Which own prefix is used.",
)
.otherwise("the first prefix");

/// What is done about a middlebox on this side, in all tables with this key.
pub const MIDDLEBOX: Key = Key::preset(
    "middlebox",
    Kind::Choice(MiddleboxChoice::WORDS),
    r#""auto""#,
    "Whether a stateful firewall or an address translator on this side lets in only answers. If so, this end opens each slot by up \
     to two small packets, and the other end answers only where it has heard this one. \"auto\" asks the other end now and then, \
     and does so until it is shown that nothing is in between.",
);

/// Which inner packets may pass, in all tables with this key.
pub const FILTER: Key = Key::required(
    "filter",
    Kind::List(
        "allow or deny, then each if it matters: in or out, a protocol (tcp, udp, icmp, a number) with or without a port or \
         ports, from ADDRESS, to ADDRESS",
    ),
    r#"["allow in tcp/22", "allow out udp/53 to 10.0.0.53", "allow icmp"]"#,
    "Which inner packets may pass between this host, with what is behind it, and the other end. in: what the other end opens; out: \
     what is opened from here; neither: both. The answers pass with it. A rule that denies is stronger than all that allow; what \
     no rule allows is dropped. Addresses are those inside the tunnel.",
)
.otherwise("everything passes")
.reloading();

/// The rules of a table with [`FILTER`]; `None`: there is no filter.
pub fn filter(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Vec<Rule>> {
    if !table.contains(FILTER.name) {
        return None;
    }
    let rules = table.optional_list(FILTER.name, problems, str::parse);
    let at = rules.first().map_or(table.at(), |rule| rule.at);
    let rules: Vec<Rule> = rules.into_iter().map(unlocated).collect();
    if let Err(fault) = Filter::check(&rules) {
        problems.add(at, table.name(FILTER.name), fault);
    }
    Some(rules)
}
