//! The vocabulary that all rooms share: plain values without I/O. Imports nothing of this project but `mtd-common`.

mod addresses;
mod allow;
mod choices;
mod counts;
mod cover;
mod fault;
mod filter;
mod guard;
mod ids;
mod last_try;
mod limits;
mod time;

pub use addresses::{Pool, TunnelAddresses};
pub use allow::{Allow, Protocol};
pub use choices::{
    ClockChoice, Encoding, KeyStreamChoice, LinkMode, MiddleboxChoice, Mode, Policy, SteeringChoice,
    XdpChoice,
};
pub use counts::{Counts, Frames, MapFill, Program, SessionTraffic, Totals, Traffic};
pub use cover::{FwMark, is_everything};
pub use fault::{Fault, MAX_SHOWN, shown};
pub use filter::{Action, Direction, Filter, Reject, Rule, RuleProtocol};
pub use guard::{Enforcement, Guard};
pub use ids::{ClientId, PeerNumber, SessionIndex};
pub use last_try::{LastTry, News};
pub use limits::{
    DEFAULT_PERIOD, MAX_INNER_MTU, MAX_SESSIONS, MIN_INNER_MTU, MIN_REKEY_MARGIN, MIN_SLOTS_AHEAD,
    PERIOD_RANGE, PERIODS_MS,
};
pub use time::{BootNs, ClockOffset, Reading, SessionNs, UnixNs};
