//! The vocabulary that all rooms share: plain values without I/O. Imports nothing of ours but `mtd-common`.

mod addresses;
mod allow;
mod choices;
mod counts;
mod fault;
mod guard;
mod ids;
mod time;

pub use addresses::{Pool, TunnelAddresses};
pub use allow::{Allow, Protocol};
pub use choices::{Encoding, KeyStreamChoice, LinkMode, Mode, Policy, SteeringChoice, XdpChoice};
pub use counts::{Counts, Frames, MapFill, Program, SessionTraffic, Totals, Traffic};
pub use fault::{Fault, MAX_SHOWN, shown};
pub use guard::{Enforcement, Guard};
pub use ids::{ClientId, PeerNumber, SessionIndex};
pub use time::{BootNs, ClockOffset, Reading, SessionNs, UnixNs};
