//! The registered clients: those whose public keys are in a folder, and those of the configuration.
//!
//! The folder has a file `NAME.pub` for each client, with its public key in text form. Other files, and those whose name
//! begins with a dot, are ignored. A file that cannot be used is left out with a [`Warning`], and does not affect other
//! clients.

mod error;
mod registrar;
pub mod section;
mod service;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files;
use crate::keys::{KEY_CHARACTERS, PublicKey, open_regular};
use crate::model::{Fault, MAX_SESSIONS, TunnelAddresses};
use crate::{schema, status};
use section::{Client, Listen};

pub use error::{RegistryError, not_a_server};
pub use service::{Audience, Farewell, NewPeer, PEERS_PATH, Registrations, metrics};

/// Suffix of the files with public keys.
pub const SUFFIX: &str = ".pub";

/// Longest file with a public key, in bytes: the key and some white space.
pub const MAX_FILE_BYTES: u64 = 256;

/// Largest number of clients of one server.
pub const MAX_CLIENTS: usize = MAX_SESSIONS as usize;

/// Permission bits that would let others than the owner register clients.
const WRITABLE: u32 = 0o022;

/// One registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique.
    pub name: String,
    /// Its public key, unique.
    pub public_key: PublicKey,
    /// Its fixed tunnel addresses.
    pub addresses: TunnelAddresses,
    /// Slot length of its sessions; `None`: what it wishes, within the server's bounds.
    pub slot: Option<Duration>,
    /// The file that registers it; `None`: it is in the configuration.
    pub file: Option<PathBuf>,
}

impl Entry {
    /// The entry for the control socket, with the fixed addresses and without a session.
    pub fn document(&self) -> status::Client {
        status::Client {
            name: self.name.clone(),
            public_key: self.public_key.to_string(),
            file: self.file.clone(),
            addresses: self.addresses.iter().collect(),
            session: None,
        }
    }
}

/// A file that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file, or the folder as a whole.
    pub path: PathBuf,
    /// What is wrong with it, and what to do about it.
    pub fault: Fault,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.fault)
    }
}

/// The changes of a [`Registry::reload`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New entries.
    pub added: Vec<Entry>,
    /// Entries that are gone now.
    pub removed: Vec<Entry>,
    /// Entries, as they are now, whose key was present with another name, slot or other fixed addresses.
    pub changed: Vec<Entry>,
    /// Files that are left out.
    pub warnings: Vec<Warning>,
}

impl Change {
    /// The changes for the control socket.
    pub fn document(&self) -> status::Reload {
        let names = |entries: &[Entry]| entries.iter().map(|entry| entry.name.clone()).collect();
        status::Reload {
            schema: status::SCHEMA,
            added: names(&self.added),
            removed: names(&self.removed),
            changed: names(&self.changed),
            warnings: self.warnings.iter().map(ToString::to_string).collect(),
            ..status::Reload::default()
        }
    }
}

/// The sources of the entries, and the names and keys that they must not collide with.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    dir: PathBuf,
    clients: Vec<Client>,
    names: HashSet<String>,
    keys: HashSet<PublicKey>,
}

impl Sources {
    /// The sources of a configuration whose paths have been resolved. `names` and `keys` are those of other ends than
    /// clients.
    pub fn new(listen: &Listen, names: HashSet<String>, keys: HashSet<PublicKey>) -> Self {
        Self { dir: listen.clients_dir.clone(), clients: listen.clients.clone(), names, keys }
    }

    /// Only a folder.
    pub fn of_folder(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ..Self::default() }
    }

    /// The same, with one more key that no client may have: the server's own.
    #[must_use]
    pub fn with_own_key(mut self, key: PublicKey) -> Self {
        self.keys.insert(key);
        self
    }
}

/// The registered clients. A look-up by key or name takes constant time.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    sources: Sources,
    by_key: HashMap<PublicKey, Entry>,
    by_name: HashMap<String, PublicKey>,
}

impl Registry {
    /// Reads the registry. A missing folder counts as empty, with a warning.
    ///
    /// # Errors
    /// When the folder cannot be read, or others than its owner can write to it.
    pub fn load(sources: Sources) -> Result<(Self, Vec<Warning>), RegistryError> {
        let mut registry = Self { sources, ..Self::default() };
        for client in registry.sources.clients.clone() {
            registry.insert(Entry {
                name: client.name,
                public_key: client.public_key,
                addresses: client.addresses,
                slot: client.slot,
                file: None,
            });
        }
        let mut warnings = Vec::new();
        for (name, path) in list(&registry.sources.dir, &mut warnings)? {
            if let Err(fault) = registry.take_file(&name, &path) {
                warnings.push(Warning { path, fault });
            }
        }
        Ok((registry, warnings))
    }

