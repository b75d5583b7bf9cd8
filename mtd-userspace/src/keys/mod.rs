//! Keys: X25519 key pairs and pre-shared keys, in the text form of `wg` (requirements MT-20, MT-27).
//!
//! A secret is wiped from memory when it is dropped, never shown by a debug print or an error, and compared in
//! constant time.

pub mod section;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::remedy::{Doing, remedy};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Characters of a key's text form: base64 with padding, as `wg` writes it.
pub const KEY_CHARACTERS: usize = 44;

/// Input with one key must be shorter than this, in bytes: the text form and some white space after it.
const MAX_INPUT: usize = 256;

/// 32 secret bytes: an X25519 private key, or a pre-shared key.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// A new X25519 private key from the operating system's random numbers, clamped as RFC 7748 (section 5) says.
    ///
    /// # Errors
    /// [`RandomError`] when the operating system has no random numbers to give.
    pub fn generate() -> Result<Self, RandomError> {
        let mut key = Self::generate_psk()?;
        key.0[0] &= 0b1111_1000;
        key.0[31] &= 0b0111_1111;
        key.0[31] |= 0b0100_0000;
        Ok(key)
    }

    /// A new pre-shared key (requirement MT-27): 32 bytes from the operating system's random numbers.
    ///
    /// # Errors
    /// [`RandomError`] when the operating system has no random numbers to give.
    pub fn generate_psk() -> Result<Self, RandomError> {
        let mut key = Self([0; KEY_BYTES]);
        getrandom::fill(&mut key.0).map_err(RandomError)?;
        Ok(key)
    }

    /// The key with these bytes, unchanged. The caller has to wipe its own copy.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The X25519 public key that belongs to this private key.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The text form: 44 characters of base64, wiped when it is dropped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(KEY_CHARACTERS));
        STANDARD.encode_string(self.0, &mut text);
        text
    }

    /// Reads one key in text form, up to the end of the input; white space may follow the key. Reads at most 256 bytes.
    ///
    /// # Errors
    /// An [`io::Error`] of the input, or one of kind [`io::ErrorKind::InvalidData`] that holds a [`KeyTextError`].
    pub fn from_reader(mut input: impl Read) -> io::Result<Self> {
        let mut buffer = Zeroizing::new([0; MAX_INPUT]);
        let mut length = 0;
        while length < buffer.len() {
            match input.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let key = match length {
            MAX_INPUT => Err(KeyTextError::Garbled),
            _ => Self::decode(buffer[..length].trim_ascii_end()),
        };
        key.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Reads the key in the file at `path`. Symbolic links are followed; the file that they lead to is checked.
    ///
    /// # Errors
    /// [`KeyFileError`] when the file cannot be read, is no regular file, can be read or written by its group or
    /// by others, or holds no key. No error shows the content of the file.
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let error = |kind| KeyFileError { path: path.to_owned(), kind };
        let file = open_regular(path).map_err(|source| error(KeyFileErrorKind::Open(source)))?;
        let Some(file) = file else { return Err(error(KeyFileErrorKind::NotRegular)) };
        // The mode of the open file, so that nobody can replace the file between the check and the reading.
        let mode = file.metadata().map_err(|source| error(KeyFileErrorKind::Open(source)))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(error(KeyFileErrorKind::Exposed(mode)));
        }
        Self::from_reader(file).map_err(|source| match source.downcast::<KeyTextError>() {
            Ok(text) => error(KeyFileErrorKind::Text(text)),
            Err(source) => error(KeyFileErrorKind::Open(source)),
        })
    }

    fn decode(text: &[u8]) -> Result<Self, KeyTextError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

/// Accepts exactly the 44 characters of the text form.
impl FromStr for SecretKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        Self::decode(text.as_bytes())
    }
}

/// Compares in constant time.
impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}

/// Prints that there is a key, not its bytes.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// An X25519 public key. Displays as its text form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Whether these bytes are the canonical form of a public key that has a private key. Refused are the few points
    /// of low order, with which every key agreement gives zeros (RFC 7748, section 6.1), and second encodings of a point.
    pub fn is_usable(&self) -> bool {
        let mut prime = [0xff; KEY_BYTES];
        (prime[0], prime[KEY_BYTES - 1]) = (0xed, 0x7f);
        // Little-endian; a value of 2^255 - 19 or more is a second encoding of a lower one.
        self.0.iter().rev().lt(prime.iter().rev()) && !LOW_ORDER.contains(&self.0)
    }
}

