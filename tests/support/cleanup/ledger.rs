//! What this process has made, written down for the next one in case it is killed.
//!
//! A ledger is a file that its process keeps locked. Whoever can lock it knows that the process is dead, and may take
//! away what it names.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Namespace, remains};

/// Where ledgers are.
const FOLDER: &str = "/run";
const PREFIX: &str = "mtdt-";
const SUFFIX: &str = ".ledger";

/// The ledger of this process. It stays on the disk when the process is killed, and goes when it is closed.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// A new one, empty.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open() -> Result<Self> {
        loop {
            let file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(FOLDER);
            let (file, path) = file.context("no ledger")?.keep()?;
            file.lock()?;
            // Before it was locked, another process may have taken it for one of the dead.
            if file.metadata()?.nlink() > 0 {
                return Ok(Self { file, path });
            }
        }
    }

    /// Adds a namespace. What has gone again stays in the ledger: nothing else ever has that name and that cookie.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, namespace: &Namespace) -> Result<()> {
        let line = format!("{} {}\n", namespace.name, namespace.cookie);
        self.file.write_all(line.as_bytes()).context("cannot write the ledger")
    }

    /// Removes it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn close(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// Takes away what processes that were killed have left. What cannot be removed is reported, and stays for the next
/// time.
///
/// # Errors
/// When ledgers cannot be looked for.
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

/// Takes away what a ledger names, and the ledger, if its process is dead.
fn settle(path: &Path) -> Result<()> {
    // Its process may end, and remove it, at any time.
    let Ok(file) = File::open(path) else { return Ok(()) };
    if file.try_lock().is_err() {
        return Ok(());
    }
    for line in io::read_to_string(&file)?.lines() {
        let (name, cookie) = line.split_once(' ').context("a line without a cookie")?;
        let namespace = Namespace { name: name.to_owned(), cookie: cookie.parse()? };
        // It may have gone, and a later process with the same number may have used the name again.
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