    /// Reads the registry again, from sources that may have changed.
    ///
    /// # Errors
    /// As [`Registry::load`]; then nothing is changed.
    pub fn reload(&mut self, sources: Sources) -> Result<Change, RegistryError> {
        let (new, warnings) = Self::load(sources)?;
        let old = std::mem::replace(self, new);
        let mut change = Change { warnings, ..Change::default() };
        for entry in self.by_key.values() {
            match old.by_key.get(&entry.public_key) {
                None => change.added.push(entry.clone()),
                Some(before)
                    if (&before.name, before.addresses, before.slot)
                        != (&entry.name, entry.addresses, entry.slot) =>
                {
                    change.changed.push(entry.clone());
                }
                Some(_) => {}
            }
        }
        let gone = old.by_key.into_values().filter(|entry| !self.by_key.contains_key(&entry.public_key));
        change.removed.extend(gone);
        for entries in [&mut change.added, &mut change.removed, &mut change.changed] {
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(change)
    }

    /// Registers a client: writes its file, mode 0644. A missing folder is made, mode 0755.
    ///
    /// # Errors
    /// When the name or key cannot be used, or the file cannot be written.
    pub fn add(&mut self, name: &str, key: PublicKey) -> Result<Entry, RegistryError> {
        check_name(name)?;
        if !key.is_usable() {
            return Err(RegistryError::Key);
        }
        if self.by_name.contains_key(name) || self.sources.names.contains(name) {
            return Err(RegistryError::NameTaken { name: name.to_owned() });
        }
        if let Some(other) = self.by_key.get(&key) {
            return Err(RegistryError::KeyTaken { name: other.name.clone() });
        }
        if self.sources.keys.contains(&key) {
            return Err(RegistryError::KeyOfServer);
        }
        if self.by_key.len() >= MAX_CLIENTS {
            return Err(RegistryError::Full);
        }
        let dir = &self.sources.dir;
        match DirBuilder::new().mode(0o755).recursive(true).create(dir) {
            Ok(()) => check_folder(dir)?,
            Err(error) => return Err(RegistryError::io("make the folder", dir, error)),
        }
        let file = dir.join(format!("{name}{SUFFIX}"));
        match files::create(&file, format!("{key}\n").as_bytes(), 0o644) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RegistryError::FileTaken { path: file });
            }
            Err(error) => return Err(RegistryError::io("write", &file, error)),
        }
        let addresses = TunnelAddresses::default();
        let (name, file) = (name.to_owned(), Some(file));
        let entry = Entry { name, public_key: key, addresses, slot: None, file };
        self.insert(entry.clone());
        Ok(entry)
    }

    /// Removes a client and its file.
    ///
    /// # Errors
    /// When there is no client of this name, it is in the configuration, or the file cannot be removed.
    pub fn remove(&mut self, name: &str) -> Result<Entry, RegistryError> {
        check_name(name)?;
        let unknown = || RegistryError::Unknown { name: name.to_owned() };
        let key = *self.by_name.get(name).ok_or_else(unknown)?;
        let entry = self.by_key.get(&key).ok_or_else(unknown)?.clone();
        let Some(file) = &entry.file else {
            return Err(RegistryError::Configured { name: name.to_owned() });
        };
        match files::remove(file) {
            // Somebody else removed it meanwhile; it only matters that it is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(|error| RegistryError::io("remove", file, error))?,
        }
        self.by_name.remove(name);
        self.by_key.remove(&key);
        Ok(entry)
    }

    /// The client with this public key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Entry> {
        self.by_key.get(key)
    }

    /// The client with this name.
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.by_key.get(self.by_name.get(name)?)
    }

    /// All clients, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_key.values()
    }

    /// Number of clients.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are no clients.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All clients for the control socket, by name, with their fixed addresses and without sessions.
    pub fn document(&self) -> status::Registered {
        let mut peers: Vec<_> = self.entries().map(Entry::document).collect();
        peers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        status::Registered { schema: status::SCHEMA, peers }
    }

    fn insert(&mut self, entry: Entry) {
        self.by_name.insert(entry.name.clone(), entry.public_key);
        self.by_key.insert(entry.public_key, entry);
    }

    /// Adds the client of a file, unless something is wrong with the file.
    fn take_file(&mut self, name: &str, path: &Path) -> Result<(), Fault> {
        check_name(name).map_err(|_| {
            Fault::new("is not named after a possible name", "rename it; see mtd peers --help")
        })?;
        if self.by_name.contains_key(name) || self.sources.names.contains(name) {
            return Err(Fault::new(
                format!("the configuration has {name} already"),
                "rename or remove the file",
            ));
        }
        let key = read_key(path)?;
        if let Some(other) = self.by_key.get(&key) {
            return Err(Fault::new(format!("holds the key of {}", other.name), "remove one of the two"));
        }
        if self.sources.keys.contains(&key) {
            return Err(Fault::new("holds the key of a server", "write the client's own public key"));
        }
        if self.by_key.len() >= MAX_CLIENTS {
            return Err(Fault::new(format!("there are {MAX_CLIENTS} clients already"), "remove some"));
        }
        let (name, addresses) = (name.to_owned(), TunnelAddresses::default());
        self.insert(Entry { name, public_key: key, addresses, slot: None, file: Some(path.to_owned()) });
        Ok(())
    }
}

