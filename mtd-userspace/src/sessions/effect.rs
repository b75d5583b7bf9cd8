//! What the table of sessions asks of the rest of the controller.

use crate::keys::PublicKey;
use crate::model::{ClientId, TunnelAddresses};
use crate::proto::exchange::Publication;
use crate::proto::messages::Text;
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

/// A client that may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredClient {
    /// Its public key.
    pub public_key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its tunnel addresses.
    pub addresses: TunnelAddresses,
    /// Slot length of its sessions in ns; `None`: what it wishes, within the server's bounds.
    pub period: Option<u64>,
}

impl From<&RegisteredClient> for Admission {
    fn from(client: &RegisteredClient) -> Self {
        Self { client: client.public_key, tunnel: client.addresses, period: client.period }
    }
}

/// The consequences of a change of the registry for the sessions.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Clients to be registered, or given other names, addresses or slots.
    pub register: Vec<RegisteredClient>,
    /// Clients to be removed.
    pub remove: Vec<PublicKey>,
    /// What they are told.
    pub tell: Text,
}
