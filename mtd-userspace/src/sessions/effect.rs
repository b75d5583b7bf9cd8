//! What the table of sessions asks of the rest of the controller.

use crate::keys::PublicKey;
use crate::model::ClientId;
use crate::proto::exchange::Publication;
use crate::proto::server::Admission;

/// Work outside of the table, which takes time.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Look for a server's introduction.
    Fetch {
        /// The server.
        client: ClientId,
        /// Start of the window, Unix time in s.
        window: u64,
    },
    /// Publish an introduction. The state file says already that it will be published.
    Publish(Publication),
    /// Stop publishing for a client that is no longer registered.
    Withdraw(PublicKey),
    /// Change the addresses and routes of the tunnel device.
    Device,
}

/// The consequences of a change of the registry for the sessions.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Clients to be registered, or given other addresses or slots.
    pub register: Vec<Admission>,
    /// Clients to be removed.
    pub remove: Vec<PublicKey>,
}
