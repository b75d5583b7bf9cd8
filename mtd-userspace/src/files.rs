//! Reading files of a limited length, and writing files so that they are complete or absent, even after a loss of power, and if need be on a full disk.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};

/// Room is kept in steps of this many bytes: what file systems give at a time.
const STEP: u64 = 4096;

/// Writes a file with this mode, and replaces an existing one. Its folder must exist.
///
/// # Errors
/// Those of the file system; an existing file then stays as it was.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(path)?;
    write(&draft, content, mode)
        .and_then(|()| fs::rename(&draft, path))
        .map_err(|error| discard(&draft, error))?;
    sync_folder(path)
}

/// Does the same as [`replace`] with a text, and keeps room for the next time: a spare file of the same length lies beside it,
/// and both change places. So a full disk does not keep it from being written again, as long as it has not grown by more than
/// `growth` bytes. It is filled up with line breaks.
///
/// # Errors
/// As [`replace`].
pub fn replace_in_room(path: &Path, text: &[u8], growth: u64, mode: u32) -> io::Result<()> {
    let spare = spare(path)?;
    match write_spare(&spare, text, growth, mode).and_then(|()| exchange(&spare, path)) {
        // A file system that cannot do one of the two.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)) =>
        {
            return replace(path, text, mode);
        }
        written => written?,
    }
    sync_folder(path)?;
    // Only the first time there is none. If there is no room, that is no failure yet.
    if !spare.exists() {
        let _ = write_spare(&spare, text, growth, mode);
    }
    Ok(())
}

/// Writes into the blocks that the spare file has, or gets it more if that is possible.
fn write_spare(spare: &Path, text: &[u8], growth: u64, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(spare)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let (least, present) = (text.len() as u64, file.metadata()?.len());
    let wanted = (least + growth).next_multiple_of(STEP);
    let length = match allocate(&file, wanted) {
        Ok(()) => wanted,
        Err(_) if present >= least => present,
        Err(error) => {
            // Nothing is gained by half of it.
            let _ = fs::remove_file(spare);
            return Err(error);
        }
    };
    file.write_all(text)?;
    file.write_all(&vec![b'\n'; (length - least) as usize])?;
    file.set_len(length)?;
    file.sync_all()
}

fn allocate(file: &File, length: u64) -> io::Result<()> {
    let length = length.try_into().map_err(|_| io::ErrorKind::FileTooLarge)?;
    Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)
}

/// Puts the spare file into the place of the other, which becomes the spare one.
fn exchange(spare: &Path, path: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, spare, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::ENOENT) => fs::rename(spare, path),
        exchanged => Ok(exchanged?),
    }
}

/// The spare file beside a file, which readers of the folder ignore.
fn spare(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.spare")))
}

/// Writes a new file with this mode. Its folder must exist.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when something has this name, otherwise those of the file system.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(path)?;
    // Unlike a rename, a link never replaces an existing file.
    let linked = write(&draft, content, mode).and_then(|()| fs::hard_link(&draft, path));
    linked.map_err(|error| discard(&draft, error))?;
    fs::remove_file(&draft)?;
    sync_folder(path)
}

/// Reads up to `most` bytes of a file, and one more if it has that: who gets more than `most` knows that it is too long, and a
/// file without an end costs no memory.
///
/// # Errors
/// Those of the file system.
pub fn read_most(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a file.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_folder(path)
}

/// A name beside `path` that readers of the folder ignore, since it begins with a dot.
fn draft(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.new", std::process::id())))
}

fn write(draft: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(draft)?;
    // The mode must not depend on the umask, nor on a draft that an earlier attempt left.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn discard(draft: &Path, error: io::Error) -> io::Error {
    // The first error is the one to report.
    let _ = fs::remove_file(draft);
    error
}

/// Syncs the folder of `path`, so that the name of a file outlives a loss of power too.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn files_are_replaced_or_created_with_their_mode_and_nothing_is_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pub");
        let read = || {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            (fs::read_to_string(&path).unwrap(), mode)
        };
        create(&path, b"one", 0o644).unwrap();
        assert_eq!(read(), ("one".to_owned(), 0o644));
        let error = create(&path, b"two", 0o644).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read().0, "one");
        replace(&path, b"three", 0o600).unwrap();
        assert_eq!(read(), ("three".to_owned(), 0o600));
        assert_eq!(names(folder.path()), ["a.pub"]);
        remove(&path).unwrap();
        assert!(names(folder.path()).is_empty());
        assert_eq!(remove(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(create(&folder.path().join("no/a"), b"", 0o644).is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn two_files_change_places_and_keep_their_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let read = || fs::read_to_string(&path).unwrap();
        for (n, text) in ["one", "two", "three", &"x".repeat(5000), "one"].into_iter().enumerate() {
            replace_in_room(&path, text.as_bytes(), 100, 0o600).unwrap();
            assert_eq!(read().trim_end(), text);
            let mut names = names(folder.path());
            names.sort();
            assert_eq!(names, [".state.spare", "state"], "{n}");
            let length = |name: &String| fs::metadata(folder.path().join(name)).unwrap().len();
            assert!(names.iter().all(|name| length(name).is_multiple_of(STEP)), "{n}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace_in_room(&folder.path().join("no/a"), b"", 0, 0o600).is_err());
    }
}
