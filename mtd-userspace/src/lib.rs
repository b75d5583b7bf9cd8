//! The controller of mtd and its command line.
//!
//! [`proto`] decides (no I/O, no clock); [`dataplane`] is the kernel side; [`controller`] joins them; [`control`] and
//! [`cli`] face people. `ARCHITECTURE.md` says how the pieces work together.

mod caller;
pub mod claims;
pub mod cli;
pub mod config;
pub mod control;
pub mod controller;
pub mod copies;
pub mod dataplane;
pub mod device;
pub mod enforcement;
pub mod events;
pub mod files;
pub mod health;
pub mod http;
pub mod instance;
pub mod keys;
pub mod keystream;
pub mod leases;
pub mod metrics;
pub mod model;
pub mod neighbours;
pub mod privilege;
pub mod prometheus;
pub mod proto;
pub mod registry;
pub mod remedy;
pub mod rendezvous;
pub mod resolver;
pub mod rings;
#[cfg(test)]
mod rooms;
pub mod schema;
pub mod sessions;
pub mod state;
pub mod status;
pub mod subsystem;
pub mod upkeep;
pub mod web;
