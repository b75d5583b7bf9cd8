//! HTTP for everything that is served: sockets, limits, time-outs, the graceful end, JSON and refusals. What is served
//! at which path is said by the features.
//!
//! A connection serves one request. Its head has to come within two seconds, its body within two more; a connection
//! over the limit waits in the kernel's queue.

mod json;
mod refusal;
mod serve;
pub mod tcp;
pub mod unix;

pub use json::{MAX_BODY_BYTES, answer, lines, read};
pub use refusal::{Reason, Refusal};
pub use serve::{Accept, Closing, Limits, Patience, Progress, converse, serve};
