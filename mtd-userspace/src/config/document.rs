//! From the text of a configuration to its values, and from there to the keys of the peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;
use toml::de::DeTable;

use super::error::{ConfigError, Fault, Problems};
use super::section::{Key, Located, Schema, Section};
use super::{
    Config, DEFAULT_HORIZON, DEFAULT_PERIOD, HORIZON_RANGE, LinkMode, MAX_INNER_MTU, MAX_SESSIONS,
    MIN_INNER_MTU, MIN_SLOTS_AHEAD, Mode, PERIOD_RANGE, Peer, XdpChoice, check, fields,
};
use crate::keys::SecretKey;

pub(super) const DEFAULT_DEVICE: &str = "mtd0";
const DEFAULT_MAX_SESSIONS: u32 = 1024;
const DEFAULT_STATE_DIR: &str = "/var/lib/mtd";

pub(super) const ROOT_KEYS: &[Key] = &[
    ("interface", r#""eth0""#),
    ("prefix", r#""2001:db8:1::/64""#),
    ("link", r#""routed""#),
    ("xdp", r#""auto""#),
    ("device", r#""mtd0""#),
    ("address", r#"["fd00:6d74::1/64", "10.66.0.1/24"]"#),
    ("mtu", "1428"),
    ("horizon", r#""60s""#),
    ("max_sessions", "1024"),
    ("socket", r#""/run/mtd/mtd.sock""#),
    ("state_dir", r#""/var/lib/mtd""#),
    ("peer", "[]"),
];

pub(super) const PEER_KEYS: &[Key] = &[
    ("name", r#""laptop""#),
    ("prefix", r#""2001:db8:2::/64""#),
    ("local_prefix", r#""2001:db8:1::/64""#),
    ("key_file", r#""keys/laptop.key""#),
    ("seed", r#""0011:2233:4455:6677""#),
    ("peer_seed", r#""8899:aabb:ccdd:eeff""#),
    ("period", r#""3s""#),
    ("mode", r#""encrypt""#),
    ("allowed_ips", r#"["fd00:6d74::2/128", "10.66.0.2/32"]"#),
];

const ROOT: Schema = Schema {
    path: "",
    keys: ROOT_KEYS,
    elsewhere: (PEER_KEYS, "move it below a line [[peer]]: it says something of one peer"),
};

const PEER: Schema = Schema {
    path: "peer.",
    keys: PEER_KEYS,
    elsewhere: (ROOT_KEYS, "move it above the first [[peer]]: lines below that line belong to the peer"),
};

/// What the file says, less what has a problem of its own.
pub(super) struct RootFields {
    pub(super) interface: Option<Located<String>>,
    pub(super) prefixes: Vec<Located<Ipv6Net>>,
    /// Whether `prefixes` is all that the file lists, and not too many.
    pub(super) prefixes_complete: bool,
    pub(super) link: LinkMode,
    pub(super) xdp: XdpChoice,
    pub(super) device: Option<Located<String>>,
    pub(super) addresses: Vec<Located<IpNet>>,
    pub(super) mtu: Option<u16>,
    pub(super) horizon: Option<Located<Duration>>,
    pub(super) max_sessions: Option<Located<u32>>,
    pub(super) socket: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
}

/// What one `[[peer]]` says, less what has a problem of its own.
pub(super) struct PeerFields {
    pub(super) at: usize,
    pub(super) name: Option<Located<String>>,
    pub(super) prefix: Option<Located<Ipv6Net>>,
    pub(super) local_prefix: Option<Located<Ipv6Net>>,
    pub(super) key_file: Option<Located<PathBuf>>,
    pub(super) seed: Option<Located<[u8; 8]>>,
    pub(super) peer_seed: Option<Located<[u8; 8]>>,
    pub(super) period: Option<Located<Duration>>,
    pub(super) mode: Mode,
    pub(super) allowed_ips: Vec<Located<IpNet>>,
}

/// A configuration without problems.
pub(super) struct Document {
    pub(super) config: Config<()>,
    /// Where the `key_file` of each peer stands in the text.
    key_files_at: Vec<usize>,
}

/// Reads the text that `problems` collects for.
pub(super) fn read(text: &str, mut problems: Problems) -> Result<Document, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let remedy = match error.message() {
            "duplicate key" => "keep one of them",
            _ => "correct the TOML here",
        };
        problems.add(error.span().map_or(0, |span| span.start), "", Fault::new(error.message(), remedy));
    }
    if !errors.is_empty() {
        // What a broken file seems to lack would only lead astray.
        return Err(problems.into_error());
    }
    let root = Section::new((table.get_ref(), 0), &ROOT, &mut problems);
    let fields = read_root(&root, &mut problems);
    let peers: Vec<_> = root
        .tables("peer", &mut problems)
        .into_iter()
        .map(|peer| read_peer(&Section::new(peer, &PEER, &mut problems), &mut problems))
        .collect();
    check::root(&fields, &peers, &mut problems);
    check::peers(&fields, &peers, &mut problems);
    match build(fields, peers) {
        Some(document) if problems.count() == 0 => Ok(document),
        _ => Err(problems.into_error()),
    }
}

fn read_root(root: &Section, problems: &mut Problems) -> RootFields {
    let interface = root.required("interface", problems, fields::interface);
    let before = problems.count();
    let prefixes = root.list("prefix", problems, fields::prefix);
    let prefixes_complete = problems.count() == before && prefixes.len() <= MAX_PREFIXES;
    let mtu_range = (u32::from(MIN_INNER_MTU), u32::from(MAX_INNER_MTU));
    RootFields {
        interface,
        prefixes,
        prefixes_complete,
        link: value_or_default(
            root.optional("link", problems, |text| fields::choice(text, LinkMode::CHOICES)),
        ),
        xdp: value_or_default(
            root.optional("xdp", problems, |text| fields::choice(text, XdpChoice::CHOICES)),
        ),
        device: root.optional("device", problems, fields::device),
        addresses: root.list("address", problems, fields::tunnel_address),
        mtu: root.integer("mtu", problems, mtu_range).map(|mtu| mtu.value as u16),
        horizon: root.optional("horizon", problems, |text| fields::duration(text, HORIZON_RANGE)),
        max_sessions: root.integer("max_sessions", problems, (1, MAX_SESSIONS)),
        socket: root.optional("socket", problems, fields::socket_path).map(|path| path.value),
        state_dir: root.optional("state_dir", problems, fields::absolute_path).map(|path| path.value),
    }
}

fn read_peer(peer: &Section, problems: &mut Problems) -> PeerFields {
    PeerFields {
        at: peer.at(),
        name: peer.required("name", problems, fields::peer_name),
        prefix: peer.required("prefix", problems, fields::prefix),
        local_prefix: peer.optional("local_prefix", problems, fields::prefix),
        key_file: peer.required("key_file", problems, fields::key_file),
        seed: peer.required("seed", problems, fields::seed),
        peer_seed: peer.required("peer_seed", problems, fields::seed),
        period: peer.optional("period", problems, |text| fields::duration(text, PERIOD_RANGE)),
        mode: value_or_default(peer.optional("mode", problems, |text| fields::choice(text, Mode::CHOICES))),
        allowed_ips: peer.list("allowed_ips", problems, fields::inner_network),
    }
}

fn value_or_default<T: Default>(value: Option<Located<T>>) -> T {
    value.map(|located| located.value).unwrap_or_default()
}

/// `None` when something that must be there is not; then a problem has been reported.
fn build(root: RootFields, peers: Vec<PeerFields>) -> Option<Document> {
    let prefixes: Vec<_> = root.prefixes.into_iter().map(|prefix| prefix.value).collect();
    let default_prefix = *prefixes.first()?;
    let peers: Option<Vec<_>> = peers.into_iter().map(|peer| build_peer(peer, default_prefix)).collect();
    let (peers, key_files_at): (Vec<_>, _) = peers?.into_iter().unzip();
    let longest = peers.iter().map(|peer: &Peer<()>| peer.period).max().unwrap_or_default();
    let config = Config {
        interface: root.interface?.value,
        prefixes,
        link: root.link,
        xdp: root.xdp,
        device: root.device.map_or_else(|| DEFAULT_DEVICE.to_owned(), |device| device.value),
        addresses: root.addresses.into_iter().map(|address| address.value).collect(),
        mtu: root.mtu,
        horizon: root.horizon.map_or(DEFAULT_HORIZON.max(longest * MIN_SLOTS_AHEAD), |horizon| horizon.value),
        max_sessions: root.max_sessions.map_or(DEFAULT_MAX_SESSIONS, |number| number.value),
        socket: root.socket,
        state_dir: root.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR)),
        peers,
    };
    Some(Document { config, key_files_at })
}

fn build_peer(peer: PeerFields, default_prefix: Ipv6Net) -> Option<(Peer<()>, usize)> {
    let key_file = peer.key_file?;
    let built = Peer {
        name: peer.name?.value,
        prefix: peer.prefix?.value,
        local_prefix: peer.local_prefix.map_or(default_prefix, |prefix| prefix.value),
        key_file: key_file.value,
        key: (),
        seed: peer.seed?.value,
        peer_seed: peer.peer_seed?.value,
        period: peer.period.map_or(DEFAULT_PERIOD, |period| period.value),
        mode: peer.mode,
        allowed_ips: peer.allowed_ips.into_iter().map(|net| net.value).collect(),
    };
    Some((built, key_file.at))
}

/// Loads the key of each peer; relative paths are taken from `folder`. Two peers with one key are refused: with
/// their seeds equal as well they would share addresses and nonces, and even without, one could open what is
/// meant for the other.
pub(super) fn load_keys(
    document: Document,
    folder: &Path,
    mut problems: Problems,
) -> Result<Config, ConfigError> {
    let Document { mut config, key_files_at } = document;
    let mut keys: Vec<Option<SecretKey>> = Vec::with_capacity(config.peers.len());
    for (index, at) in key_files_at.into_iter().enumerate() {
        config.peers[index].key_file = folder.join(&config.peers[index].key_file);
        let key = load_key(&config.peers, &keys, index);
        keys.push(key.map_err(|fault| problems.add(at, "peer.key_file", fault)).ok());
    }
    match keys.into_iter().collect::<Option<Vec<_>>>() {
        Some(keys) => Ok(with_keys(config, keys)),
        None => Err(problems.into_error()),
    }
}

/// The key of the peer at `index`, compared with `earlier`, those of the peers before it.
fn load_key(peers: &[Peer<()>], earlier: &[Option<SecretKey>], index: usize) -> Result<SecretKey, Fault> {
    let path = &peers[index].key_file;
    let key = SecretKey::from_file(path).map_err(|error| Fault::new(error.what(), error.remedy()))?;
    if key == SecretKey::from_bytes([0; 32]) {
        let what = format!("{} holds a key of zeros", path.display());
        let remedy = format!("make a key for both ends: (umask 077; mtd genpsk > {})", path.display());
        return Err(Fault::new(what, remedy));
    }
    if let Some(other) = earlier.iter().position(|other| other.as_ref() == Some(&key)) {
        let what = format!("{} holds the same key as that of peer {}", path.display(), peers[other].name);
        return Err(Fault::new(what, "give each peer a key of its own, from mtd genpsk"));
    }
    Ok(key)
}

fn with_keys(config: Config<()>, keys: Vec<SecretKey>) -> Config {
    let peers = config.peers.into_iter().zip(keys).map(|(peer, key)| peer.with_key(key));
    Config {
        interface: config.interface,
        prefixes: config.prefixes,
        link: config.link,
        xdp: config.xdp,
        device: config.device,
        addresses: config.addresses,
        mtu: config.mtu,
        horizon: config.horizon,
        max_sessions: config.max_sessions,
        socket: config.socket,
        state_dir: config.state_dir,
        peers: peers.collect(),
    }
}
