//! The configuration file of `mtd run` (requirements MT-04, MT-06, MT-27).
//!
//! TOML. Reading it goes on after an error, so that one run shows every problem of the file, each with its line and
//! column, the key, what is wrong and the way out. `packaging/mtd.toml.example` explains each key.

mod check;
mod diff;
mod document;
mod error;
mod fields;
mod load;
mod section;
mod settings;
mod tables;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::keys::{SecretKey, open_regular};
use crate::model::{Allow, Fault, KeyStreamChoice, LinkMode, Mode, Policy, SteeringChoice, XdpChoice};
use error::Problems;

pub use diff::{Change, Settings};
pub use error::{ConfigError, Problem};
pub use settings::*;

/// Longest configuration file in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Longest inner packet in bytes: an underlay of 1500 less the 72 that a packet of the tunnel adds.
pub const MAX_INNER_MTU: u16 = 1428;

/// Shortest maximum of inner packets in bytes: what IPv6 needs (RFC 8200, section 5).
pub const MIN_INNER_MTU: u16 = 1280;

/// Shortest and longest slot (requirement MT-04).
pub const PERIOD_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// Slot length when the file says nothing (requirement MT-04).
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(3);

/// Shortest and longest time for which slots may be loaded ahead. The longest is three of the longest slots.
pub const HORIZON_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(3));

/// Time for which slots are loaded ahead when the file says nothing and no peer has slots longer than a third of it.
pub const DEFAULT_HORIZON: Duration = Duration::from_mins(1);

/// The same with room for more than [`MANY_SESSIONS`]: each slot ahead takes memory for each of them.
pub const DEFAULT_HORIZON_OF_MANY: Duration = Duration::from_secs(12);

/// Room for so many sessions still has the long horizon.
pub const MANY_SESSIONS: u32 = 4096;

/// What `mtu_expires` can be: RFC 8201, section 4 asks for five minutes at least; less is for trying things out.
pub const MTU_EXPIRES_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// The kernel's own value for paths outside of tunnels (`net.ipv6.route.mtu_expires`).
pub const DEFAULT_MTU_EXPIRES: Duration = Duration::from_mins(10);

/// The horizon covers at least this many slots of every peer: previous, current and next (requirement MT-05).
pub const MIN_SLOTS_AHEAD: u32 = 3;

/// Largest value of `max_sessions`.
pub const MAX_SESSIONS: u32 = 1_000_000;

/// The settings of one controller. `K` is what is known of the secret keys: nothing (`()`) after [`Config::parse`] and
/// [`Config::read`], the keys after [`Config::load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config<K = SecretKey> {
    /// Name of the underlay interface.
    pub interface: String,
    /// The protected prefixes, 1 to 4, 64 to 112 bits each, host bits zero, without overlap (requirement MT-06);
    /// empty when `follow_prefix` is set.
    pub prefixes: Vec<Ipv6Net>,
    /// The protected prefix is the /64 of the interface's global address, whichever that is at the time. Only with
    /// [`LinkMode::Shared`], and never with `peers`, whose other end needs to know the prefix.
    pub follow_prefix: bool,
    /// How packets for the prefixes reach this host.
    pub link: LinkMode,
    /// What is done to what is refused; `None`: as it was, and [`Policy::Dark`] where nothing was attached.
    pub policy: Option<Policy>,
    /// What passes though it is refused; at most [`mtd_common::allow::MAX_ALLOW`], none twice.
    pub allow: Vec<Allow>,
    /// How the receive program is attached.
    pub xdp: XdpChoice,
    /// Whether packets of busy sessions are handed to other CPUs.
    pub steering: SteeringChoice,
    /// Whether key stream of busy sessions is made ahead.
    pub keystream: KeyStreamChoice,
    /// Name of the tunnel device, at most 14 bytes; its inside end is [`Config::inside_device`].
    pub device: String,
    /// Own tunnel addresses with the length of their network, none twice; at least one unless there are `servers`,
    /// which give tunnel addresses to this host.
    pub addresses: Vec<IpNet>,
    /// Longest inner packet in bytes, [`MIN_INNER_MTU`] to [`MAX_INNER_MTU`]; `None`: what the underlay allows.
    pub mtu: Option<u16>,
    /// Time for which a path is believed to carry no more than a router has said, within [`MTU_EXPIRES_RANGE`].
    pub mtu_expires: Duration,
    /// Time for which slots are loaded ahead; at least [`MIN_SLOTS_AHEAD`] slots of every peer.
    pub horizon: Duration,
    /// Number of sessions that the maps have room for; at least the number of peers, clients and servers of the file.
    pub max_sessions: u32,
    /// Path of the control socket; `None`: the controller's default.
    pub socket: Option<PathBuf>,
    /// Folder for what outlives the controller.
    pub state_dir: PathBuf,
    /// The own key (requirement MT-20); there when there is `listen` or one of `servers`.
    pub identity: Option<Identity<K>>,
    /// Commands that are run when the data plane comes and goes.
    pub hooks: Hooks,
    /// Where metrics are served over HTTP, one address; `None`: only at the control socket.
    pub metrics: Option<SocketAddr>,
    /// Where the web view is served, a loopback address; `None`: nowhere.
    pub web: Option<SocketAddr>,
    /// How servers and clients find each other.
    pub rendezvous: Rendezvous,
    /// What this host does as a server with registered clients; `None`: it is none.
    pub listen: Option<Listen>,
    /// The servers that this host connects to.
    pub servers: Vec<Server>,
    /// The statically configured peers (requirement MT-27). Without `listen`, `servers` and `peers`, the prefixes are
    /// dark to everybody.
    pub peers: Vec<Peer<K>>,
}

