//! Why a client has no session.

use crate::proto::messages::Reason;

/// Reasons why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The rendezvous network cannot be reached.
    NetworkUnreachable,
    /// The server has published nothing for this client.
    NothingPublished,
    /// Nobody answers at the introduction.
    NoAnswer,
    /// The server has ended the session.
    TornDown(Reason),
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
            Self::NoAnswer => "no_answer",
            Self::TornDown(_) => "torn_down",
            Self::NotOpened => "not_opened",
            Self::AddressesRefused => "addresses_refused",
            Self::AddressesTaken => "addresses_taken",
        }
    }
}
