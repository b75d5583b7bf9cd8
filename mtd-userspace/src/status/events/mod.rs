//! The lines of `GET /v1/events` and of `mtd events --json`.

use serde::{Deserialize, Serialize};

use super::{DroppedPacket, Guard};
use crate::events::{Event, PathChange, Peer, Record, Registration, RegistrationChange, SessionChange};

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// An event.
    Event(Box<EventDocument>),
    /// Events that this reader was too slow for.
    Lost {
        /// How many.
        lost: u64,
    },
}

/// An event: of the fields behind `kind`, it has the one of this name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventDocument {
    /// Position in the order of all events of this controller, from 1 on.
    pub number: u64,
    /// Unix time in ns.
    pub time_ns: u64,
    /// `drop`, `session`, `path`, `enforcement`, `registration`, `configuration`, `task` or `repair`.
    pub kind: String,
    /// A packet was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<DroppedPacket>,
    /// A session has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionEvent>,
    /// The path to a peer has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathEvent>,
    /// What is enforced has changed: what is enforced now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Guard>,
    /// Who may come has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationEvent>,
    /// The configuration was read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationEvent>,
    /// A task of the controller has ended that should go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskEvent>,
    /// The tunnel device was repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairEvent>,
}

/// See [`EventDocument::session`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEvent {
    /// `opened`, `rekeyed`, `silent`, `closed`, `refused`, `address-refused`, `key-in-use` or `other-version`.
    pub change: String,
    /// Name of the other end; absent when nobody knows who it was.
    pub name: Option<String>,
    /// Its public key, base64; absent for statically configured peers.
    pub public_key: Option<String>,
    /// Why handshakes were refused, or a tunnel address; only for `refused` and `address-refused`.
    pub reason: Option<String>,
    /// How many handshakes were refused; only for `refused`.
    pub count: Option<u64>,
}

/// See [`EventDocument::path`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEvent {
    /// Name of the peer, as far as it is known.
    pub name: Option<String>,
    /// Longest outer packet in bytes that the path carries; absent: it is tried again with what the interface carries.
    pub mtu: Option<u32>,
}

/// See [`EventDocument::registration`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationEvent {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// Name of the client.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
}

/// See [`EventDocument::configuration`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationEvent {
    /// Keys whose values in the file are not in force: they need a restart.
    pub not_in_force: Vec<String>,
}

/// See [`EventDocument::task`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Its name.
    pub name: String,
    /// Why it has ended.
    pub why: String,
    /// Whether it is started again; otherwise the controller stops.
    pub restarted: bool,
}

/// See [`EventDocument::repair`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairEvent {
    /// The name of the device.
    pub device: String,
    /// What was done, each in a few words.
    pub changes: Vec<String>,
}

impl EventDocument {
    /// The line for an event. `boot` is the boot time in ns.
    pub fn new(record: &Record, boot: u64) -> Self {
        let kind = record.event.kind().as_str().to_owned();
        let base = Self { number: record.number, time_ns: record.time_ns, kind, ..Self::default() };
        match &record.event {
            Event::Drop(dropped) => {
                let packet = DroppedPacket::new(&dropped.packet, dropped.reason, record.time_ns);
                Self { drop: Some(packet), ..base }
            }
            Event::Session(peer, change) => {
                Self { session: Some(SessionEvent::changed(peer, *change)), ..base }
            }
            Event::Refused { reason, count } => {
                Self { session: Some(SessionEvent::refused(reason, *count)), ..base }
            }
            Event::Path(peer, change) => {
                let name = peer.as_ref().and_then(|peer| peer.name.clone());
                Self { path: Some(PathEvent::new(name, *change)), ..base }
            }
            Event::Enforcement(guard) => Self { enforcement: Some(Guard::of(guard, boot)), ..base },
            Event::Registration(registration) => {
                Self { registration: Some(RegistrationEvent::new(registration)), ..base }
            }
            Event::Configuration(read) => {
                let not_in_force = read.not_in_force.clone();
                Self { configuration: Some(ConfigurationEvent { not_in_force }), ..base }
            }
            Event::Task(end) => {
                let (name, why) = (end.task.to_owned(), end.why.clone());
                Self { task: Some(TaskEvent { name, why, restarted: end.restarted }), ..base }
            }
            Event::Repair(repair) => {
                let (device, changes) = (repair.device.clone(), repair.changes.clone());
                Self { repair: Some(RepairEvent { device, changes }), ..base }
            }
        }
    }
}

impl SessionEvent {
    /// The session with a peer has changed.
    fn changed(peer: &Peer, what: SessionChange) -> Self {
        let change = match what {
            SessionChange::Opened => "opened",
            SessionChange::Rekeyed => "rekeyed",
            SessionChange::Silent => "silent",
            SessionChange::Closed => "closed",
            SessionChange::AddressRefused { .. } => "address-refused",
            SessionChange::KeyInUse => "key-in-use",
            SessionChange::OtherVersion => "other-version",
        };
        let reason = match what {
            SessionChange::AddressRefused { address, network } => {
                Some(format!("{address} lies in {network}"))
            }
            _ => None,
        };
        let public_key = peer.key.map(|key| key.to_string());
        Self { change: change.to_owned(), name: peer.name.clone(), public_key, reason, ..Self::default() }
    }

    /// Handshakes were refused.
    fn refused(reason: &str, count: u64) -> Self {
        Self {
            change: "refused".to_owned(),
            reason: Some(reason.to_owned()),
            count: Some(count),
            ..Self::default()
        }
    }
}

impl PathEvent {
    /// The path to a peer of this name has changed.
    fn new(name: Option<String>, change: PathChange) -> Self {
        let mtu = match change {
            PathChange::Narrow(mtu) => Some(mtu),
            PathChange::TriedAgain => None,
        };
        Self { name, mtu }
    }
}

impl RegistrationEvent {
    fn new(registration: &Registration) -> Self {
        let change = match registration.change {
            RegistrationChange::Added => "added",
            RegistrationChange::Removed => "removed",
            RegistrationChange::Changed => "changed",
        };
        Self {
            change: change.to_owned(),
            name: registration.name.clone(),
            public_key: registration.key.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
