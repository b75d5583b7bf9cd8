//! Control messages (requirement MT-42): what travels with next header 254 inside an introduction or a session.
//!
//! `type (1) ‖ version (1) ‖ reserved (2) ‖ body`. The version is that of this type of message. Integers are big-endian. See `docs/wire-format.md`.

mod handshake;
mod options;
mod reason;
#[cfg(test)]
mod tests;
mod text;

use mtd_common::control_record::TYPE_PATH_PROBE;

pub use self::handshake::{Denial, REQUEST_BYTES, RESPONSE_BYTES, Reply, Request, Response};
pub use self::options::{Capabilities, Instance, Token};
pub use self::reason::Reason;
pub use self::text::{MAX_TEXT, Text};
pub use crate::model::TunnelAddresses as Tunnel;

/// Version of the handshake, and of the messages that have changed with it.
pub const VERSION: u8 = 2;

/// Version of the messages that are as they were in the first version.
const FIRST: u8 = 1;

/// Bytes in front of a body.
const HEAD: usize = 4;

/// Bytes of the body of a message that ends a session, whatever it says.
const TERM_BYTES: usize = 4 + MAX_TEXT;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const TERM: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const PATH_PROBE_ANSWER: u8 = 9;
const OPENER: u8 = 5;
const PROBE_REQUEST: u8 = 6;
const PROBE: u8 = 7;
const TRANSLATED: u8 = 10;

/// Flag of an opener: answer where you hear this end.
const WHERE_HEARD: u8 = 1;
/// Flag of an opener: this end has heard you in this slot.
const HEARD: u8 = 2;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Configuration request: the first message of a handshake.
    Request(&'a [u8]),
    /// Configuration response: the second message of a handshake.
    Response(&'a [u8]),
    /// The sender has ended the session.
    Term {
        /// Why.
        reason: Reason,
        /// The same in words, for people.
        text: Text,
    },
    /// Are you there, and what time is it?
    Ping {
        /// The sender's own time, to be sent back.
        stamp: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The stamp of the ping.
        stamp: u64,
        /// Session time in ns at which it was answered.
        time: u64,
    },
    /// The server sees the client at other addresses than its own: a router translates them.
    Translated,
    /// Opens the slot that it is sent in, on the sender's side.
    Opener {
        /// The sender is to be answered only in slots in which it was heard.
        where_heard: bool,
        /// The sender has heard the receiver in this slot.
        heard: bool,
    },
    /// Send probes: in the next slot, and where this end can be answered.
    ProbeRequest {
        /// The sender's own time, to be sent back.
        stamp: u64,
    },
    /// The answer to a request for probes.
    Probe {
        /// The stamp of the request.
        stamp: u64,
    },
    /// Does the path carry a packet as long as this one? Padding follows.
    PathProbe {
        /// To be sent back.
        id: u64,
    },
    /// The answer to a probe of the path.
    PathProbeAnswer {
        /// That of the probe.
        id: u64,
    },
}

impl<'a> Control<'a> {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let head = |kind| vec![kind, version(kind), 0, 0];
        match self {
            Self::Request(body) => [&head(REQUEST), *body].concat(),
            Self::Response(body) => [&head(RESPONSE), *body].concat(),
            Self::Term { reason, text } => {
                let text = text.as_str().as_bytes();
                let mut message = head(TERM);
                message.extend([reason.number(), text.len() as u8, 0, 0]);
                message.extend(text);
                message.resize(HEAD + TERM_BYTES, 0);
                message
            }
            Self::Ping { stamp } => [head(PING), stamp.to_be_bytes().to_vec()].concat(),
            Self::PathProbe { id } => [head(TYPE_PATH_PROBE), id.to_be_bytes().to_vec()].concat(),
            Self::PathProbeAnswer { id } => [head(PATH_PROBE_ANSWER), id.to_be_bytes().to_vec()].concat(),
            Self::Pong { stamp, time } => {
                [head(PONG), stamp.to_be_bytes().to_vec(), time.to_be_bytes().to_vec()].concat()
            }
            Self::Translated => head(TRANSLATED),
            Self::Opener { where_heard, heard } => {
                let flags = [(*where_heard, WHERE_HEARD), (*heard, HEARD)];
                let flags = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
                // As long as a ping and a probe.
                [head(OPENER), vec![flags, 0, 0, 0, 0, 0, 0, 0]].concat()
            }
            Self::ProbeRequest { stamp } => [head(PROBE_REQUEST), stamp.to_be_bytes().to_vec()].concat(),
            Self::Probe { stamp } => [head(PROBE), stamp.to_be_bytes().to_vec()].concat(),
        }
    }

    /// Reads a message. `None`: not one of this version.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        if head[1..] != [version(head[0]), 0, 0] {
            return None;
        }
        let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
        match (head[0], body.len()) {
            (REQUEST, _) => Some(Self::Request(body)),
            (RESPONSE, _) => Some(Self::Response(body)),
            (TERM, TERM_BYTES) => term(body),
            (PING, 8) => Some(Self::Ping { stamp: number(0)? }),
            (PONG, 16) => Some(Self::Pong { stamp: number(0)?, time: number(8)? }),
            (TRANSLATED, 0) => Some(Self::Translated),
            // Other flags are of later versions.
            (OPENER, 8) => {
                Some(Self::Opener { where_heard: body[0] & WHERE_HEARD != 0, heard: body[0] & HEARD != 0 })
            }
            (PROBE_REQUEST, 8) => Some(Self::ProbeRequest { stamp: number(0)? }),
            (PROBE, 8) => Some(Self::Probe { stamp: number(0)? }),
            (TYPE_PATH_PROBE, _) => Some(Self::PathProbe { id: number(0)? }),
            (PATH_PROBE_ANSWER, 8) => Some(Self::PathProbeAnswer { id: number(0)? }),
            _ => None,
        }
    }

    /// A probe of `length` bytes.
    pub fn path_probe(id: u64, length: usize) -> Vec<u8> {
        let mut message = Self::PathProbe { id }.encode();
        message.resize(length.max(message.len()), 0);
        message
    }
}

/// The version that a message of this type has.
const fn version(kind: u8) -> u8 {
    match kind {
        REQUEST | RESPONSE | TERM => VERSION,
        _ => FIRST,
    }
}

/// Reads the body of a message that ends a session.
fn term(body: &[u8]) -> Option<Control<'static>> {
    let (&[reason, length, 0, 0], text) = body.split_first_chunk::<4>()? else { return None };
    let (text, padding) = text.split_at_checked(length.into())?;
    let text = Text::decode(text)?;
    let sound = padding.iter().all(|byte| *byte == 0);
    sound.then_some(Control::Term { reason: Reason::from_number(reason), text })
}

/// The version and the body of a message, if it is the first one of a handshake of any version: they all begin alike.
pub fn request_of_any_version(message: &[u8]) -> Option<(u8, &[u8])> {
    match message.split_first_chunk::<HEAD>()? {
        (&[REQUEST, version, 0, 0], body) => Some((version, body)),
        _ => None,
    }
}
