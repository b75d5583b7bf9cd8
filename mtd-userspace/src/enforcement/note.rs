//! The note that an enforcement has not been confirmed. It is on the disk before anything is enforced, so that it outlives
//! whatever may happen to the controller, the maps and the host: a start that finds it does not lock the operator out again.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::files;
use crate::instance::Instance;
use crate::remedy::{Doing, clause};

/// The note's folder is this one of the configuration.
const STATE: Doing = Doing::File("state_dir");

/// The note of an instance, written or not.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    file: PathBuf,
    /// Leads to the file, for commands that do not know the configured folder for state.
    link: PathBuf,
}

impl Note {
    /// The note of an instance whose state is in this folder.
    pub(crate) fn of(instance: &Instance, state_dir: &Path) -> Self {
        Self { file: instance.unconfirmed(state_dir), link: instance.note_link() }
    }

    /// The note that the link of an attached instance leads to, written or not; `None`: an earlier version attached it.
    pub(crate) fn linked(instance: &Instance) -> Option<Self> {
        let link = instance.note_link();
        Some(Self { file: fs::read_link(&link).ok()?, link })
    }

    /// Whether an enforcement waits for a confirmation, or has never got one.
    pub(crate) fn is_there(&self) -> bool {
        // What cannot be read counts as a note: nothing is enforced by mistake.
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        !matches!(self.file.symlink_metadata(), Err(error) if absent.contains(&error.kind()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When that cannot be done: then nothing may be enforced that is to be confirmed.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let text = "An enforcement was begun that nobody has confirmed since: see `mtd confirm --help`.\n";
        let written = (|| {
            if let Some(folder) = self.file.parent() {
                fs::create_dir_all(folder)?;
            }
            match files::replace(&self.file, text.as_bytes(), 0o600) {
                // An empty file needs no room for its content on most disks, and says the same by being there.
                Err(error) if is_full(&error) => files::replace(&self.file, b"", 0o600),
                written => written,
            }
        })();
        written.map_err(|error| {
            let way = clause(STATE, &error);
            anyhow::anyhow!(
                "cannot note in {} that this enforcement is to be confirmed, without which a restart would lock out whom it \
                 locks out for good: {error}{way}",
                self.file.display()
            )
        })
    }

    /// Makes the link to it, written or not: something is attached.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn link(&self) -> anyhow::Result<()> {
        let file = std::path::absolute(&self.file)?;
        if fs::read_link(&self.link).is_ok_and(|target| target == file) {
            return Ok(());
        }
        remove(&self.link)?;
        symlink(file, &self.link).with_context(|| self.link.display().to_string())
    }

    /// Removes it: the enforcement is confirmed, or an operator has decided otherwise.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        if self.is_there() {
            let file = self.file.display();
            files::remove(&self.file).map_err(|error| {
                let way = clause(STATE, &error);
                anyhow::anyhow!(
                    "the next start enforces nothing until somebody confirms once more, since {file} cannot be removed: \
                     {error}{way}"
                )
            })?;
        }
        Ok(())
    }
}

/// Removes the link to the note of an instance that is no longer attached; the note stays. Returns whether there was one.
///
/// # Errors
/// Those of the file system.
pub(crate) fn unlink_note(instance: &Instance) -> anyhow::Result<bool> {
    remove(&instance.note_link())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn remove(link: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).with_context(|| link.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_until_it_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note { file: folder.path().join("state/a"), link: folder.path().join("link") };
        assert!(!note.is_there());
        note.clear().unwrap();
        for _ in 0..2 {
            note.write().unwrap();
            note.link().unwrap();
            assert!(note.is_there() && fs::read_link(&note.link).unwrap() == note.file);
        }
        note.clear().unwrap();
        assert!(!note.is_there());
        fs::write(folder.path().join("file"), "").unwrap();
        let nowhere = Note { file: folder.path().join("file/a"), link: folder.path().join("link") };
        assert!(nowhere.write().unwrap_err().to_string().contains("cannot note in"));
    }
}
