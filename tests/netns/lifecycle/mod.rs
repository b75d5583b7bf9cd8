//! The life of controller and data plane on one host: starting, failing to start, stopping, being killed, and the
//! commands that an operator has for it. A client is configured, but none runs.

mod attach;
pub(crate) mod bench;
mod commands;
mod failures;
mod follow;
mod logs;
mod remains;
mod service;
mod status;
