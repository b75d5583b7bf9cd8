//! A list of what this process has made, so that the next process can clean up if this one is killed.
//!
//! A ledger is a file that its process keeps locked. If another process can lock it, the owner is dead, and everything that
//! the ledger names may be removed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Namespace, remains};

/// Folder of the ledgers.
const FOLDER: &str = "/run";
const PREFIX: &str = "mtdt-";
const SUFFIX: &str = ".ledger";

/// The ledger of this process. The file remains if the process is killed, and is removed by [`Ledger::close`].
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// Makes a new, empty ledger.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open() -> Result<Self> {
        loop {
            let file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(FOLDER);
            let (file, path) = file.context("no ledger")?.keep()?;
            file.lock()?;
            // Before it was locked, another process may have taken it for that of a dead process, and removed it.
            if file.metadata()?.nlink() > 0 {
                return Ok(Self { file, path });
            }
        }
    }

    /// Adds a namespace. A namespace stays in the ledger after it was removed, which does no harm: no other namespace has
    /// the same name and cookie.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, namespace: &Namespace) -> Result<()> {
        let line = format!("{} {}\n", namespace.name, namespace.cookie);
        self.file.write_all(line.as_bytes()).context("cannot write the ledger")
    }

    /// Removes the ledger.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn close(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// Removes what killed processes have left. Whatever cannot be removed is reported, and stays in the ledger for the next
/// attempt.
///
/// # Errors
/// When the folder of the ledgers cannot be read.
pub(crate) fn sweep() -> Result<()> {
    for entry in fs::read_dir(FOLDER)? {
        let path = entry?.path();
        let is_ledger = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_ledger && let Err(error) = settle(&path) {
            eprintln!("could not clean up after an earlier run ({}): {error:#}", path.display());
        }
    }
    Ok(())
}

/// Removes everything that a ledger names, and the ledger itself, if its process is dead.
fn settle(path: &Path) -> Result<()> {
    // The ledger may be gone: its process may end, and remove it, at any time.
    let Ok(file) = File::open(path) else { return Ok(()) };
    if file.try_lock().is_err() {
        return Ok(());
    }
    for line in io::read_to_string(&file)?.lines() {
        let (name, cookie) = line.split_once(' ').context("a line without a cookie")?;
        let namespace = Namespace { name: name.to_owned(), cookie: cookie.parse()? };
        // The namespace may be gone, and a later process with the same process id may have used the name again.
        if namespace.exists() {
            namespace.remove()?;
        }
        remains::remove(namespace.cookie)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
