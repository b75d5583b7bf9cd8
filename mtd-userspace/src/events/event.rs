//! The kinds of events.

use std::net::IpAddr;

use ipnet::IpNet;
use mtd_common::DropReason;
use mtd_common::event::DropEvent;

use crate::keys::PublicKey;
use crate::model::Guard;

/// An event with its time and number.
#[derive(Clone, Debug)]
pub struct Record {
    /// Position in the order of all events of this controller, from 1 on.
    pub number: u64,
    /// Unix time in ns.
    pub time_ns: u64,
    /// The event.
    pub event: Event,
}

/// An event.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet was dropped, or would have been.
    Drop(Dropped),
    /// A session with a peer has changed.
    Session(Peer, SessionChange),
    /// Handshakes were refused since the last event of this kind and reason.
    Refused {
        /// The reason.
        reason: &'static str,
        /// The number of refusals.
        count: u64,
    },
    /// The path to a peer has changed; the peer has no name or key if only its number is known.
    Path(Option<Peer>, PathChange),
    /// The enforcement has changed.
    Enforcement(Guard),
    /// The registered clients have changed.
    Registration(Registration),
    /// The configuration was read again.
    Configuration(Configuration),
    /// A task has ended before the shutdown.
    Task(TaskEnd),
    /// The tunnel device was repaired.
    Repair(Repair),
}

/// The kinds of events, with their names in documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Event::Drop`].
    Drop,
    /// [`Event::Session`] and [`Event::Refused`].
    Session,
    /// [`Event::Path`].
    Path,
    /// [`Event::Enforcement`].
    Enforcement,
    /// [`Event::Registration`].
    Registration,
    /// [`Event::Configuration`].
    Configuration,
    /// [`Event::Task`].
    Task,
    /// [`Event::Repair`].
    Repair,
}

impl Kind {
    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Session => "session",
            Self::Path => "path",
            Self::Enforcement => "enforcement",
            Self::Registration => "registration",
            Self::Configuration => "configuration",
            Self::Task => "task",
            Self::Repair => "repair",
        }
    }
}

impl Event {
    /// The kind of this event.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Drop(_) => Kind::Drop,
            Self::Session(..) | Self::Refused { .. } => Kind::Session,
            Self::Path(..) => Kind::Path,
            Self::Enforcement(_) => Kind::Enforcement,
            Self::Registration(_) => Kind::Registration,
            Self::Configuration(_) => Kind::Configuration,
            Self::Task(_) => Kind::Task,
            Self::Repair(_) => Kind::Repair,
        }
    }
}

/// A dropped packet, as reported by the programs.
#[derive(Clone, Copy, Debug)]
pub struct Dropped {
    /// The programs' record.
    pub packet: DropEvent,
    /// The reason.
    pub reason: DropReason,
}

/// The other end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the configuration, if any.
    pub name: Option<String>,
    /// Its public key; a statically configured peer has none.
    pub key: Option<PublicKey>,
}

impl Peer {
    /// A statically configured peer.
    pub fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), key: None }
    }
}

/// A change of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Valid packets arrive.
    Opened,
    /// No valid packet has come for some time. Only of statically configured peers.
    Silent,
    /// The two ends have agreed on new keys.
    Rekeyed,
    /// It has ended.
    Closed,
    /// The server has or assigns this tunnel address, which is not used, since it lies in this network of the host.
    AddressRefused {
        /// The address.
        address: IpAddr,
        /// The network.
        network: IpNet,
    },
    /// Two hosts use one key: this one and another, or two clients of this server.
    KeyInUse,
    /// The two ends speak different versions of the handshake.
    OtherVersion,
}

/// A change of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// It carries outer packets of at most this many bytes, as a router has reported or probes have found.
    Narrow(u32),
    /// Packets as long as the interface carries are sent again: probes get through, or a router's report is old.
    TriedAgain,
}

/// A client that was registered, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// The kind of change.
    pub change: RegistrationChange,
}

/// A change of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationChange {
    /// It was registered.
    Added,
    /// It was removed.
    Removed,
    /// Its name or its fixed addresses have changed.
    Changed,
}

/// The configuration after a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Keys whose values in the file are not in force: they need a restart.
    pub not_in_force: Vec<String>,
}

/// The end of a task before the shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// The name of the task.
    pub task: &'static str,
    /// The reason for its end.
    pub why: String,
    /// Whether it is restarted; otherwise the controller stops.
    pub restarted: bool,
}

/// A repair of the tunnel device, which somebody else had changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The name of the device.
    pub device: String,
    /// What was done, each in a few words.
    pub changes: Vec<String>,
}
