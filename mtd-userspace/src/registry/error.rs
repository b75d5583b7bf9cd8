//! Errors of reading or changing the registry.

use std::io;
use std::path::{Path, PathBuf};

use crate::http::{Reason, Refusal};
use crate::keys::KEY_CHARACTERS;
use crate::model::Fault;
use crate::remedy::{Doing, clause};

/// A failure of the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No client can have this name.
    #[error("{0}")]
    Name(Fault),

    /// A text, or 32 bytes, that are not a public key.
    #[error(
        "that is no public key; give the {KEY_CHARACTERS} characters that mtd pubkey prints at the client"
    )]
    Key,

    /// Another client, server or peer has the name.
    #[error("{name} is registered already; remove it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },

    /// A file that is left out has the name.
    #[error("{} is there already, and is not in use; correct or remove it, then run mtd reload", path.display())]
    FileTaken {
        /// The file.
        path: PathBuf,
    },

    /// Another client has the key.
    #[error("the key is registered already, for {name}; each client needs a key of its own")]
    KeyTaken {
        /// The client that has the key.
        name: String,
    },

    /// The key is that of this host or of a server in its configuration.
    #[error("that is the public key of a server; give that of the client")]
    KeyOfServer,

    /// There is no such client.
    #[error("no client {name} is registered; `mtd peers list` shows all")]
    Unknown {
        /// The name.
        name: String,
    },

    /// The client is in the configuration file.
    #[error(
        "{name} is registered by the configuration file; take its [[client]] out there, then run mtd reload"
    )]
    Configured {
        /// The name.
        name: String,
    },

    /// The number of clients is at its limit.
    #[error("there are {} clients already; remove some", super::MAX_CLIENTS)]
    Full,

    /// Others than its owner could register clients.
    #[error(
        "{0} can be written by users other than its owner (mode {mode:04o}): they could register clients; run: chmod go-w {0}",
        path.display()
    )]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// The file system refused something.
    #[error("cannot {action} {}: {cause}{}", path.display(), clause(Doing::File("clients_dir"), cause))]
    Io {
        /// The attempted operation.
        action: &'static str,
        /// The path that it was about.
        path: PathBuf,
        /// Not marked as a source, since the text contains it already.
        cause: io::Error,
    },
}

impl RegistryError {
    pub(super) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), cause }
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let reason = match &error {
            RegistryError::Name(_) | RegistryError::Key => Reason::Invalid,
            RegistryError::Unknown { .. } => Reason::NotFound,
            RegistryError::NameTaken { .. }
            | RegistryError::FileTaken { .. }
            | RegistryError::KeyTaken { .. }
            | RegistryError::KeyOfServer
            | RegistryError::Configured { .. }
            | RegistryError::Full => Reason::Conflict,
            RegistryError::Exposed { .. } | RegistryError::Io { .. } => Reason::Failed,
        };
        Self::new(reason, error.to_string())
    }
}

/// The refusal of a controller without registered clients.
pub fn not_a_server() -> Refusal {
    Refusal::new(Reason::Conflict, "this host does not listen for clients: its configuration has no [listen]")
}
