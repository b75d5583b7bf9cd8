//! Names that belong to one attached interface: pins, control socket, lock, state.

use std::path::{Path, PathBuf};

use crate::device;

/// The folder of control sockets and locks.
pub const RUN_DIR: &str = "/run/mtd";

/// Suffix of the files that contain the link to a web view.
pub const WEB_SUFFIX: &str = ".web";

/// Suffix of the links to notes of enforcements that nobody has confirmed; the notes need not be there.
pub const NOTE_SUFFIX: &str = ".note";

/// One attached interface of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
}

impl Instance {
    /// The instance of an interface in this process's network namespace. Its name is the interface's, followed by the
    /// namespace's number unless that is the host's own, since bpffs and `/run` know no network namespaces.
    ///
    /// # Errors
    /// When the namespace cannot be determined.
    pub fn of(interface: &str) -> std::io::Result<Self> {
        Ok(match device::netns_tag()? {
            None => Self { name: interface.to_owned() },
            Some(tag) => Self { name: format!("{interface}@{tag}") },
        })
    }

    /// The instance's name, after which everything that belongs to it is named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of the pinned programs, links and maps. bpffs allows no dots, which names of VLAN interfaces have: they are
    /// replaced by colons, which no interface name has.
    pub fn pins(&self) -> PathBuf {
        Path::new(device::bpffs::DEFAULT_PATH).join("mtd").join(self.name.replace('.', ":"))
    }

    /// The control socket, unless the configuration names another one.
    pub fn socket(&self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}.sock", self.name))
    }

    /// The lock that a running controller holds.
    pub fn lock(&self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}.lock", self.name))
    }

    /// The link to the web view.
    pub fn web_link(&self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}{WEB_SUFFIX}", self.name))
    }

    /// The note of an enforcement that nobody has confirmed, inside the configured folder for state.
    pub fn unconfirmed(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(format!("{}.unconfirmed", self.name))
    }

    /// The link to that note while something is attached.
    pub fn note_link(&self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}{NOTE_SUFFIX}", self.name))
    }

    /// The state that outlives a clean stop, inside the configured folder for state.
    pub fn state(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(format!("{}.json", self.name))
    }

    /// The tunnel addresses of registered clients, inside the configured folder for state.
    pub fn leases(&self, state_dir: &Path) -> PathBuf {
        state_dir.join("leases").join(format!("{}.json", self.name))
    }

    /// Nodes of the DHT that have answered, inside the configured folder for state.
    pub fn nodes(&self, state_dir: &Path) -> PathBuf {
        state_dir.join("nodes").join(format!("{}.json", self.name))
    }
}
