//! `[listen]` in the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;
use ipnet::{IpNet, Ipv6Net};

use super::Client;
use crate::model::{DEFAULT_PERIOD, Fault, MIN_REKEY_MARGIN, Mode, Pool};
use crate::schema::common::{LOCAL_PREFIX, MODE, PERIOD, SLOT};
use crate::schema::{
    self, Facts, Key, Kind, Located, Part, Problems, Schema, Section, Slots, unlocated, value,
};

/// Default folder of the clients' public keys.
pub const DEFAULT_CLIENTS_DIR: &str = "clients";

/// Shortest and longest slot of an introduction.
const INTRODUCTION_SLOT_RANGE: (Duration, Duration) = crate::model::PERIOD_RANGE;

/// Default of the longest slot that a client gets because it wishes it: as long as routers commonly keep an entry without
/// packets.
const DEFAULT_LONGEST_SLOT: Duration = Duration::from_secs(30);

/// Shortest and longest time for which introductions are made ahead.
const INTRODUCTIONS_AHEAD_RANGE: (Duration, Duration) = (Duration::ZERO, Duration::from_hours(24 * 30));

/// Default time for which introductions are made ahead.
const DEFAULT_INTRODUCTIONS_AHEAD: Duration = Duration::from_hours(24);

/// Default slot of an introduction.
const DEFAULT_INTRODUCTION_SLOT: Duration = Duration::from_secs(30);

/// Default time for which the introduction of the previous window is still served, or the window if that is shorter.
const DEFAULT_GRACE: Duration = Duration::from_mins(5);

/// Default time after which a session without packets ends.
const DEFAULT_IDLE: Duration = Duration::from_mins(1);

/// Range of the lifetime of a session's keys, until their renewal and until their end.
const KEY_LIFE: Kind = Kind::Duration(Duration::from_secs(2), Duration::from_hours(24));

/// Default age at which keys are renewed.
const DEFAULT_REKEY: Duration = Duration::from_mins(2);

/// Default age at which keys expire.
const DEFAULT_EXPIRE: Duration = Duration::from_mins(3);

/// Default number of handshakes a second with all clients together.
const DEFAULT_HANDSHAKES: u32 = 1000;

/// Default number of handshakes a minute with one client.
const DEFAULT_HANDSHAKES_PER_CLIENT: u32 = 30;

/// `[listen]`.
pub const LISTEN: Schema = Schema {
    header: "[listen]",
    path: "listen.",
    help: "A server with registered clients. To register one: `mtd peers add NAME PUBLIC_KEY`, or a [[client]].",
    groups: &[&[
        Key::preset(
            "clients_dir",
            Kind::Text("the path of a folder, which need not exist"),
            r#""clients""#,
            "Folder of the clients' public keys: a file NAME.pub for each.",
        )
        .reloading(),
        Key::required(
            "pool",
            Kind::List("a network without host bits; one of IPv6 with 32 to 120 bits, one of IPv4 with 8 to 30 bits, or both"),
            r#"["fd00:6d74::/64", "10.66.0.0/24"]"#,
            "Where clients get their tunnel addresses from.",
        )
        .otherwise("the networks of address"),
        PERIOD,
        Key::preset(
            "longest_slot",
            SLOT,
            r#""30s""#,
            "Longest slot that a client gets because it asks for it (slot of its [[server]]); for one client, slot of \
             [[client]] decides. What is not longer than period grants no wish.",
        )
        .from_requirement("MT-04"),
        MODE,
        Key::preset(
            "introduction_slot",
            Kind::Duration(INTRODUCTION_SLOT_RANGE.0, INTRODUCTION_SLOT_RANGE.1),
            r#""30s""#,
            "Length of a slot at which the address for introductions changes.",
        )
        .from_requirement("MT-22"),
        Key::required(
            "introduction_grace",
            Kind::Duration(Duration::from_secs(1), Duration::from_hours(24)),
            r#""5m""#,
            "For how long the introduction of the window before is still served; at most a window of [rendezvous].",
        )
        .otherwise("5m, or the window if that is shorter"),
        Key::preset(
            "introductions_ahead",
            Kind::Duration(INTRODUCTIONS_AHEAD_RANGE.0, INTRODUCTIONS_AHEAD_RANGE.1),
            r#""24h""#,
            "For how long the introductions are good that `mtd introduction` prints and introductions_dir has, for clients that \
             do not reach the DHT; at most a thousand windows. A restart of the controller, another prefix and the removal of a \
             client end them.",
        ),
        Key::required(
            "introductions_dir",
            Kind::Text("the path of a folder"),
            r#""/var/lib/mtd/introductions""#,
            "Folder in which a file NAME.introduction for each client is kept up to date, for a web server to offer. Only its \
             client can read what is in it.",
        )
        .otherwise("none"),
        Key::preset(
            "idle_timeout",
            Kind::Duration(Duration::from_secs(5), Duration::from_hours(24)),
            r#""60s""#,
            "A session ends when nothing valid came for this long. For clients that send rarely, see keepalive.",
        ),
        Key::preset(
            "rekey_after",
            KEY_LIFE,
            r#""120s""#,
            "Age at which the keys of a session are renewed.",
        ),
        Key::preset(
            "expire_after",
            KEY_LIFE,
            r#""180s""#,
            "Age at which they are not used any more; at least 5 s after their renewal.",
        ),
        LOCAL_PREFIX,
        Key::preset(
            "max_handshakes_per_second",
            Kind::Integer(1, 1_000_000),
            "1000",
            "Handshakes that are answered in a second, with all clients together. More are dropped.",
        ),
        Key::preset(
            "handshakes_per_client",
            Kind::Integer(1, 10_000),
            "30",
            "Handshakes that are answered in a minute with one client. More are dropped.",
        ),
    ]],
};

