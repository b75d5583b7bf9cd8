//! The link to the web view with its secret token, in a file that only root can read.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use subtle::ConstantTimeEq as _;

use crate::files;

/// Length of a token in bytes; it is written in hex.
const TOKEN_BYTES: usize = 16;

/// The link of a running web view. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    token: Token,
}

/// The secret part of the link.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Whether `shown` is the token. Compares in constant time.
    pub fn admits(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Link {
    /// Writes the file. If a killed controller has left one, its token is kept, so that open pages continue to work.
    ///
    /// # Errors
    /// When the file cannot be written, or there is no randomness.
    pub fn establish(path: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        // The token follows a #, so browsers never send it: it appears in no request and no log, and reaches no other site.
        let page = format!("http://{address}/#");
        let token = match left_token(path, &page) {
            Some(token) => token,
            None => new_token()?,
        };
        files::replace(path, format!("{page}{token}\n").as_bytes(), 0o600)
            .with_context(|| format!("cannot write the link to the web view, {}", path.display()))?;
        Ok(Self { path: path.to_owned(), token: Token(token) })
    }

    /// The token of the link.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl Link {
    /// Removes the file.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the link to the web view");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.remove();
    }
}

fn new_token() -> anyhow::Result<String> {
    let mut token = [0; TOKEN_BYTES];
    getrandom::fill(&mut token).map_err(|error| anyhow::anyhow!("no randomness from the kernel: {error}"))?;
    Ok(hex::encode(token))
}

/// The token in an existing file, provided that no other user could have read it.
fn left_token(path: &Path, page: &str) -> Option<String> {
    let private = fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o777 == 0o600);
    let text = private.then(|| fs::read_to_string(path).ok()).flatten()?;
    let token = text.strip_prefix(page)?.trim_end();
    let right = token.len() == 2 * TOKEN_BYTES && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))
    }

    #[test]
    fn the_link_is_for_its_owner_and_goes_with_the_view() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eth0.web");
        let link = Link::establish(&path, address(8674)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let token = text.strip_prefix("http://[::1]:8674/#").unwrap().trim_end();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(link.token().admits(token.as_bytes()));
        for wrong in ["", &token[1..], &format!("{token}0"), &"0".repeat(token.len())] {
            assert!(!link.token().admits(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{link:?}").contains(token));
        drop(link);
        assert!(!path.exists());
    }

    #[test]
    fn a_token_outlives_a_crash_unless_others_may_know_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eth0.web");
        let begin = |port| {
            // Like a killed controller, which removes nothing.
            std::mem::forget(Link::establish(&path, address(port)).unwrap());
            fs::read_to_string(&path).unwrap()
        };
        let first = begin(1);
        assert_eq!(begin(1), first);
        let elsewhere = begin(2);
        assert_ne!(elsewhere.split('#').nth(1), first.split('#').nth(1));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_ne!(begin(2), elsewhere);
        fs::write(&path, "http://[::1]:2/#short\n").unwrap();
        assert_eq!(begin(2).len(), elsewhere.len());
    }
}
