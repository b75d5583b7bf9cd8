//! `[[peer]]` in the configuration: a statically configured session (requirement MT-27).

use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::keys::SecretKey;
use crate::keys::section::key_file;
use crate::model::{DEFAULT_PERIOD, Fault, LinkMode, MiddleboxChoice, Mode, Rule, shown};
use crate::proto::session::{self, Static};
use crate::schema::common::{self, FILTER, LOCAL_PREFIX, MIDDLEBOX, MODE, NAME, PERIOD};
use crate::schema::{
    self, Facts, Key, Kind, Located, Part, Problems, Schema, Section, Slots, each_once, unlocated, value,
};

const SEED: Kind =
    Kind::Text("64 bits in 16 hexadecimal digits, with or without colons between groups of four");

/// `[[peer]]`.
pub const PEER: Schema = Schema {
    header: "[[peer]]",
    path: "peer.",
    help: "A statically configured peer. One [[peer]] for each. The peer's own file is the mirror image: prefix and local_prefix, \
           seed and peer_seed change places; key, period and mode are the same at both ends.",
    groups: &[&[
        Key::required("name", NAME, r#""laptop""#, "Unique among peers, clients and servers."),
        Key::required(
            "prefix",
            Kind::Text("an IPv6 prefix of 64 to 112 bits, or of 128"),
            r#""2001:db8:2::/64""#,
            "The peer's protected prefix.",
        )
        .from_requirement("MT-06"),
        LOCAL_PREFIX,
        Key::required(
            "key_file",
            Kind::Text("the path of a file that only its owner can read, or \"credential:NAME\""),
            r#""keys/laptop.key""#,
            "The pre-shared key, a different one for each peer.",
        )
        .from_requirement("MT-27"),
        Key::required(
            "seed",
            SEED,
            r#""0011:2233:4455:6677""#,
            "64 random bits for the own end, such as `openssl rand -hex 8` prints.",
        )
        .from_requirement("MT-27"),
        Key::required(
            "peer_seed",
            SEED,
            r#""8899:aabb:ccdd:eeff""#,
            "64 other random bits for the peer's end.",
        )
        .from_requirement("MT-27"),
        PERIOD,
        MODE,
        Key::required(
            "allowed_ips",
            Kind::List("a network without host bits"),
            r#"["fd00:6d74::2/128", "10.66.0.2/32"]"#,
            "Inner addresses and networks of the peer: what is sent to it, and what it may send from.",
        ),
        MIDDLEBOX,
        FILTER,
    ]],
};

/// A statically configured peer (requirement MT-27). `K` as for [`crate::config::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer<K = SecretKey> {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique.
    pub name: String,
    /// Its protected prefix, 64 to 112 bits, host bits zero (requirement MT-06), or its single address, 128 bits.
    pub prefix: Ipv6Net,
    /// The own prefix for the session: one of the own protected prefixes.
    pub local_prefix: Ipv6Net,
    /// The file of the pre-shared key: as written after parsing, resolved against the configuration file's folder after
    /// loading.
    pub key_file: PathBuf,
    /// The pre-shared key; different for each peer.
    pub key: K,
    /// Own seed IID (requirement MT-27), network order.
    pub seed: [u8; 8],
    /// The peer's seed IID, network order; different from `seed`.
    pub peer_seed: [u8; 8],
    /// Slot length (requirement MT-04), within [`PERIOD_RANGE`](crate::model::PERIOD_RANGE).
    pub period: Duration,
    /// How inner packets are protected.
    pub mode: Mode,
    /// Inner networks of the peer, host bits zero; at least one, and none of them at two peers.
    pub allowed_ips: Vec<IpNet>,
    /// Whether something on this side lets in only answers.
    pub middlebox: MiddleboxChoice,
    /// Which inner packets may pass; `None`: all.
    pub filter: Option<Vec<Rule>>,
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
            middlebox: self.middlebox,
            filter: self.filter,
        }
    }
}

impl<'a> From<&'a Peer> for Static<'a> {
    fn from(peer: &'a Peer) -> Self {
        Static {
            local: session::end(peer.local_prefix, peer.seed),
            remote: session::end(peer.prefix, peer.peer_seed),
            key: &peer.key,
            period: peer.period,
            mode: peer.mode,
        }
    }
}

/// The settings of one `[[peer]]`.
#[derive(Debug)]
struct PeerFields {
    at: usize,
    name: Option<Located<String>>,
    prefix: Option<Located<Ipv6Net>>,
    local_prefix: Option<Located<Ipv6Net>>,
    key_file: Option<Located<PathBuf>>,
    seed: Option<Located<[u8; 8]>>,
    peer_seed: Option<Located<[u8; 8]>>,
    period: Option<Duration>,
    mode: Mode,
    allowed_ips: Vec<Located<IpNet>>,
    middlebox: MiddleboxChoice,
    filter: Option<Vec<Rule>>,
}

