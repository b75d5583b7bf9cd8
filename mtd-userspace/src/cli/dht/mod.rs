//! `mtd dht`: runs a node of a private DHT, and shows or stores what is in a DHT.

mod get;
mod put;

use std::future::Future;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval_at, sleep};

use crate::rendezvous::{DEFAULT_REQUEST_TIMEOUT, DhtConfig, Encoding, MAX_ITEMS, MainlineStore};

/// A step that takes longer than this reports on standard error that it is still going on, …
const PATIENCE: Duration = Duration::from_secs(2);
/// … and reports it again at this interval.
const REPEAT: Duration = Duration::from_secs(5);

/// A new node looks for other nodes at this interval, so that nodes that start together find each other, …
const EAGER: Duration = Duration::from_secs(3);
/// … this many times; …
const EAGER_ROUNDS: u32 = 10;
/// … and later at this interval.
const CALM: Duration = Duration::from_mins(1);

/// The bootstrap node of a node that is the whole network: nobody answers at the discard port.
const NOBODY: &str = "127.0.0.1:9";

/// Arguments of `mtd dht`.
#[derive(Debug, Args)]
pub(super) struct DhtArgs {
    #[command(subcommand)]
    command: DhtCommand,
}

#[derive(Debug, Subcommand)]
enum DhtCommand {
    Serve(ServeArgs),
    Get(get::GetArgs),
    Put(put::PutArgs),
}

/// Serve a private DHT: answer, and store items
///
/// Runs until SIGINT or SIGTERM. A node learns of others by asking them: in a network of several nodes, name at each node
/// all the others, whether they are running yet or not. A node's items are lost when it ends; servers publish theirs again
/// within 45 minutes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mtd dht serve --alone\n  \
    mtd dht serve --bootstrap dht2.example:6881 --bootstrap dht3.example:6881")]
struct ServeArgs {
    /// Another node of the network; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port, required_unless_present = "alone")]
    bootstrap: Vec<String>,

    /// Run without other nodes: this node is the whole network
    #[arg(long, conflicts_with = "bootstrap")]
    alone: bool,

    /// UDP port
    #[arg(long, value_name = "PORT", default_value_t = 6881)]
    port: u16,

    /// IPv4 address to serve at
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::UNSPECIFIED)]
    address: Ipv4Addr,

    /// Maximum number of mutable items kept; each client needs one for every window of the last two hours
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_ITEMS,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000_000))]
    max_items: usize,
}

/// The DHT that a command asks.
#[derive(Debug, Args)]
struct Network {
    /// Bootstrap node; may be given several times [default: those of the public network]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    bootstrap: Vec<String>,

    /// How long one node may take to answer
    #[arg(long, value_name = "TIME", value_parser = request_timeout, default_value = "2s")]
    request_timeout: Duration,
}

impl Network {
    fn store(&self) -> MainlineStore {
        MainlineStore::new(DhtConfig {
            bootstrap: self.bootstrap.clone(),
            request_timeout: self.request_timeout,
            ..DhtConfig::default()
        })
    }
}

/// [`Encoding`] on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum EncodingArg {
    /// A mutable item
    #[default]
    Item,
    /// Announced ports
    Ports,
}

impl From<EncodingArg> for Encoding {
    fn from(encoding: EncodingArg) -> Self {
        match encoding {
            EncodingArg::Item => Self::Item,
            EncodingArg::Ports => Self::Ports,
        }
    }
}

/// Runs `mtd dht`.
///
/// # Errors
/// The DHT cannot be reached, nothing is found, or a key file cannot be used.
pub(super) async fn run(args: &DhtArgs) -> anyhow::Result<()> {
    match &args.command {
        DhtCommand::Serve(args) => serve(args).await,
        DhtCommand::Get(args) => get::run(args).await,
        DhtCommand::Put(args) => put::run(args).await,
    }
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let bootstrap = if args.alone { vec![NOBODY.to_owned()] } else { args.bootstrap.clone() };
    let store = MainlineStore::new(DhtConfig {
        bootstrap,
        port: Some(args.port),
        bind: Some(args.address),
        request_timeout: DEFAULT_REQUEST_TIMEOUT,
        serve: true,
        max_items: args.max_items,
        ..DhtConfig::default()
    });
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let port = store.port().await.with_context(|| {
        format!("cannot serve at {}:{}; name another --port or --address", args.address, args.port)
    })?;
    tracing::info!("serving the DHT at {}:{port}; keeping up to {} items", args.address, args.max_items);
    let mut known = None;
    let mut rounds = 0_u32;
    loop {
        tokio::select! {
            ended = tokio::signal::ctrl_c() => return ended.context("no handler for SIGINT"),
            _ = terminate.recv() => return Ok(()),
            count = look_around(&store, if rounds < EAGER_ROUNDS { EAGER } else { CALM }) => {
                rounds = rounds.saturating_add(1);
                if known != Some(count) && !args.alone {
                    tracing::info!("{count} other nodes are known");
                    known = Some(count);
                }
            }
        }
    }
}

/// Waits, then looks for other nodes. Returns how many are known.
async fn look_around(store: &MainlineStore, pause: Duration) -> usize {
    sleep(pause).await;
    // An error means that no other node answers. That is no reason to stop, since others may start later.
    store.refresh().await.unwrap_or(0)
}

/// Awaits something; if it takes long, reports on standard error that it is still going on.
async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let mut reminder = interval_at(start + PATIENCE, REPEAT);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = reminder.tick() => {
                // It does not matter if standard error cannot be written.
                let _ = writeln!(std::io::stderr(), "mtd: {what} ({} s)", start.elapsed().as_secs());
            }
        }
    }
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let allowed =
        !host.is_empty() && !host.contains([':', '[', ' ']) && port.parse().is_ok_and(|port: u16| port > 0);
    if allowed {
        Ok(text.to_owned())
    } else {
        Err("write a name or an IPv4 address and a port, as dht.example:6881")
    }
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    let time =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 2s or 300ms"))?;
    let allowed = (Duration::from_millis(100)..=Duration::from_secs(30)).contains(&time);
    if allowed { Ok(time) } else { Err("it must be within 100ms to 30s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_host_and_port() {
        for good in ["dht.example:6881", "192.0.2.1:1"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in
            ["dht.example", ":6881", "dht.example:0", "dht.example:65536", "[2001:db8::1]:6881", "", "a b:1"]
        {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn request_timeouts_have_bounds() {
        assert_eq!(request_timeout("300ms"), Ok(Duration::from_millis(300)));
        for bad in ["99ms", "31s", "2", "soon"] {
            assert!(request_timeout(bad).is_err(), "{bad}");
        }
    }
}
