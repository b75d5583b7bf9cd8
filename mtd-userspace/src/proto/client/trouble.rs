//! Why there is no session.

use crate::proto::messages::Reason;
use crate::proto::rendezvous::OpenError;

/// Reasons why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The rendezvous network cannot be reached.
    NetworkUnreachable,
    /// The server has published nothing for this client.
    NothingPublished,
    /// The server's introduction cannot be read by this program.
    Unreadable(OpenError),
    /// The server takes handshakes of these versions only, the lowest and the highest.
    OtherVersion(u8, u8),
    /// Nobody answers at the introduction.
    NoAnswer,
    /// The server has ended the session.
    TornDown(Reason),
    /// The server knows this client, and gives it no session.
    Denied(Reason),
    /// The server insists on an option that this program does not know.
    UnknownOption(u16),
    /// Keys were agreed on, but nothing came through the session.
    NotOpened,
    /// The settings do not allow the tunnel addresses that the server has or assigns.
    AddressesRefused,
    /// The tunnel addresses that the server has or assigns lie in networks of this host.
    AddressesTaken,
}

impl Trouble {
    /// Stable name, for the documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkUnreachable => "network_unreachable",
            Self::NothingPublished => "nothing_published",
            Self::Unreadable(_) => "unreadable",
            Self::OtherVersion(..) => "other_version",
            Self::NoAnswer => "no_answer",
            Self::TornDown(_) => "torn_down",
            Self::Denied(_) => "denied",
            Self::UnknownOption(_) => "unknown_option",
            Self::NotOpened => "not_opened",
            Self::AddressesRefused => "addresses_refused",
            Self::AddressesTaken => "addresses_taken",
        }
    }
}