impl PeerFields {
    fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self {
            at: table.at(),
            name: table.required("name", problems, schema::name),
            prefix: table.required("prefix", problems, schema::prefix),
            local_prefix: table.optional("local_prefix", problems, schema::prefix),
            key_file: table.required("key_file", problems, |text| key_file(text, "keys/laptop.key")),
            seed: table.required("seed", problems, seed),
            peer_seed: table.required("peer_seed", problems, seed),
            period: value(table.duration("period", problems)),
            mode: table.choice("mode", problems, Mode::CHOICES).unwrap_or_default(),
            allowed_ips: table.list("allowed_ips", problems, schema::inner_network),
            middlebox: table.choice("middlebox", problems, MiddleboxChoice::CHOICES).unwrap_or_default(),
            filter: common::filter(table, problems),
        }
    }

    fn build(self, facts: &Facts) -> Option<(Peer<()>, usize)> {
        let key_file = self.key_file?;
        let peer = Peer {
            name: self.name?.value,
            prefix: self.prefix?.value,
            local_prefix: value(self.local_prefix).or(facts.default_prefix())?,
            key_file: key_file.value,
            key: (),
            seed: self.seed?.value,
            peer_seed: self.peer_seed?.value,
            period: self.period.unwrap_or(DEFAULT_PERIOD),
            mode: self.mode,
            allowed_ips: self.allowed_ips.into_iter().map(unlocated).collect(),
            middlebox: self.middlebox,
            filter: self.filter,
        };
        Some((peer, key_file.at))
    }

    /// Those networks that are single addresses.
    fn hosts(&self) -> impl Iterator<Item = &Located<IpNet>> {
        self.allowed_ips.iter().filter(|net| net.value.prefix_len() == net.value.max_prefix_len())
    }

    fn check_seeds(&self, problems: &mut Problems<'_>) {
        if let (Some(own), Some(other)) = (&self.seed, &self.peer_seed)
            && own.value == other.value
        {
            let remedy = "give each end 64 random bits of its own; what is seed here is peer_seed there";
            problems.add(other.at, "peer.peer_seed", Fault::new("is the same as seed", remedy));
        }
    }

    fn check_prefixes(&self, facts: &Facts, problems: &mut Problems<'_>) {
        facts.check_local_prefix("peer.local_prefix", self.local_prefix.as_ref(), problems);
        if let Some(Located { value, at }) = self.prefix
            && facts.link == LinkMode::Routed
            && facts.own_prefixes().iter().any(|own| own.value == value)
        {
            let what = format!("{value} is routed to this host, so the peer cannot have it");
            let remedy =
                "write the peer's own prefix, or set link = \"on-link\" if both hosts are on that link";
            problems.add(at, "peer.prefix", Fault::new(what, remedy));
        }
    }

    fn check_networks(&self, facts: &Facts, problems: &mut Problems<'_>) {
        for Located { value: net, at } in self.hosts() {
            if facts.addresses.iter().any(|own| own.value.addr() == net.addr()) {
                let what = format!("{net} is this host's own tunnel address");
                problems.add(*at, "peer.allowed_ips", Fault::new(what, "write the peer's inner addresses"));
            }
        }
    }
}

/// The settings of all `[[peer]]`.
#[derive(Debug)]
pub struct Peers(Vec<PeerFields>);

impl Peers {
    /// Reads each `[[peer]]`.
    pub fn read(tables: &[Section<'_, '_>], problems: &mut Problems<'_>) -> Self {
        Self(tables.iter().map(|table| PeerFields::read(table, problems)).collect())
    }

    /// The peers, and the place of each one's `key_file`; `None` when something is missing, which has been reported.
    pub fn build(self, facts: &Facts) -> Option<(Vec<Peer<()>>, Vec<usize>)> {
        let peers: Option<Vec<_>> = self.0.into_iter().map(|peer| peer.build(facts)).collect();
        Some(peers?.into_iter().unzip())
    }
}

impl Part for Peers {
    fn tell(&self, facts: &mut Facts) {
        for peer in &self.0 {
            facts.names.extend(peer.name.iter().map(|name| ("peer.name", name.clone())));
            facts.networks.extend(peer.allowed_ips.iter().map(|net| ("peer.allowed_ips", net.clone())));
            facts.peer_addresses.extend(peer.hosts().map(|net| net.value.addr()));
            let period = peer.period.unwrap_or(DEFAULT_PERIOD);
            facts.slots.push(Slots { period, whose: "the peer", at: peer.at });
            facts.needs_prefix.push(peer.at);
        }
        facts.sessions += self.0.len();
    }

    /// Checks the peers, each by itself and all together (requirement MT-27).
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        for peer in &self.0 {
            peer.check_seeds(problems);
            peer.check_prefixes(facts, problems);
            peer.check_networks(facts, problems);
        }
        let key_files = self.0.iter().filter_map(|peer| Some(("peer.key_file", peer.key_file.as_ref()?)));
        each_once(key_files, problems, |path, line| {
            let what = format!("{} is the key file of the peer in line {line} already", path.display());
            Fault::new(what, "give each peer a key of its own, from mtd genpsk")
        });
    }
}

/// A seed IID: 64 bits in 16 hexadecimal digits, with or without colons between groups of four (MT-27).
fn seed(text: &str) -> Result<[u8; 8], Fault> {
    let grouped = text.split(':').all(|group| group.len() == 4);
    let digits = if grouped { text.replace(':', "") } else { text.to_owned() };
    let mut seed = [0; 8];
    hex::decode_to_slice(digits, &mut seed).map_err(|_| {
        let what = format!("\"{}\" is no seed of 64 bits", shown(text));
        Fault::new(what, "write all 16 hexadecimal digits, such as 0011:2233:4455:6677")
    })?;
    Ok(seed)
}
