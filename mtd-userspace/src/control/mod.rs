//! The control socket between a running controller and the command line: HTTP over a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`](crate::status::Status) as JSON |
//! | `GET /metrics` | [`metrics`](crate::metrics), in the text format of Prometheus |
//! | `GET /v1/drops/events` | an endless `application/x-ndjson` body, one [`DropLine`](crate::status::DropLine) a line |
//! | `GET /v1/events` | the events that the bus keeps, or with `?follow=true` those from now on: one [`EventLine`](crate::status::EventLine) a line |
//! | `GET /v1/peers` | [`Registered`](crate::status::Registered): the registered clients |
//! | `POST /v1/peers` with [`NewPeer`](crate::registry::NewPeer) | registers a client; [`Client`](crate::status::Client) |
//! | `DELETE /v1/peers/{name}`, with [`Farewell`](crate::registry::Farewell) or without | removes a registered client, ends its session; [`Client`](crate::status::Client) |
//! | `GET /v1/introductions/{name}` | [`IntroductionDocument`](crate::rendezvous::IntroductionDocument): introductions for a client |
//! | `POST /v1/confirm` | keeps what is enforced; [`Guard`](crate::status::Guard) |
//! | `POST /v1/policy` with [`NewPolicy`] | changes what is enforced; [`Guard`](crate::status::Guard) |
//! | `POST /v1/reload` | reads the registry again; [`Reload`](crate::status::Reload) |
//!
//! Everything else, and every failure, is answered by `{"error": "…"}` with a status of 4xx or 5xx. The mode of the socket
//! lets only its owner connect, which is root.

pub mod client;
mod enforcement;
mod error;
mod events;
pub mod server;

#[cfg(test)]
pub(crate) mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use enforcement::NewPolicy;
pub use error::ControlError;

pub use crate::registry::{Farewell, NewPeer, PEERS_PATH};
pub use crate::status::DropLine;

use crate::device;
use crate::instance::{Instance, RUN_DIR};

/// Path of the status document.
pub const STATUS_PATH: &str = "/v1/status";

/// Path of the stream of dropped packets.
pub const DROPS_PATH: &str = "/v1/drops/events";

/// Path of all events.
pub const EVENTS_PATH: &str = "/v1/events";

/// Path that makes the controller read the registry again.
pub const RELOAD_PATH: &str = "/v1/reload";

/// Path that confirms what is enforced.
pub const CONFIRM_PATH: &str = "/v1/confirm";

/// Path that changes what is enforced.
pub const POLICY_PATH: &str = "/v1/policy";

/// Suffix of the names of control sockets.
const SOCKET_SUFFIX: &str = ".sock";

/// A control socket and its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// Underlay interface.
    pub interface: String,
    /// Path of the socket, which need not exist.
    pub path: PathBuf,
}

impl ControlSocket {
    /// The socket of the `wanted` interface in `dir`, whether or not it exists.
    ///
    /// # Errors
    /// When the network namespace cannot be determined.
    pub fn of(dir: &Path, wanted: &str) -> Result<Self, ControlError> {
        let instance = Instance::of(wanted).map_err(ControlError::Namespace)?;
        let path = dir.join(format!("{}{SOCKET_SUFFIX}", instance.name()));
        Ok(Self { interface: wanted.to_owned(), path })
    }
}

/// The control sockets in `dir` ([`RUN_DIR`]): that of the `wanted` interface, whether or not it exists, or, if none is
/// wanted, all that belong to this process's network namespace, sorted by interface.
///
/// # Errors
/// When the network namespace cannot be determined or `dir` cannot be read. A missing `dir` is no error: then there are no
/// sockets.
pub fn find_sockets(dir: &Path, wanted: Option<&str>) -> Result<Vec<ControlSocket>, ControlError> {
    match wanted {
        Some(interface) => Ok(vec![ControlSocket::of(dir, interface)?]),
        None => own_interfaces(dir, SOCKET_SUFFIX)?
            .iter()
            .map(|interface| ControlSocket::of(dir, interface))
            .collect(),
    }
}

/// The interfaces of this process's network namespace for which `dir` has an entry named after their [`Instance`],
/// followed by `suffix`; sorted.
///
/// # Errors
/// As [`find_sockets`].
pub fn own_interfaces(dir: &Path, suffix: &str) -> Result<Vec<String>, ControlError> {
    let tag = device::netns_tag().map_err(ControlError::Namespace)?;
    let unreadable = |source| ControlError::io("cannot read the folder", dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut interfaces = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let instance = name.to_str().and_then(|name| name.strip_suffix(suffix));
        interfaces.extend(instance.and_then(|instance| own_interface(instance, tag)));
    }
    interfaces.sort();
    Ok(interfaces)
}

/// The interface of an instance's name, unless the instance belongs to another network namespace than the one with
/// this `tag`.
fn own_interface(instance: &str, tag: Option<u64>) -> Option<String> {
    let (interface, found) = match instance.rsplit_once('@') {
        Some((interface, digits)) => (interface, Some(digits.parse().ok()?)),
        None => (instance, None),
    };
    (found == tag && !interface.is_empty()).then(|| interface.to_owned())
}

/// How messages name the owner of this socket: by the interface if the socket is in its usual place.
fn owner(socket: &Path) -> String {
    let instance =
        socket.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_suffix(SOCKET_SUFFIX));
    match instance {
        Some(instance) if socket.parent() == Some(Path::new(RUN_DIR)) => {
            instance.rsplit_once('@').map_or(instance, |(interface, _)| interface).to_owned()
        }
        _ => socket.display().to_string(),
    }
}