/// The settings of a server with registered clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Folder of the clients' public keys: as written after parsing, resolved against the configuration file's folder after
    /// loading. It need not exist.
    pub clients_dir: PathBuf,
    /// The clients that the configuration file itself registers.
    pub clients: Vec<Client>,
    /// The pool of the clients' tunnel addresses.
    pub pool: Pool,
    /// Slot length of the sessions, within [`PERIOD_RANGE`](crate::model::PERIOD_RANGE).
    pub period: Duration,
    /// Longest slot length that a client gets because it wishes it.
    pub longest_slot: Duration,
    /// How inner packets are protected.
    pub mode: Mode,
    /// Slot length of the introductions, within [`PERIOD_RANGE`](crate::model::PERIOD_RANGE).
    pub introduction_slot: Duration,
    /// Time for which the introduction of the previous window is still served; at most the window.
    pub introduction_grace: Duration,
    /// For how long introductions in files are good.
    pub introductions_ahead: Duration,
    /// Folder for introductions in files, resolved as `clients_dir` is.
    pub introductions_dir: Option<PathBuf>,
    /// A session ends after this time without a valid packet.
    pub idle_timeout: Duration,
    /// Age at which a session's keys are renewed.
    pub rekey_after: Duration,
    /// Age at which a session's keys expire; at least `rekey_after` and [`MIN_REKEY_MARGIN`].
    pub expire_after: Duration,
    /// The own prefix for introductions and sessions: one of the own protected prefixes. `None` when the prefix is
    /// that of the interface.
    pub local_prefix: Option<Ipv6Net>,
    /// Handshakes a second with all clients together.
    pub max_handshakes_per_second: u32,
    /// Handshakes a minute with one client.
    pub handshakes_per_client: u32,
}

impl Listen {
    /// Resolves the paths against the `folder` of the configuration file.
    pub fn join_paths(&mut self, folder: &Path) {
        self.clients_dir = folder.join(&self.clients_dir);
        self.introductions_dir = self.introductions_dir.as_ref().map(|dir| folder.join(dir));
    }
}

/// The settings of `[listen]`.
#[derive(Debug)]
pub struct ListenFields {
    at: usize,
    clients_dir: Option<PathBuf>,
    /// `None`: not in the file.
    pool: Option<Vec<Located<IpNet>>>,
    period: Option<Duration>,
    longest_slot: Option<Duration>,
    mode: Mode,
    introduction_slot: Option<Duration>,
    introduction_grace: Option<Located<Duration>>,
    introductions_ahead: Option<Duration>,
    introductions_dir: Option<PathBuf>,
    idle_timeout: Option<Duration>,
    rekey_after: Option<Located<Duration>>,
    expire_after: Option<Located<Duration>>,
    local_prefix: Option<Located<Ipv6Net>>,
    max_handshakes_per_second: Option<u32>,
    handshakes_per_client: Option<u32>,
}