/// The points of Curve25519 of order 1, 2, 4 and 8, in canonical form.
const LOW_ORDER: [[u8; KEY_BYTES]; 5] = [
    [0; KEY_BYTES],
    {
        let mut one = [0; KEY_BYTES];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    {
        let mut minus_one = [0xff; KEY_BYTES];
        (minus_one[0], minus_one[KEY_BYTES - 1]) = (0xec, 0x7f);
        minus_one
    },
];

/// Accepts exactly the 44 characters of the text form.
impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text.as_bytes()).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The operating system gave no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the operating system gave no random numbers ({0}); allow the getrandom system call, or mount /dev/urandom"
)]
pub struct RandomError(getrandom::Error);

/// A text is not a valid key. The message never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// The text is empty.
    #[error("is empty where a key should be")]
    Empty,
    /// The text is not 32 bytes in base64.
    #[error(
        "holds no key: a key is {KEY_CHARACTERS} characters of base64, as `mtd genkey` and `mtd genpsk` print them"
    )]
    Garbled,
}

/// A key file that cannot be used. Displays as the problem and the remedy, without the content of the file.
#[derive(Debug)]
pub struct KeyFileError {
    path: PathBuf,
    kind: KeyFileErrorKind,
}

/// What is wrong with a key file.
#[derive(Debug)]
pub enum KeyFileErrorKind {
    /// It cannot be opened or read.
    Open(io::Error),
    /// It is a directory, a device, a pipe or a socket.
    NotRegular,
    /// Its permission bits, given here, let its group or others read or write it.
    Exposed(u32),
    /// It does not hold one key.
    Text(KeyTextError),
}

impl KeyFileError {
    /// The path that was to be read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The reason.
    pub fn kind(&self) -> &KeyFileErrorKind {
        &self.kind
    }

    /// What is wrong, the path included.
    pub fn what(&self) -> String {
        let path = self.path.display();
        match &self.kind {
            KeyFileErrorKind::Open(source) => format!("cannot read {path}: {source}"),
            KeyFileErrorKind::NotRegular => format!("{path} is not a regular file"),
            KeyFileErrorKind::Exposed(mode) => {
                format!("{path} can be read or written by users other than its owner (mode {mode:04o})")
            }
            KeyFileErrorKind::Text(error) => format!("{path} {error}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        let path = self.path.display();
        match &self.kind {
            KeyFileErrorKind::Open(source) if source.kind() == io::ErrorKind::NotFound => {
                format!("copy the peer's key there, or make one: (umask 077; mtd genpsk > {path})")
            }
            KeyFileErrorKind::Open(source) => remedy(Doing::File(""), source.raw_os_error())
                .unwrap_or_else(|| "name a file that can be read".to_owned()),
            KeyFileErrorKind::NotRegular => "name the regular file that holds the key".to_owned(),
            KeyFileErrorKind::Exposed(_) => format!("run: chmod 600 {path}"),
            KeyFileErrorKind::Text(_) => {
                format!(
                    "copy the key again, or make a new one for both ends: (umask 077; mtd genpsk > {path})"
                )
            }
        }
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.remedy())
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            KeyFileErrorKind::Open(source) => Some(source),
            KeyFileErrorKind::Text(source) => Some(source),
            KeyFileErrorKind::NotRegular | KeyFileErrorKind::Exposed(_) => None,
        }
    }
}

/// Opens `path` for reading; `None` when it is not a regular file. Never blocks, even on a pipe or a device.
pub(crate) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let regular = file.metadata()?.is_file();
    Ok(regular.then_some(file))
}

fn decode(text: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyTextError> {
    if text.is_empty() {
        return Err(KeyTextError::Empty);
    }
    if text.len() != KEY_CHARACTERS {
        return Err(KeyTextError::Garbled);
    }
    // The decoder wants room for 33 bytes, because it counts the padding as data.
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
    match STANDARD.decode_slice(text, &mut bytes[..]) {
        Ok(KEY_BYTES) => {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            key.copy_from_slice(&bytes[..KEY_BYTES]);
            Ok(key)
        }
        _ => Err(KeyTextError::Garbled),
    }
}

#[cfg(test)]
mod tests;
