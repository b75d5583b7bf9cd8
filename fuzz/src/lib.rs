//! What the fuzz targets run: one function for each decoder, over any bytes.
//!
//! A target panics when the decoder breaks a promise, and otherwise tells whether the decoder accepted its input.
//! Ordinary tests run the same functions over the committed corpus (`mtd-userspace/tests/fuzz_corpus.rs` includes this
//! file). The corpus has inputs made by hand, whose names say what they are, and for each target those that together
//! reach the most code, chosen from what the fuzzer found.

mod message;
mod packet;
mod record;
mod registered;
mod rendezvous;
mod text;

pub use message::{control_message, request, response};
pub use packet::{frame, inner, neighbour, tunnel};
pub use record::{control_record, event, window};
pub use registered::{leases, registered};
pub use rendezvous::{introduction, ports};
pub use text::{config, drop_line, key, state, status};

/// A fuzz target: panics when the decoder breaks a promise over these bytes, and tells whether it accepted them.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name, which is also that of its file in `fuzz_targets/` and its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", config),
    ("control_message", control_message),
    ("control_record", control_record),
    ("drop_line", drop_line),
    ("event", event),
    ("frame", frame),
    ("inner", inner),
    ("introduction", introduction),
    ("key", key),
    ("leases", leases),
    ("neighbour", neighbour),
    ("ports", ports),
    ("registered", registered),
    ("request", request),
    ("response", response),
    ("state", state),
    ("status", status),
    ("tunnel", tunnel),
    ("window", window),
];

/// Takes fixed-size pieces off the front of the fuzzer's bytes.
pub(crate) fn take<const N: usize>(data: &mut &[u8]) -> Option<[u8; N]> {
    let (piece, rest) = data.split_first_chunk::<N>()?;
    *data = rest;
    Some(*piece)
}
