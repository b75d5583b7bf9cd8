//! `mtd dht get`: shows what a server has published for a client, or whatever is stored at a place in the DHT.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use super::{EncodingArg, Network, patiently};
use crate::cli::output::{self, Section, Style};
use crate::keys::{PublicKey, SecretKey};
use crate::proto::rendezvous::{Descriptor, Shared, WINDOWS, ports, window_start};
use crate::rendezvous::{
    Answer, Counters, Encoding, FetchError, FetchOptions, Fetcher, Found, Lookup, MainlineStore, Store as _,
};

/// Version of the JSON output.
const SCHEMA: u32 = 1;

/// Look for what a server has published
///
/// With --key and --server: looks as the client whose key it is, in the present window, the previous and the next one.
/// With --key and --client: looks as the server whose key it is, and shows what that client will find. The introduction
/// key is never shown. With --raw: shows whatever is stored at a place, without interpreting it.
///
/// Exit status: 0 if anything is found, 1 if nothing is found or the DHT cannot be reached, 2 for a wrong command line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mtd dht get --key /etc/mtd/private.key --server 'H4sIAAAA…='\n  \
    mtd dht get --key client.key --server \"$(cat server.pub)\" --bootstrap 198.18.0.1:6881 --json\n  \
    mtd dht get --raw 0123456789abcdef0123456789abcdef01234567")]
pub(super) struct GetArgs {
    /// File with the private key of the client (with --server) or of the server (with --client)
    #[arg(long, value_name = "FILE", required_unless_present = "raw")]
    key: Option<PathBuf>,

    /// Public key of the server
    #[arg(long, value_name = "KEY", required_unless_present_any = ["raw", "client"])]
    server: Option<PublicKey>,

    /// Public key of a client, to see what its server has published for it
    #[arg(long, value_name = "KEY", conflicts_with = "server")]
    client: Option<PublicKey>,

    /// Window length, as configured at the server
    #[arg(long, value_name = "TIME", value_parser = window_length, default_value = "15m")]
    window: u64,

    /// How the introduction is stored in the DHT
    #[arg(long, value_enum, default_value_t)]
    encoding: EncodingArg,

    /// An info-hash (40 hexadecimal digits: announced ports) or the public key of a mutable item (64 digits)
    #[arg(long, value_name = "TARGET", conflicts_with_all = ["key", "server", "client"])]
    raw: Option<Target>,

    #[command(flatten)]
    network: Network,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A place in the DHT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    InfoHash([u8; 20]),
    ItemKey([u8; 32]),
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::decode(text).unwrap_or_default();
        let hash = || <[u8; 20]>::try_from(bytes.as_slice()).map(Self::InfoHash);
        let key = || <[u8; 32]>::try_from(bytes.as_slice()).map(Self::ItemKey);
        hash().or_else(|_| key()).map_err(|_| "write 40 or 64 hexadecimal digits")
    }
}

pub(super) async fn run(args: &GetArgs) -> anyhow::Result<()> {
    let store = args.network.store();
    match (args.raw, &args.key, args.server.or(args.client)) {
        (Some(target), ..) => raw(&store, target, args.json).await,
        (None, Some(path), Some(peer)) => {
            let own = SecretKey::from_file(path)?;
            let Some(shared) = Shared::new(&own, &peer) else {
                bail!("{peer} is no valid public key; copy it again")
            };
            let (server, client) =
                if args.client.is_some() { (own.public(), peer) } else { (peer, own.public()) };
            windows(args, store, |window| shared.rendezvous(&server, &client, window)).await
        }
        _ => bail!("name a private key with --key and the other end with --server or --client"),
    }
}