/// Checks that a client can have this name: one that the configuration allows, and that makes no hidden file.
///
/// # Errors
/// [`RegistryError::Name`].
pub fn check_name(name: &str) -> Result<(), RegistryError> {
    schema::name(name).map_err(RegistryError::Name)?;
    if name.starts_with('.') {
        let fault =
            Fault::new(format!("{name} begins with a dot"), "begin it with a letter, a digit, _ or -");
        return Err(RegistryError::Name(fault));
    }
    Ok(())
}

/// Reads a public key from text.
///
/// # Errors
/// [`RegistryError::Key`] when it is not one; the error does not show the text.
pub fn parse_key(text: &str) -> Result<PublicKey, RegistryError> {
    text.parse().ok().filter(PublicKey::is_usable).ok_or(RegistryError::Key)
}

/// The files of the folder that should contain a key: the client's name and the path, by name.
fn list(dir: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<(String, PathBuf)>, RegistryError> {
    let unreadable = |error| RegistryError::io("read the folder", dir, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let remedy = "`mtd peers add` makes it";
            warnings.push(Warning { path: dir.to_owned(), fault: Fault::new("is not there", remedy) });
            return Ok(Vec::new());
        }
        entries => entries.map_err(unreadable)?,
    };
    check_folder(dir)?;
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let path = dir.join(&name);
        match name.to_string_lossy().strip_suffix(SUFFIX) {
            Some(stem) if !stem.starts_with('.') && !stem.is_empty() => files.push((stem.to_owned(), path)),
            _ => {}
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn check_folder(dir: &Path) -> Result<(), RegistryError> {
    let found = fs::metadata(dir).map_err(|error| RegistryError::io("read the folder", dir, error))?;
    if found.mode() & WRITABLE == 0 {
        return Ok(());
    }
    Err(RegistryError::Exposed { path: dir.to_owned(), mode: found.mode() & 0o7777 })
}

/// The public key in a file.
fn read_key(path: &Path) -> Result<PublicKey, Fault> {
    let unreadable =
        |error: io::Error| Fault::new(format!("cannot be read: {error}"), "make it readable, or remove it");
    let Some(file) = open_regular(path).map_err(unreadable)? else {
        return Err(Fault::new("is not a regular file", "remove it"));
    };
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & WRITABLE != 0 {
        let what = format!("can be written by users other than its owner (mode {mode:04o})");
        return Err(Fault::new(what, "run: chmod go-w on it"));
    }
    decode_key(&files::read_most(file, MAX_FILE_BYTES).map_err(unreadable)?)
}

/// Reads a public key from the content of a file. The fault does not show the content: it may be a private key.
///
/// # Errors
/// What is wrong with it, and what to do about it.
pub fn decode_key(bytes: &[u8]) -> Result<PublicKey, Fault> {
    let text = bytes.trim_ascii_end();
    let remedy = || format!("write the {KEY_CHARACTERS} characters that mtd pubkey prints at the client");
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Fault::new(format!("is longer than {MAX_FILE_BYTES} bytes"), remedy()));
    }
    let key = str::from_utf8(text).ok().and_then(|text| parse_key(text).ok());
    key.ok_or_else(|| Fault::new("holds no public key", remedy()))
}

#[cfg(test)]
mod tests;
