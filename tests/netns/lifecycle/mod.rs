//! The life of controller and data plane on one host: starting, failing to start, stopping, being killed, and the commands
//! of an operator. A client is configured, but not running.

mod attach;
pub(crate) mod bench;
mod clock;
mod commands;
mod disk;
mod failures;
mod follow;
mod limits;
mod logs;
mod remains;
mod service;
mod status;
