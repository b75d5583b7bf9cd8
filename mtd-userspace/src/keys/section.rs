//! Keys in the configuration: the host's own key, and how every key or key file that is named there is read.

use std::path::{Path, PathBuf};

use super::{PublicKey, SecretKey};
use crate::model::Fault;
use crate::schema::{self, Facts, Key, Kind, Located, Part, Problems, Section};

/// Prefix of the name of a secret that systemd hands over (`LoadCredential=` in systemd.exec(5)).
const CREDENTIAL: &str = "credential:";

/// The top-level entries of the configuration about the host's own key.
pub const KEYS: &[Key] = &[Key::required(
    "private_key_file",
    Kind::Text("the path of a file that only its owner can read, or \"credential:NAME\""),
    r#""private.key""#,
    "The own private key, for [listen] and [[server]]; the other ends need the public key that belongs to it. A key that \
     systemd hands over with LoadCredential=NAME:… is \"credential:NAME\".",
)
.otherwise("none; required with [listen] and [[server]]")
.from_requirement("MT-20")];

/// An example of a public key, for schemas.
pub const PUBLIC_KEY_EXAMPLE: &str = r#""vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=""#;

/// How schemas describe a public key.
pub const PUBLIC_KEY: Kind = Kind::Text("the 44 characters that `mtd pubkey` prints at the other end");

/// The own X25519 key (requirement MT-20). `K` as for [`crate::config::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<K = SecretKey> {
    /// The file of the private key: as written after parsing, joined to the folder of the configuration file after
    /// loading.
    pub key_file: PathBuf,
    /// The private key.
    pub key: K,
}

/// What the configuration file says about the host's own key.
#[derive(Debug)]
pub struct OwnKey {
    file: Option<Located<PathBuf>>,
    /// Whether the configuration has a `private_key_file`, valid or not.
    is_there: bool,
}

impl OwnKey {
    /// Reads the top level of the configuration.
    pub fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self {
            file: root.optional("private_key_file", problems, |text| key_file(text, "private.key")),
            is_there: root.contains("private_key_file"),
        }
    }

    /// The own key's file, without the key itself.
    pub fn identity(&self) -> Option<Identity<()>> {
        self.file.as_ref().map(|file| Identity { key_file: file.value.clone(), key: () })
    }

    /// Where the configuration names the key file; 0 if it names none.
    pub fn at(&self) -> usize {
        self.file.as_ref().map_or(0, |file| file.at)
    }
}

impl Part for OwnKey {
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some((header, _)) = facts.needs_key.iter().min_by_key(|(_, at)| *at) else { return };
        if !self.is_there {
            let what = format!("is missing; {header} needs the own key");
            let remedy = "add a line such as private_key_file = \"private.key\" at the top, and make the key: \
                          (umask 077; mtd genkey > private.key)";
            problems.add(0, "private_key_file", Fault::new(what, remedy));
        }
    }
}

/// The path of a key file, such as `example`. Somebody may have written the key itself instead of the path: it must not
/// appear in an error message about a missing file.
///
/// # Errors
/// When the text is a key, or not a path.
pub fn key_file(text: &str, example: &str) -> Result<PathBuf, Fault> {
    if text.parse::<SecretKey>().is_ok() {
        let remedy =
            "put the key in a file that only its owner can read, and write the name of that file here";
        return Err(Fault::new("is a key, not the name of a file that holds one", remedy));
    }
    schema::path(text, example)
}

/// Where a key file is: relative to the `folder` of the configuration file, or a credential of the service.
pub fn key_path(folder: &Path, written: &Path) -> PathBuf {
    match written.to_str().and_then(|text| text.strip_prefix(CREDENTIAL)) {
        // Without the variable the path stays as it is written, so that the error about it names the credential.
        Some(name) => std::env::var_os("CREDENTIALS_DIRECTORY")
            .map_or_else(|| written.to_owned(), |credentials| Path::new(&credentials).join(name)),
        None => folder.join(written),
    }
}

/// Parses a public key. The error does not show the text, which may be a secret in the wrong place.
///
/// # Errors
/// When the text is not a public key, or one to which no private key can belong.
pub fn public_key(text: &str) -> Result<PublicKey, Fault> {
    let print = "write the 44 characters that mtd pubkey prints at the other end";
    let key: PublicKey = text.parse().map_err(|_| Fault::new("is no public key", print))?;
    if key.is_usable() {
        return Ok(key);
    }
    Err(Fault::new("is a public key to which no private key can belong", print))
}
