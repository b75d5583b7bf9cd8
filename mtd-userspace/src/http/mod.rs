//! HTTP for all servers of the controller: sockets, limits, time-outs, graceful shutdown, JSON and refusals. The features
//! define paths and answers.
//!
//! A connection serves one request. Its head must arrive within two seconds, its body within two more; connections over the
//! limit wait in the kernel's queue.

mod json;
mod refusal;
mod serve;
pub mod tcp;
pub mod unix;

pub use json::{MAX_BODY_BYTES, answer, lines, read};
pub use refusal::{Reason, Refusal};
pub use serve::{Accept, Closing, Limits, Patience, Progress, converse, serve};
