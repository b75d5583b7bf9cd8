//! Why one end ends a session, or gives none.

/// A reason, in the message that ends a session or in the answer that refuses one. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The program stops.
    Stopping,
    /// The client is no longer registered.
    Removed,
    /// There was no traffic for a long time.
    Idle,
    /// The client's tunnel addresses have changed.
    Renumbered,
    /// Another controller with the client's key has the session.
    InUse,
    /// The message has an option that its reader must know, and does not.
    UnknownOption,
    /// A reason of a later version.
    Other(u8),
}

impl Reason {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Stopping => 1,
            Self::Removed => 2,
            Self::Idle => 3,
            Self::Renumbered => 4,
            Self::InUse => 5,
            Self::UnknownOption => 6,
            Self::Other(number) => number,
        }
    }

    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Stopping,
            2 => Self::Removed,
            3 => Self::Idle,
            4 => Self::Renumbered,
            5 => Self::InUse,
            6 => Self::UnknownOption,
            other => Self::Other(other),
        }
    }
}
