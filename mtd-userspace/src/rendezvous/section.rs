//! `[rendezvous]` in the configuration: how servers and clients find each other (requirements MT-21 … MT-24).

use std::net::Ipv4Addr;
use std::time::Duration;

use humantime::format_duration;

use crate::model::{Encoding, Fault, shown};
use crate::proto::rendezvous::{self, WINDOWS};
use crate::schema::{
    Facts, Key, Kind, Located, Part, Problems, Schema, Section, unlocated, value, value_or_default,
};

/// Shortest and longest rendezvous window; whole seconds.
pub const WINDOW_RANGE: (Duration, Duration) =
    (Duration::from_secs(*WINDOWS.start()), Duration::from_secs(*WINDOWS.end()));

/// Default rendezvous window (requirement MT-21).
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(rendezvous::DEFAULT_WINDOW);

/// Largest value of `publish_in_flight`: every six publications need a socket and a thread.
pub const MAX_PUBLISH_IN_FLIGHT: u32 = 256;

/// Default number of concurrent publications.
pub const DEFAULT_PUBLISH_IN_FLIGHT: u32 = 64;

/// Longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST_NAME: usize = 253;

/// The values of a window, here and in `[[server]]`.
pub const WINDOW: Kind = Kind::Duration(WINDOW_RANGE.0, WINDOW_RANGE.1);

/// `[rendezvous]`.
pub const RENDEZVOUS: Schema = Schema {
    header: "[rendezvous]",
    path: "rendezvous.",
    help: "How servers and clients that know nothing but each other's public keys find each other: through the BitTorrent DHT, in \
           which a server publishes an introduction for each client and window, which only that client can find and read.",
    groups: &[&[
        Key::preset(
            "window",
            WINDOW,
            r#""15m""#,
            "Length of a window in whole seconds. The same on a server and its clients. The clocks of both may differ by one \
             window.",
        )
        .from_requirement("MT-21"),
        Key::preset(
            "encoding",
            Kind::Choice(Encoding::WORDS),
            r#""mutable""#,
            "How a server publishes. \"mutable\": as mutable items (BEP 44). \"ports\": in the ports of announced peers; slow, and \
             it gives the server's IPv4 address away to everybody who crawls the DHT.",
        )
        .from_requirement("MT-24"),
        Key::preset(
            "bootstrap",
            Kind::List("\"host:port\", IPv4"),
            r#"["dht.example.net:6881"]"#,
            "Nodes of the DHT to begin with. An empty list stands for those of the public network. For a private network, name \
             some of its nodes; `mtd dht serve` runs one.",
        )
        .or("[]"),
        Key::required("port", Kind::Integer(1, u16::MAX as u32), "6881", "Local UDP port of the DHT node.")
            .otherwise("any"),
        Key::preset(
            "serve",
            Kind::Boolean,
            "false",
            "Whether that node answers strangers and stores for them. It shows them that something is here.",
        ),
        Key::preset(
            "publish_in_flight",
            Kind::Integer(1, MAX_PUBLISH_IN_FLIGHT),
            "64",
            "Publications under way at a time, of which six share a socket.",
        ),
    ]],
};

/// How servers and clients find each other (requirements MT-21 … MT-24).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Length of a window, whole seconds within [`WINDOW_RANGE`].
    pub window: Duration,
    /// How introductions are published.
    pub encoding: Encoding,
    /// Bootstrap nodes of the DHT, `host:port`; empty: those of the public network.
    pub bootstrap: Vec<String>,
    /// Local UDP port of the DHT node; `None`: any.
    pub port: Option<u16>,
    /// Whether the node answers strangers and stores for them.
    pub serve: bool,
    /// Number of concurrent publications, 1 to [`MAX_PUBLISH_IN_FLIGHT`].
    pub publish_in_flight: u32,
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self {
            window: DEFAULT_WINDOW,
            encoding: Encoding::default(),
            bootstrap: Vec::new(),
            port: None,
            serve: false,
            publish_in_flight: DEFAULT_PUBLISH_IN_FLIGHT,
        }
    }
}

impl Rendezvous {
    /// Reads `[rendezvous]`.
    pub fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let default = Self::default();
        let in_flight: Option<Located<u32>> = table.integer("publish_in_flight", problems);
        Self {
            window: value(table.optional("window", problems, window)).unwrap_or(default.window),
            encoding: table.choice("encoding", problems, Encoding::CHOICES).unwrap_or_default(),
            bootstrap: table.strings("bootstrap", problems, bootstrap).into_iter().map(unlocated).collect(),
            port: value(table.integer("port", problems)).map(|port| port as u16),
            serve: value_or_default(table.boolean("serve", problems)),
            publish_in_flight: value(in_flight).unwrap_or(default.publish_in_flight),
        }
    }
}

impl Part for Rendezvous {
    fn tell(&self, facts: &mut Facts) {
        facts.window = self.window;
    }
}

/// A rendezvous window: whole seconds, since all ends must mean the same instants.
///
/// # Errors
/// When the text is not one.
pub fn window(text: &str) -> Result<Duration, Fault> {
    let window = crate::schema::duration(text, WINDOW_RANGE)?;
    if window.subsec_nanos() == 0 {
        return Ok(window);
    }
    let what = format!("{} is not a whole number of seconds", format_duration(window));
    Err(Fault::new(what, format!("write \"{}s\"", window.as_secs())))
}

/// A node of the DHT.
fn bootstrap(text: &str) -> Result<String, Fault> {
    const EXAMPLE: &str = "write a host and a port, such as dht.example.net:6881 or 192.0.2.1:6881";
    let fault = |what: &str| Err(Fault::new(format!("\"{}\" {what}", shown(text)), EXAMPLE));
    let Some((host, port)) = text.rsplit_once(':') else { return fault("has no port") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return fault("has no port that is a number from 1 to 65535");
    }
    if host.contains([':', '[', ']']) {
        return fault("is an IPv6 address; the DHT has only IPv4");
    }
    let digits_and_dots = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = (1..=MAX_HOST_NAME).contains(&host.len()) && host.chars().all(valid);
    if !is_name || digits_and_dots && host.parse::<Ipv4Addr>().is_err() {
        return fault("names no host");
    }
    Ok(text.to_owned())
}