/// What was found in one window.
#[derive(Debug, Serialize)]
struct WindowReport {
    /// 0 for the present window, -1 for the one before it, 1 for the next.
    offset: i8,
    /// Start of the window, Unix time in s.
    window: u64,
    descriptor: String,
    item_target: String,
    state: WindowState,
    #[serde(skip_serializing_if = "Option::is_none")]
    introduction: Option<IntroductionReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum WindowState {
    Found,
    /// Nodes answered, and had nothing.
    Absent,
    /// Whether anything is there could not be found out.
    Failed,
}

impl WindowState {
    fn of(result: &Result<Found, FetchError>) -> Self {
        match result {
            Ok(_) => Self::Found,
            Err(FetchError::Absent { .. }) => Self::Absent,
            Err(_) => Self::Failed,
        }
    }
}

#[derive(Debug, Serialize)]
struct IntroductionReport {
    published_ms: u64,
    /// Negative when the server's clock is ahead.
    age_ms: i64,
    prefix: String,
    slot_ms: u64,
    introduction_slot_ms: u64,
    took_ms: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    windows: Vec<WindowReport>,
    counters: Counters,
}

async fn windows(
    args: &GetArgs,
    store: MainlineStore,
    rendezvous: impl Fn(u64) -> crate::proto::rendezvous::Rendezvous,
) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = window_start(now.as_secs(), args.window);
    let options = FetchOptions { encoding: args.encoding.into(), ..FetchOptions::default() };
    let fetcher = Fetcher::new(Arc::new(store), options);
    let look = |offset: i8| {
        let choice = rendezvous(start.saturating_add_signed(i64::from(offset) * args.window.cast_signed()));
        let fetcher = fetcher.clone();
        async move {
            let result = fetcher.fetch(std::slice::from_ref(&choice)).await;
            let lookup = Lookup::new(&choice);
            (result, offset, choice.window(), lookup)
        }
    };
    let (present, previous, next) =
        patiently("looking in the DHT", async { tokio::join!(look(0), look(-1), look(1)) }).await;
    let results = [previous, present, next];
    let any = results.iter().any(|(result, ..)| result.is_ok());
    let failure = failure(&results.each_ref().map(|(result, ..)| result.as_ref().err()));
    let windows = results.into_iter().map(|(result, offset, window, lookup)| WindowReport {
        offset,
        window,
        descriptor: lookup.descriptor.to_string(),
        item_target: hex::encode(lookup.item_target()),
        state: WindowState::of(&result),
        error: result.as_ref().err().map(ToString::to_string),
        introduction: result.ok().map(|found| describe(&found, now)),
    });
    let report = Report { schema: SCHEMA, windows: windows.collect(), counters: fetcher.counters() };
    let text = if args.json { json(&report)? } else { human(&report, Style::of_stdout()) };
    output::print(&text)?;
    match failure {
        Some(error) if !any => Err(error.into()),
        _ => Ok(()),
    }
}

/// The most informative of the failures.
fn failure(errors: &[Option<&FetchError>]) -> Option<FetchError> {
    let says_more = |error: &&&FetchError| !matches!(error, FetchError::Absent { .. });
    let errors: Vec<_> = errors.iter().flatten().collect();
    errors.iter().find(|error| says_more(error)).or(errors.first()).map(|error| (**error).clone())
}

fn describe(found: &Found, now: Duration) -> IntroductionReport {
    let introduction = &found.introduction;
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let prefix = Ipv6Addr::from(introduction.network.prefix);
    IntroductionReport {
        published_ms: introduction.published_ms,
        age_ms: milliseconds(now).cast_signed().saturating_sub_unsigned(introduction.published_ms),
        prefix: format!("{prefix}/{}", introduction.network.length),
        slot_ms: milliseconds(introduction.rot),
        introduction_slot_ms: milliseconds(introduction.slot),
        took_ms: milliseconds(found.took),
    }
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value).context("cannot write JSON")? + "\n")
}

fn human(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for window in &report.windows {
        let name = match window.offset {
            -1 => "previous window",
            0 => "present window",
            _ => "next window",
        };
        let mut section = Section::new(style, format!("{name}: from {}", time(window.window * 1000)));
        section.row("descriptor", &window.descriptor);
        section.row("item target", &window.item_target);
        match &window.introduction {
            Some(introduction) => {
                let age = Duration::from_millis(introduction.age_ms.unsigned_abs());
                let direction =
                    if introduction.age_ms < 0 { "in the future: compare the clocks" } else { "ago" };
                let age = output::span(age.as_secs_f64());
                section.row("published", format!("{} ({age} {direction})", time(introduction.published_ms)));
                section.row("server's prefix", &introduction.prefix);
                section.row(
                    "slot length",
                    humantime::format_duration(Duration::from_millis(introduction.slot_ms)),
                );
                section.row("found within", format!("{} ms", introduction.took_ms));
            }
            None if window.state == WindowState::Absent => section.row("published", "nothing found"),
            None => section.row("published", "not known"),
        }
        text.push_str(&section.render());
        text.push('\n');
    }
    let Counters { wrong_length, foreign, unusable, stale, late, invalid, .. } = report.counters;
    let refused = [
        ("signature or form is wrong", invalid),
        ("sealed by or for others", foreign),
        ("of another length", wrong_length),
        ("sealed by the server, but unusable", unusable),
        ("older than a known one", stale),
        ("newer, but late", late),
    ];
    for (reason, count) in refused.into_iter().filter(|(_, count)| *count > 0) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "passed over: {count} ({reason})");
    }
    text
}

