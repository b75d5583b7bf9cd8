//! `[[server]]` in the configuration: a server that this host connects to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::keys::PublicKey;
use crate::keys::section::{PUBLIC_KEY, public_key};
use crate::model::MiddleboxChoice;
use crate::rendezvous::section as rendezvous;
use crate::schema::common::{LOCAL_PREFIX, MIDDLEBOX, NAME, SLOT};
use crate::schema::{self, Facts, Key, Kind, Located, Part, Problems, Schema, Section, unlocated, value};

/// Shortest and longest time between packets of an idle client.
pub const KEEPALIVE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// The default of that time.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(10);

/// `[[server]]`.
pub const SERVER: Schema = Schema {
    header: "[[server]]",
    path: "server.",
    help: "A server to connect to. One [[server]] for each.",
    groups: &[&[
        Key::required("name", NAME, r#""office""#, "Unique among peers, clients and servers."),
        Key::required(
            "public_key",
            PUBLIC_KEY,
            r#""5Uj0lNkzaZnWLgVD2Bd3r9ev2n1HbBFDr7V0yrcqpyY=""#,
            "The server's public key, from its administrator.",
        )
        .from_requirement("MT-20"),
        LOCAL_PREFIX,
        Key::preset(
            "allowed_ips",
            Kind::List("a network without host bits"),
            r#"["fd00:abcd::/48", "10.20.0.0/16"]"#,
            "Inner networks behind the server, besides its tunnel addresses: what is sent to it, and what it may send from. A \
             tunnel address of the server's that is not private, or that lies in a network of this host, is used only if it \
             is named here.",
        )
        .otherwise("none"),
        Key::preset(
            "keepalive",
            Kind::Duration(KEEPALIVE_RANGE.0, KEEPALIVE_RANGE.1),
            r#""10s""#,
            "Time without a packet from the server after which it is asked for one. With more than the server's idle_timeout, a \
             session without traffic ends and is made anew, and the server cannot reach this host meanwhile.",
        ),
        Key::required(
            "slot",
            SLOT,
            r#""20s""#,
            "Slot length to ask the server for: with longer ones, a router with a firewall or address translation in front of \
             this host has fewer entries to keep. The server decides, within its bounds; one that knows of no such wishes \
             does not answer.",
        )
        .otherwise("what the server has")
        .from_requirement("MT-04"),
        MIDDLEBOX,
        Key::required(
            "introduction_file",
            Kind::Text("the path of a file"),
            r#""home.introduction"#,
            "File with introductions of the server for this host, for networks without the DHT: the server's administrator gets \
             it by `mtd introduction`. It is read when it changes; bring it here by hand, or let a timer fetch it from a web \
             server.",
        )
        .otherwise("none"),
        Key::required("window", rendezvous::WINDOW, r#""15m""#, "The server's rendezvous window in whole seconds.")
            .otherwise("that of [rendezvous]")
            .from_requirement("MT-21"),
    ]],
};

/// A server that this host connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique among peers, clients and servers.
    pub name: String,
    /// Its public key, unique among clients and servers.
    pub public_key: PublicKey,
    /// The own prefix for the session: one of the own protected prefixes. `None` when the prefix is that of the
    /// interface.
    pub local_prefix: Option<Ipv6Net>,
    /// Inner networks behind the server, besides its tunnel addresses; host bits zero, and none of them at two peers or
    /// servers.
    pub allowed_ips: Vec<IpNet>,
    /// Longest time without a packet from the server before it is asked for one.
    pub keepalive: Duration,
    /// Slot length that the server is asked for; `None`: what it has.
    pub slot: Option<Duration>,
    /// The server's rendezvous window, whole seconds within [`rendezvous::WINDOW_RANGE`].
    pub window: Duration,
    /// Whether something on this side lets in only answers.
    pub middlebox: MiddleboxChoice,
    /// File with introductions: as written after parsing, resolved against the configuration file's folder after loading.
    pub introduction_file: Option<PathBuf>,
}

impl Server {
    /// Resolves the path against the `folder` of the configuration file.
    pub fn join_paths(&mut self, folder: &Path) {
        self.introduction_file = self.introduction_file.as_ref().map(|file| folder.join(file));
    }
}

/// The settings of one `[[server]]`.
#[derive(Debug)]
pub struct ServerFields {
    at: usize,
    name: Option<Located<String>>,
    public_key: Option<Located<PublicKey>>,
    local_prefix: Option<Located<Ipv6Net>>,
    allowed_ips: Vec<Located<IpNet>>,
    keepalive: Option<Duration>,
    slot: Option<Duration>,
    window: Option<Duration>,
    middlebox: MiddleboxChoice,
    introduction_file: Option<PathBuf>,
}

impl ServerFields {
    /// Reads a `[[server]]`.
    pub fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let file = |text: &str| schema::path(text, "home.introduction");
        Self {
            at: table.at(),
            name: table.required("name", problems, schema::name),
            public_key: table.required("public_key", problems, public_key),
            local_prefix: table.optional("local_prefix", problems, schema::prefix),
            allowed_ips: table.optional_list("allowed_ips", problems, schema::inner_network),
            keepalive: value(table.duration("keepalive", problems)),
            slot: value(table.duration("slot", problems)),
            window: value(table.optional("window", problems, rendezvous::window)),
            introduction_file: value(table.optional("introduction_file", problems, file)),
            middlebox: table.choice("middlebox", problems, MiddleboxChoice::CHOICES).unwrap_or_default(),
        }
    }

    /// The server; `None` when something is missing, which has been reported.
    pub fn build(self, facts: &Facts) -> Option<Server> {
        Some(Server {
            name: self.name?.value,
            public_key: self.public_key?.value,
            local_prefix: value(self.local_prefix).or(facts.default_prefix()),
            allowed_ips: self.allowed_ips.into_iter().map(unlocated).collect(),
            keepalive: self.keepalive.unwrap_or(DEFAULT_KEEPALIVE),
            slot: self.slot,
            window: self.window.unwrap_or(facts.window),
            middlebox: self.middlebox,
            introduction_file: self.introduction_file,
        })
    }
}

impl Part for ServerFields {
    fn tell(&self, facts: &mut Facts) {
        facts.names.extend(self.name.iter().map(|name| ("server.name", name.clone())));
        let key = self.public_key.iter().map(|key| key.clone().map(|key| *key.as_bytes()));
        facts.public_keys.extend(key.map(|key| ("server.public_key", key)));
        facts.networks.extend(self.allowed_ips.iter().map(|net| ("server.allowed_ips", net.clone())));
        facts.sessions += 1;
        facts.needs_key.push((SERVER.header, self.at));
    }

    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        facts.check_local_prefix("server.local_prefix", self.local_prefix.as_ref(), problems);
    }
}
