//! Keys that several tables share.

use super::{Key, Kind};
use crate::model::{MiddleboxChoice, Mode, PERIOD_RANGE};

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