fn time(ms: u64) -> String {
    // Beyond the year 9999 there is no such form.
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{ms} ms"),
    }
}

/// What is stored at a place.
#[derive(Debug, Serialize)]
struct RawReport {
    schema: u32,
    /// Of a mutable item: every different version, with the number of nodes that have it.
    items: Vec<RawItem>,
    /// Of announced ports: the addresses and ports that were announced.
    peers: Vec<SocketAddrV4>,
    /// The bytes that the announced ports encode, if any, in hexadecimal digits.
    stuffed: Option<String>,
}

#[derive(Debug, Serialize)]
struct RawItem {
    seq: Option<i64>,
    copies: u32,
    value: String,
}

async fn raw(store: &MainlineStore, target: Target, as_json: bool) -> anyhow::Result<()> {
    let mut report = RawReport { schema: SCHEMA, items: Vec::new(), peers: Vec::new(), stuffed: None };
    match target {
        Target::ItemKey(key) => report.items = patiently("looking in the DHT", items(store, key)).await?,
        Target::InfoHash(hash) => {
            report.peers = patiently("looking in the DHT", store.announced(hash)).await?;
            let mut found = ports::Found::default();
            report.peers.iter().for_each(|peer| found.add(peer.port()));
            report.stuffed = found.messages(found.run(), 1).first().map(hex::encode);
        }
    }
    let text = if as_json { json(&report)? } else { raw_human(&report) };
    output::print(&text)?;
    if report.items.is_empty() && report.peers.is_empty() {
        bail!("nothing is there");
    }
    Ok(())
}

async fn items(store: &MainlineStore, key: [u8; 32]) -> anyhow::Result<Vec<RawItem>> {
    let lookup = Lookup { descriptor: Descriptor([0; 20]), item_key: key };
    let mut answers = store.look(lookup, Encoding::Item, 0);
    let mut copies: BTreeMap<_, u32> = BTreeMap::new();
    loop {
        match answers.next().await {
            Answer::Message(message) => *copies.entry((message.seq, message.value)).or_default() += 1,
            Answer::End(end) => {
                end?;
                break;
            }
        }
    }
    let item = |((seq, value), copies)| RawItem { seq, copies, value: hex::encode::<Vec<u8>>(value) };
    Ok(copies.into_iter().map(item).collect())
}

fn raw_human(report: &RawReport) -> String {
    let mut text = String::new();
    for item in &report.items {
        let seq = item.seq.unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "item with sequence number {seq}, {} copies: {}", item.copies, item.value);
    }
    for peer in &report.peers {
        let _ = writeln!(text, "announced: {peer}");
    }
    if let Some(stuffed) = &report.stuffed {
        let _ = writeln!(text, "as bytes: {stuffed}");
    }
    text
}

fn window_length(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 15m"))?;
    let whole = time.subsec_nanos() == 0 && WINDOWS.contains(&time.as_secs());
    if whole { Ok(time.as_secs()) } else { Err("it must be whole seconds within 60s to 1day".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rendezvous::DEFAULT_WINDOW;

    #[test]
    fn targets_are_hashes_or_keys() {
        assert_eq!("ab".repeat(20).parse(), Ok(Target::InfoHash([0xab; 20])));
        assert_eq!("ab".repeat(32).parse(), Ok(Target::ItemKey([0xab; 32])));
        for bad in ["", "ab", "xy".repeat(20).as_str()] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn windows_are_whole_seconds_within_bounds() {
        assert_eq!(window_length("15m"), Ok(DEFAULT_WINDOW));
        assert_eq!(window_length("1day"), Ok(86_400));
        for bad in ["59s", "25h", "90500ms", "x"] {
            assert!(window_length(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_told_whatever_they_are() {
        assert_eq!(time(1_800_000_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(time(u64::MAX), format!("{} ms", u64::MAX));
    }
}
