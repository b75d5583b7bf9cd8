//! `mtd genkey`, `mtd genpsk` and `mtd pubkey`, which work like the commands of `wg` with these names (requirement MT-27).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use zeroize::Zeroizing;

use crate::keys::{KEY_CHARACTERS, KeyTextError, SecretKey};

/// Prints a new X25519 private key to standard output. Warns on standard error if standard output is a file that its group
/// or others may access.
///
/// # Errors
/// The operating system has no random numbers, or standard output cannot be written.
pub(super) fn genkey() -> anyhow::Result<()> {
    print_secret(&SecretKey::generate()?)
}

/// Prints a new pre-shared key, in the same way as [`genkey`].
///
/// # Errors
/// The operating system has no random numbers, or standard output cannot be written.
pub(super) fn genpsk() -> anyhow::Result<()> {
    print_secret(&SecretKey::generate_psk()?)
}

/// Reads a private key from standard input and prints its public key to standard output.
///
/// # Errors
/// Standard input is not a key (the error does not show it) or cannot be read, or standard output cannot be written.
pub(super) fn pubkey() -> anyhow::Result<()> {
    write_public(unbuffered(io::stdin().as_fd())?, io::stdout().lock())
}

fn print_secret(key: &SecretKey) -> anyhow::Result<()> {
    let output = unbuffered(io::stdout().as_fd())?;
    warn_if_exposed(&output, io::stderr().lock());
    write_secret(key, output)
}

/// The same open file without the buffers of the standard library, which are never wiped.
fn unbuffered(fd: BorrowedFd<'_>) -> anyhow::Result<File> {
    Ok(File::from(fd.try_clone_to_owned().context("standard input or output is closed")?))
}

/// Warns if others than its owner may access the file. Unlike `wg`, this includes the file's group, since mtd refuses key
/// files that their group can access.
fn warn_if_exposed(output: &File, mut warnings: impl Write) {
    let exposed = output.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o077 != 0);
    if exposed {
        // A warning that cannot be shown is no reason to withhold the key.
        let _ = writeln!(
            warnings,
            "warning: writing a secret key to a file that users other than its owner can access; \
             run chmod 600 on it, and umask 077 before the next time"
        );
    }
}

fn write_secret(key: &SecretKey, mut output: impl Write) -> anyhow::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(KEY_CHARACTERS + 1));
    line.push_str(&key.to_base64());
    line.push('\n');
    output.write_all(line.as_bytes()).and_then(|()| output.flush()).context("cannot write the key")
}

fn write_public(input: impl Read, mut output: impl Write) -> anyhow::Result<()> {
    let key = SecretKey::from_reader(input).map_err(|error| match error.downcast::<KeyTextError>() {
        Ok(text) => anyhow::anyhow!("standard input {text}; pipe a private key in: mtd genkey | mtd pubkey"),
        Err(error) => anyhow::Error::new(error).context("cannot read a private key from standard input"),
    })?;
    writeln!(output, "{}", key.public()).and_then(|()| output.flush()).context("cannot write the public key")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn public(input: &[u8]) -> anyhow::Result<String> {
        let mut output = Vec::new();
        write_public(input, &mut output)?;
        Ok(String::from_utf8(output)?)
    }

    #[test]
    fn pubkey_turns_what_genkey_prints_into_the_public_key() {
        let key = SecretKey::generate().unwrap();
        let mut printed = Vec::new();
        write_secret(&key, &mut printed).unwrap();
        assert_eq!(printed.len(), KEY_CHARACTERS + 1);
        assert_eq!(public(&printed).unwrap(), format!("{}\n", key.public()));
    }

    #[test]
    fn pubkey_refuses_what_is_no_key_without_showing_it() {
        let endless = public_of_reader(io::repeat(b'A')).unwrap_err().to_string();
        let garbled = public(b"topsecret\n").unwrap_err().to_string();
        assert_eq!(endless, garbled);
        assert!(garbled.contains("mtd genkey | mtd pubkey") && !garbled.contains("topsecret"), "{garbled}");
        let empty = public(b"").unwrap_err().to_string();
        assert!(empty.starts_with("standard input is empty"), "{empty}");
    }

    #[test]
    fn a_failing_output_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let key = SecretKey::generate().unwrap();
        assert!(write_secret(&key, Full).is_err());
        let error = write_public(key.to_base64().as_bytes(), Full).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the public key");
    }

    #[test]
    fn a_file_that_others_can_reach_is_warned_of() {
        for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true)] {
            let file = tempfile::tempfile().unwrap();
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            warn_if_exposed(&file, &mut warnings);
            assert_eq!(!warnings.is_empty(), warned, "{mode:o}");
        }
        let mut warnings = Vec::new();
        warn_if_exposed(&File::open("/dev/null").unwrap(), &mut warnings);
        assert!(warnings.is_empty(), "a device is no file that keeps the key");
    }

    fn public_of_reader(input: impl Read) -> anyhow::Result<()> {
        write_public(input, io::sink())
    }
}
