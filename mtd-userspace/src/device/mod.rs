//! The tunnel device and the host's links: everything mtd does over rtnetlink, ethtool and `/proc/sys/net`.
//!
//! The tunnel device is a veth pair. Its outer end (`mtd0`) is what the host sees: addresses, routes, captures and
//! firewall rules belong to it. Its inner end (`mtd0x`) carries the sealing program and nothing else.
//!
//! All functions act on the network namespace of the calling thread. They need a tokio runtime with its I/O and time
//! drivers enabled, and must be polled on a thread of that namespace (always so when the process entered the
//! namespace before it started its runtime).

mod address;
pub mod bpffs;
mod bypass;
mod error;
mod features;
mod links;
mod netlink;
mod netns;
mod prefix;
mod route;
pub mod section;
mod sysctl;
mod tunnel;
mod underlay;
mod watch;

pub use bypass::{Bypass, free_mark, remove_bypass, remove_other_bypasses, require_own_table};
pub use error::{Error, Result};
pub use links::LinkRoutes;
pub use netlink::patiently;
pub use netns::netns_tag;
pub use prefix::{Lack, Prefix, ipv6_is_off};
pub use route::networks_elsewhere;
pub use sysctl::filters_strictly;
pub use tunnel::{MARKER, MTU_RANGE, Repaired, TunnelDevice, TunnelInfo, misfits, remove, remove_marked};
pub use underlay::{Underlay, interfaces, merging, require_no_port};
pub use watch::Watch;