/// A statically configured peer (requirement MT-27).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer<K = SecretKey> {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique.
    pub name: String,
    /// Its protected prefix, 64 to 112 bits, host bits zero (requirement MT-06).
    pub prefix: Ipv6Net,
    /// The own prefix that the session with it uses: one of [`Config::prefixes`].
    pub local_prefix: Ipv6Net,
    /// The file of the pre-shared key: as written after [`Config::parse`], joined to the folder of the
    /// configuration file after [`Config::load`].
    pub key_file: PathBuf,
    /// The pre-shared key; no two peers have the same.
    pub key: K,
    /// Own seed IID (requirement MT-27), network order.
    pub seed: [u8; 8],
    /// The peer's seed IID, network order; never the same as `seed`.
    pub peer_seed: [u8; 8],
    /// Slot length (requirement MT-04), within [`PERIOD_RANGE`].
    pub period: Duration,
    /// What is done to inner packets.
    pub mode: Mode,
    /// Inner networks of the peer, host bits zero; at least one, and none of them a second time at any peer.
    pub allowed_ips: Vec<IpNet>,
}

impl<K> Peer<K> {
    /// The same peer with this key.
    pub fn with_key<L>(self, key: L) -> Peer<L> {
        Peer {
            name: self.name,
            prefix: self.prefix,
            local_prefix: self.local_prefix,
            key_file: self.key_file,
            key,
            seed: self.seed,
            peer_seed: self.peer_seed,
            period: self.period,
            mode: self.mode,
            allowed_ips: self.allowed_ips,
        }
    }
}

impl Config<()> {
    /// Reads a configuration from `text`. No file is opened, neither the configuration nor a key. `origin` names the
    /// text in errors.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that was found.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Ok(document::read(text, Problems::new(text, origin))?.config)
    }

    /// Reads the configuration file at `path`, without the key files that it names: what needs no secrets.
    ///
    /// # Errors
    /// As [`Config::load`], but for the key files.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        let mut config = document::read(&text, Problems::new(&text, &origin))?.config;
        config.join_paths(folder_of(path));
        Ok(config)
    }

    /// The same with the settings as they are written. The file is read once.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_with_settings(path: &Path) -> Result<(Self, Settings), ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        let mut config = document::read(&text, Problems::new(&text, &origin))?.config;
        config.join_paths(folder_of(path));
        Ok((config, Settings::parse(&text, &origin)?))
    }

    /// Makes the paths that are relative to the configuration file's `folder` what they are for this process.
    fn join_paths(&mut self, folder: &Path) {
        for peer in &mut self.peers {
            peer.key_file = secret_path(folder, &peer.key_file);
        }
        if let Some(identity) = &mut self.identity {
            identity.key_file = secret_path(folder, &identity.key_file);
        }
        if let Some(listen) = &mut self.listen {
            listen.clients_dir = folder.join(&listen.clients_dir);
        }
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
        document.config.join_paths(folder_of(path));
        load::keys(document, Problems::new(&text, &origin))
    }
}

/// In front of the name of a secret that systemd hands over (`LoadCredential=` in systemd.exec(5)).
const CREDENTIAL: &str = "credential:";

/// Where a key file is: relative to the configuration, or a credential of the service.
fn secret_path(folder: &Path, written: &Path) -> PathBuf {
    match written.to_str().and_then(|text| text.strip_prefix(CREDENTIAL)) {
        // Without the variable the path stays as it is written: the error about it then says what is missing.
        Some(name) => std::env::var_os("CREDENTIALS_DIRECTORY")
            .map_or_else(|| written.to_owned(), |credentials| Path::new(&credentials).join(name)),
        None => folder.join(written),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl<K> Config<K> {
    /// Name of the inside end of the tunnel device.
    pub fn inside_device(&self) -> String {
        format!("{}{}", self.device, fields::INSIDE_SUFFIX)
    }
}

/// Whether a peer, client or server can have this name: `[A-Za-z0-9._-]{1,32}`.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(text: &str) -> Result<(), Fault> {
    fields::peer_name(text).map(|_| ())
}

fn read_text(path: &Path) -> Result<String, Fault> {
    let file = open_regular(path).map_err(|error| cannot_read(&error))?;
    let Some(file) = file else {
        return Err(Fault::new("is not a regular file", "name the configuration file itself with -c FILE"));
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(&error))?;
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
        }
        io::ErrorKind::PermissionDenied => "run mtd as root, or make the file readable for this user",
        _ => "name a file that can be read with -c FILE",
    };
    Fault::new(format!("cannot read the configuration: {error}"), remedy)
}

#[cfg(test)]
mod tests;
