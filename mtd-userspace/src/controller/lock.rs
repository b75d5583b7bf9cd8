//! The lock of an instance.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use tracing::warn;

use crate::instance::{Instance, RUN_DIR};
use crate::remedy::{Doing, clause};

/// Only the process that holds this may change the instance. The lock file contains the process id, and is removed on drop.
pub(super) struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// When another process has it, or the file system refuses.
    pub(super) fn take(instance: &Instance) -> anyhow::Result<Self> {
        match Self::try_take(instance)? {
            Ok(lock) => Ok(lock),
            Err(_) => bail!("a controller already runs for {}; stop it first", instance.name()),
        }
    }

    /// Takes the lock, or tells which process has it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn try_take(instance: &Instance) -> anyhow::Result<Result<Self, Holder>> {
        fs::create_dir_all(RUN_DIR).map_err(|error| no_lock("create", Path::new(RUN_DIR), &error))?;
        let path = instance.lock();
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                // Who can open it can lock it.
                .mode(0o600)
                .open(&path)
                .map_err(|error| no_lock("open", &path, &error))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(Err(Holder::read(&path))),
                Err((_, error)) => return Err(error).with_context(|| path.display().to_string()),
            };
            // Its last holder may have removed it between our opening and locking it: then it excludes nobody.
            let same = |there: fs::Metadata, ours: fs::Metadata| there.ino() == ours.ino();
            if fs::metadata(&path).ok().zip(file.metadata().ok()).is_some_and(|(a, b)| same(a, b)) {
                file.set_len(0)
                    .and_then(|()| writeln!(&*file, "{}", std::process::id()))
                    .with_context(|| path.display().to_string())?;
                return Ok(Ok(Self { path, _file: file }));
            }
        }
    }
}

/// The error when a file that a lock needs cannot be had.
fn no_lock(doing: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let way = clause(Doing::File(""), error);
    anyhow::anyhow!("cannot {doing} {}: {error}{way}", path.display())
}

/// The process that holds a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    /// Its process id; `None` if it has not been written yet, or was locked by a version that does not write it.
    pub(super) pid: Option<Pid>,
}

impl Holder {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        Self { pid: text.trim().parse().ok().filter(|&pid| pid > 1).map(Pid::from_raw) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("{}: {error}", self.path.display());
        }
    }
}
