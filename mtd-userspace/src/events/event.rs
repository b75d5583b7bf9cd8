//! What can happen.

use mtd_common::DropReason;
use mtd_common::event::DropEvent;

use crate::keys::PublicKey;
use crate::model::Guard;

/// Something that has happened.
#[derive(Clone, Debug)]
pub struct Record {
    /// Position in the order of all events of this controller, from 1 on.
    pub number: u64,
    /// Unix time in ns.
    pub time_ns: u64,
    /// What it was.
    pub event: Event,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet was dropped, or would have been.
    Drop(Dropped),
    /// A session with a peer has changed.
    Session(Peer, SessionChange),
    /// Handshakes were refused since the last event of this kind and reason.
    Refused {
        /// Why.
        reason: &'static str,
        /// How many.
        count: u64,
    },
    /// The path to a peer has changed; nothing is known of the peer where only its number is known.
    Path(Option<Peer>, PathChange),
    /// What is enforced has changed.
    Enforcement(Guard),
    /// Who may come has changed.
    Registration(Registration),
    /// The configuration was read again.
    Configuration(Configuration),
    /// A task has ended that should go on.
    Task(TaskEnd),
}

/// The kinds of events, by their words in documents.
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
}

impl Kind {
    /// The word of the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Session => "session",
            Self::Path => "path",
            Self::Enforcement => "enforcement",
            Self::Registration => "registration",
            Self::Configuration => "configuration",
            Self::Task => "task",
        }
    }
}

impl Event {
    /// Which kind it is of.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Drop(_) => Kind::Drop,
            Self::Session(..) | Self::Refused { .. } => Kind::Session,
            Self::Path(..) => Kind::Path,
            Self::Enforcement(_) => Kind::Enforcement,
            Self::Registration(_) => Kind::Registration,
            Self::Configuration(_) => Kind::Configuration,
            Self::Task(_) => Kind::Task,
        }
    }
}

/// A dropped packet, as the programs report it.
#[derive(Clone, Copy, Debug)]
pub struct Dropped {
    /// The record of the programs.
    pub packet: DropEvent,
    /// Why it was dropped.
    pub reason: DropReason,
}

/// The other end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the configuration, if it has one there.
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

/// What has become of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Valid packets arrive.
    Opened,
    /// No valid packet has come for some time. Only of statically configured peers.
    Silent,
    /// The two ends have agreed on other keys.
    Rekeyed,
    /// It has ended.
    Closed,
}

/// What has become of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// A router has said that it carries outer packets of at most so many bytes.
    Narrow(u32),
    /// That was long ago: it is tried again with packets as long as the interface carries.
    TriedAgain,
}

/// A client that may come, or may no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// What has changed.
    pub change: RegistrationChange,
}

/// What has changed about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationChange {
    /// It may come.
    Added,
    /// It may no longer come.
    Removed,
    /// It has another name or other fixed addresses.
    Changed,
}

/// The configuration, read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Keys whose values in the file are not in force: they need a restart.
    pub not_in_force: Vec<String>,
}

/// The end of a task that should go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Which task.
    pub task: &'static str,
    /// Why it has ended.
    pub why: String,
    /// Whether it is started again; otherwise the controller stops.
    pub restarted: bool,
}
