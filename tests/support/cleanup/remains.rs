//! Files of mtd that are not part of a network namespace: pins and run-time files.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use mtd::device::bpffs;
use mtd::instance::RUN_DIR;

/// Pins and run-time files of the instances in the namespace with this cookie, as [`mtd::instance::Instance`] names them.
///
/// # Errors
/// When a folder that exists cannot be listed.
pub(crate) fn of_namespace(cookie: u64) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [&Path::new(bpffs::DEFAULT_PATH).join("mtd"), Path::new(RUN_DIR)] {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| is_named_after(name, cookie)) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Removes those pins and files.
///
/// # Errors
/// When one cannot be removed; the others are removed nevertheless.
pub(super) fn remove(cookie: u64) -> io::Result<()> {
    let mut outcome = Ok(());
    for path in of_namespace(cookie)? {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => outcome = Err(error),
            _ => {}
        }
    }
    outcome
}

/// Whether the name is `INTERFACE@COOKIE`, possibly with a suffix.
fn is_named_after(name: &str, cookie: u64) -> bool {
    let Some((_, tag)) = name.rsplit_once('@') else { return false };
    let number = tag.split('.').next().unwrap_or_default();
    number.parse() == Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_of_the_namespace_counts() {
        for name in ["eth0@17", "eth0@17.sock", "eth0:5@17", "eth0.5@17.lock", "a@1@17.sock.4000000"] {
            assert!(is_named_after(name, 17), "{name}");
        }
        for name in ["eth0", "eth0@1", "eth0@170", "eth0@170.sock", "17", "eth0.17", "@", "eth0@17@1"] {
            assert!(!is_named_after(name, 17), "{name}");
        }
    }
}
