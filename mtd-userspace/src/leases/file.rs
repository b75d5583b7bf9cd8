//! The file that keeps leases when the controller ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Lease, Leases};
use crate::files;
use crate::keys::PublicKey;
use crate::model::{Pool, TunnelAddresses};
use crate::remedy::{Doing, clause};

/// Version of the file.
const VERSION: u32 = 1;

/// Longest file that is read, in bytes: enough for a million clients.
const MAX_BYTES: u64 = 256 << 20;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {doing} the file of tunnel addresses {}: {cause}{}", path.display(), clause(Doing::File("state_dir"), cause)
)]
pub struct LeaseFileError {
    doing: &'static str,
    path: PathBuf,
    /// Not marked as a source, since the text contains it already.
    cause: io::Error,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// By public key, base64.
    leases: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    v6: Option<Ipv6Addr>,
    v4: Option<Ipv4Addr>,
    /// Unix time in s since which the client is not registered any more.
    released: Option<u64>,
}

impl Leases {
    /// Reads the file; the other parameters are those of [`Leases::new`]. A missing file counts as empty; one that cannot be
    /// parsed is `Err` inside `Ok`. Leases that the pool does not allow any more are left out.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(
        path: &Path,
        pool: Pool,
        reserved: impl IntoIterator<Item = IpNet>,
    ) -> Result<Result<Self, String>, LeaseFileError> {
        let failed = |cause| LeaseFileError { doing: "read", path: path.to_owned(), cause };
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Ok(Self::new(pool, reserved)));
            }
            Err(error) => return Err(failed(error)),
            Ok(meta) if meta.len() > MAX_BYTES => return Ok(Err(format!("{} bytes long", meta.len()))),
            Ok(_) => fs::read(path).map_err(failed)?,
        };
        Ok(Self::decode(&text, pool, reserved))
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// The reason why it is not a file of leases.
    pub fn decode(
        text: &[u8],
        pool: Pool,
        reserved: impl IntoIterator<Item = IpNet>,
    ) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!("version {}, not {VERSION}", document.version));
        }
        let mut leases = Self::new(pool, reserved);
        let entries = document.leases.len();
        for (key, Entry { v6, v4, released }) in document.leases {
            let key: PublicKey = key.parse().map_err(|_| "a key that is none".to_owned())?;
            let addresses = TunnelAddresses { v6, v4 };
            leases.restore(key, Lease { addresses, released });
        }
        leases.changed = leases.leased.len() != entries;
        Ok(leases)
    }

    /// The content of the file.
    ///
    /// # Errors
    /// None that are known: JSON can represent everything in it.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let entry = |lease: &Lease| Entry {
            v6: lease.addresses.v6,
            v4: lease.addresses.v4,
            released: lease.released,
        };
        let leases = self.leased.iter().map(|(key, lease)| (key.to_string(), entry(lease))).collect();
        serde_json::to_vec(&Document { version: VERSION, leases })
    }

    /// Writes the file, whole or not at all, if anything has changed.
    ///
    /// # Errors
    /// When the folder cannot be made or the file not be written; the next call tries again.
    pub fn write(&mut self, path: &Path) -> Result<(), LeaseFileError> {
        if !self.changed {
            return Ok(());
        }
        let failed = |cause| LeaseFileError { doing: "write", path: path.to_owned(), cause };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = self.encode().map_err(|error| failed(error.into()))?;
        files::replace(path, &text, 0o600).map_err(failed)?;
        self.changed = false;
        Ok(())
    }
}
