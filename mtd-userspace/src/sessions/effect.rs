//! What the table of sessions asks of the rest of the controller.

use crate::keys::PublicKey;
use crate::model::{ClientId, TunnelAddresses};
use crate::proto::exchange::Publication;

/// What has to be done outside of the table, and takes time.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Look for a server's introduction.
    Fetch {
        /// The server.
        client: ClientId,
        /// Start of the window, Unix time in s.
        window: u64,
    },
    /// Publish an introduction. That it will be is noted in the state file.
    Publish(Publication),
    /// Publish nothing any more for a client that is no longer registered.
    Withdraw(PublicKey),
    /// Give the tunnel device other addresses and routes.
    Device,
}

/// What a change of the registry means for the sessions.
#[derive(Debug, Default)]
pub struct Consequences {
    /// To be registered, or given other addresses.
    pub register: Vec<(PublicKey, TunnelAddresses)>,
    /// To be removed.
    pub remove: Vec<PublicKey>,
}