impl ListenFields {
    /// Reads `[listen]`.
    pub fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let folder = |text: &str| schema::path(text, DEFAULT_CLIENTS_DIR);
        let carried = |text: &str| schema::path(text, "introductions");
        let per_second = table.integer("max_handshakes_per_second", problems);
        Self {
            at: table.at(),
            clients_dir: value(table.optional("clients_dir", problems, folder)),
            pool: table.contains("pool").then(|| table.optional_list("pool", problems, pool)),
            period: value(table.duration("period", problems)),
            longest_slot: value(table.duration("longest_slot", problems)),
            mode: table.choice("mode", problems, Mode::CHOICES).unwrap_or_default(),
            introduction_slot: value(table.duration("introduction_slot", problems)),
            introduction_grace: table.duration("introduction_grace", problems),
            introductions_ahead: value(table.duration("introductions_ahead", problems)),
            introductions_dir: value(table.optional("introductions_dir", problems, carried)),
            idle_timeout: value(table.duration("idle_timeout", problems)),
            rekey_after: table.duration("rekey_after", problems),
            expire_after: table.duration("expire_after", problems),
            local_prefix: table.optional("local_prefix", problems, schema::prefix),
            max_handshakes_per_second: value(per_second),
            handshakes_per_client: value(table.integer("handshakes_per_client", problems)),
        }
    }

    /// The server with these clients; `None` when something is missing, which has been reported.
    pub fn build(self, clients: Vec<Client>, facts: &Facts) -> Option<Listen> {
        let pool = match self.pool {
            Some(networks) => pool_of(networks.into_iter().map(unlocated)),
            None => default_pool(facts),
        };
        pool.networks().next()?;
        Some(Listen {
            clients_dir: self.clients_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_CLIENTS_DIR)),
            clients,
            pool,
            period: self.period.unwrap_or(DEFAULT_PERIOD),
            longest_slot: self.longest_slot.unwrap_or(DEFAULT_LONGEST_SLOT),
            mode: self.mode,
            introduction_slot: self.introduction_slot.unwrap_or(DEFAULT_INTRODUCTION_SLOT),
            introduction_grace: value(self.introduction_grace).unwrap_or(DEFAULT_GRACE.min(facts.window)),
            introductions_ahead: self.introductions_ahead.unwrap_or(DEFAULT_INTRODUCTIONS_AHEAD),
            introductions_dir: self.introductions_dir,
            idle_timeout: self.idle_timeout.unwrap_or(DEFAULT_IDLE),
            rekey_after: value(self.rekey_after).unwrap_or(DEFAULT_REKEY),
            expire_after: value(self.expire_after).unwrap_or(DEFAULT_EXPIRE),
            local_prefix: value(self.local_prefix).or(facts.default_prefix()),
            max_handshakes_per_second: self.max_handshakes_per_second.unwrap_or(DEFAULT_HANDSHAKES),
            handshakes_per_client: self.handshakes_per_client.unwrap_or(DEFAULT_HANDSHAKES_PER_CLIENT),
        })
    }

    fn check_pool(&self, facts: &Facts, problems: &mut Problems<'_>) {
        const EXAMPLE: &str = "pool = [\"fd00:6d74::/64\", \"10.66.0.0/24\"]";
        let Some(networks) = &self.pool else {
            if facts.addresses_complete && default_pool(facts).networks().next().is_none() {
                let what = "is missing, and no network of address has room for clients";
                let remedy = format!("add a line such as {EXAMPLE}");
                problems.add(self.at, "listen.pool", Fault::new(what, remedy));
            }
            return;
        };
        for (index, Located { value: net, at }) in networks.iter().enumerate() {
            let family = |net: &IpNet| matches!(net, IpNet::V4(_));
            let name = if family(net) { "IPv4" } else { "IPv6" };
            if networks[..index].iter().any(|other| family(&other.value) == family(net)) {
                let what = format!("{net} is a second {name} network");
                problems.add(*at, "listen.pool", Fault::new(what, "keep one network of each family"));
            }
            if facts.addresses_complete
                && !facts.addresses.iter().any(|own| family(&own.value) == family(net))
            {
                let what = format!("{net}: this host has no {name} address that such clients could reach");
                let remedy = format!("add one to address, or take {net} out");
                problems.add(*at, "listen.pool", Fault::new(what, remedy));
            }
            let overlaps = |prefix: IpNet| prefix.contains(net) || net.contains(&prefix);
            let prefix = facts.own_prefixes().iter().find(|prefix| overlaps(IpNet::V6(prefix.value)));
            if let Some(prefix) = prefix {
                let what = format!("{net} overlaps the protected prefix {}", prefix.value);
                let remedy = "write a network of the tunnel's own, such as fd00:6d74::/64";
                problems.add(*at, "listen.pool", Fault::new(what, remedy));
            }
        }
    }

    fn check_grace(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(grace) = &self.introduction_grace else { return };
        if grace.value > facts.window {
            let window = format_duration(facts.window);
            let what = format!(
                "{} is longer than a window of the rendezvous ({window})",
                format_duration(grace.value)
            );
            let remedy = format!("write at most \"{window}\"");
            problems.add(grace.at, "listen.introduction_grace", Fault::new(what, remedy));
        }
    }

    fn check_key_life(&self, problems: &mut Problems<'_>) {
        let rekey = self.rekey_after.as_ref().map_or(DEFAULT_REKEY, |rekey| rekey.value);
        let expire = self.expire_after.as_ref().map_or(DEFAULT_EXPIRE, |expire| expire.value);
        let Some(written) = self.expire_after.as_ref().or(self.rekey_after.as_ref()) else { return };
        if expire < rekey + MIN_REKEY_MARGIN {
            let what = format!(
                "{} is less than rekey_after ({}) and {} for the new keys to be agreed on",
                format_duration(expire),
                format_duration(rekey),
                format_duration(MIN_REKEY_MARGIN)
            );
            let remedy =
                format!("write at least expire_after = \"{}\"", format_duration(rekey + MIN_REKEY_MARGIN));
            problems.add(written.at, "listen.expire_after", Fault::new(what, remedy));
        }
    }
}

