//! The configuration file of `mtd run` (requirements MT-04, MT-06, MT-27).
//!
//! TOML. Reading goes on after an error, so that one run shows every problem of the file, each with its line and column, the
//! key, what is wrong and what to do about it. The building blocks of sections are in [`crate::schema`]; the keys of a
//! feature, with their checks and defaults, are in its own `section.rs`. This room puts the sections together, and loads the
//! key files. `docs/configuration.md`, which is generated from the same tables, lists every key, and
//! `packaging/mtd.toml.example` is a file with all of them.

mod bypass;
mod diff;
mod document;
mod load;
mod section;

use std::io;
use std::path::Path;

use crate::files;
use crate::keys::open_regular;
use crate::model::Fault;
use crate::remedy::{Doing, remedy};
use crate::schema::{Format, Problems, Schema};
use crate::{
    dataplane::section as dataplane, device::section as device, keys::section as keys,
    metrics::section as metrics, registry::section as registry, rendezvous::section as rendezvous,
    resolver::section as resolver, sessions::section as sessions, web::section as web,
};

pub use crate::dataplane::section::{DEFAULT_HORIZON, DEFAULT_HORIZON_OF_MANY, HORIZON_RANGE, MANY_SESSIONS};
pub use crate::device::section::{DEFAULT_MTU_EXPIRES, MTU_EXPIRES_RANGE};
pub use crate::keys::section::Identity;
pub use crate::model::{
    DEFAULT_PERIOD, MAX_INNER_MTU, MAX_SESSIONS, MIN_INNER_MTU, MIN_REKEY_MARGIN, MIN_SLOTS_AHEAD,
    PERIOD_RANGE,
};
pub use crate::registry::section::{Client, Listen};
pub use crate::rendezvous::section::Rendezvous;
pub use crate::schema::{ConfigError, Problem};
pub use crate::sessions::section::{Peer, Server};
pub use diff::{Change, Written};
pub use document::Config;
pub use section::Hooks;

/// Longest configuration file in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text above the first table.
const ROOT: Schema = Schema {
    header: "",
    path: "",
    help: "What stands above the first line in brackets.",
    groups: &[
        device::UNDERLAY_KEYS,
        dataplane::GUARD_KEYS,
        dataplane::PROGRAM_KEYS,
        device::TUNNEL_KEYS,
        device::BYPASS_KEYS,
        resolver::KEYS,
        dataplane::CAPACITY_KEYS,
        section::KEYS,
        keys::KEYS,
    ],
};

/// Everything that a file can contain.
pub const FORMAT: Format = Format {
    root: &ROOT,
    tables: &[
        &section::HOOKS,
        &metrics::METRICS,
        &web::WEB,
        &rendezvous::RENDEZVOUS,
        &registry::LISTEN,
        &registry::CLIENT,
        &sessions::SERVER,
        &sessions::PEER,
    ],
};

/// Whether `mtd reload` applies a change of this setting (as [`Change::key`] names it) to a running server.
pub fn reloads(setting: &str) -> bool {
    FORMAT.reloads(setting)
}

impl Config<()> {
    /// Reads a configuration from `text`. No file is opened, neither the configuration nor a key. `origin` names the
    /// text in errors.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that was found.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Ok(document::read(text, Problems::new(text, origin))?.without_keys())
    }

    /// Reads the configuration file at `path`, without the key files that it names: for uses that need no secrets.
    ///
    /// # Errors
    /// As [`Config::load`], except for the key files.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        Self::of_file(path, &origin, &text)
    }

    /// The same, together with the settings as they are written. The file is read once.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_with_written(path: &Path) -> Result<(Self, Written), ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        Ok((Self::of_file(path, &origin, &text)?, Written::parse(&text, &origin)?))
    }

    /// The text of the file at `path`.
    fn of_file(path: &Path, origin: &str, text: &str) -> Result<Self, ConfigError> {
        let mut document = document::read(text, Problems::new(text, origin))?;
        document.join_paths(folder_of(path));
        Ok(document.without_keys())
    }
}

impl Config {
    /// Reads the configuration file at `path` and the key files that it names (relative to its folder).
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read or is longer than [`MAX_FILE_BYTES`], or with every problem that
    /// was found in it; when there is none, with every problem of the key files.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        let mut document = document::read(&text, Problems::new(&text, &origin))?;
        document.join_paths(folder_of(path));
        load::keys(document, Problems::new(&text, &origin))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl<K> Config<K> {
    /// Name of the inside end of the tunnel device.
    pub fn inside_device(&self) -> String {
        format!("{}{}", self.device, device::INSIDE_SUFFIX)
    }
}

fn read_text(path: &Path) -> Result<String, Fault> {
    let file = open_regular(path).map_err(|error| cannot_read(&error))?;
    let Some(file) = file else {
        return Err(Fault::new("is not a regular file", "name the configuration file itself with -c FILE"));
    };
    let bytes = files::read_most(file, MAX_FILE_BYTES).map_err(|error| cannot_read(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let what = format!("is longer than {MAX_FILE_BYTES} bytes");
        return Err(Fault::new(what, "is it a configuration of mtd? Name another file with -c FILE"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        Fault::new(format!("is not UTF-8 text in line {line}"), "save it as UTF-8")
    })
}

fn cannot_read(error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "name another file with -c FILE, or write one: packaging/mtd.toml.example shows every key"
                .to_owned()
        }
        _ => remedy(Doing::File(""), error.raw_os_error())
            .unwrap_or_else(|| "name a file that can be read with -c FILE".to_owned()),
    };
    Fault::new(format!("cannot read the configuration: {error}"), remedy)
}

#[cfg(test)]
mod tests;