impl Part for ListenFields {
    fn tell(&self, facts: &mut Facts) {
        let period = self.period.unwrap_or(DEFAULT_PERIOD);
        facts.slots.push(Slots { period, whose: LISTEN.header, at: self.at });
        facts.needs_key.push((LISTEN.header, self.at));
    }

    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        self.check_pool(facts, problems);
        self.check_grace(facts, problems);
        self.check_key_life(problems);
        facts.check_local_prefix("listen.local_prefix", self.local_prefix.as_ref(), problems);
    }
}

/// The pool of a file without one: the networks of the own addresses, as far as they are suitable.
fn default_pool(facts: &Facts) -> Pool {
    let networks = facts.addresses.iter().map(|net| net.value.trunc());
    pool_of(networks.filter(|net| is_pool_length(*net)))
}

/// The first network of each family.
fn pool_of(networks: impl Iterator<Item = IpNet>) -> Pool {
    let mut pool = Pool::default();
    for network in networks {
        match network {
            IpNet::V6(net) => pool.v6 = pool.v6.or(Some(net)),
            IpNet::V4(net) => pool.v4 = pool.v4.or(Some(net)),
        }
    }
    pool
}

/// A network for the clients' tunnel addresses.
fn pool(text: &str) -> Result<IpNet, Fault> {
    let length = if text.contains(':') { 64 } else { 24 };
    let net = text
        .parse::<IpNet>()
        .map_err(|_| schema::not_a_network(text, length, "fd00:6d74::/64 or 10.66.0.0/24"))?;
    let (least, most) = pool_lengths(net);
    if !is_pool_length(net) {
        let what =
            format!("{net} has {} bits; a pool of this family has {least} to {most}", net.prefix_len());
        return Err(Fault::new(
            what,
            "write a smaller or larger network, such as fd00:6d74::/64 or 10.66.0.0/24",
        ));
    }
    schema::check_host_bits(net)?;
    schema::check_unicast(net.addr(), "those in fd00:6d74::/64 or 10.66.0.0/24")?;
    Ok(net)
}

/// Whether a network has a suitable length for a pool.
fn is_pool_length(net: IpNet) -> bool {
    let (least, most) = pool_lengths(net);
    (least..=most).contains(&net.prefix_len())
}

fn pool_lengths(net: IpNet) -> (u8, u8) {
    if matches!(net, IpNet::V4(_)) { Pool::V4_LENGTHS } else { Pool::V6_LENGTHS }
}
