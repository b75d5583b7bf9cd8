//! The course of the demonstration: network, server, uninvited and registered clients, traffic and stranger, the end.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mtd::status::{self, Status};
use mtd_tests::controller::Controller;
use mtd_tests::topology::Host;
use mtd_tests::{cleanup, wait_until};

use crate::display::{Display, Live};
use crate::findings::{Findings, Uninvited};
use crate::first::{ASK_EVERY, Asker, Echo};
use crate::flows::{Flows, Pulse};
use crate::link::{Captures, Counters};
use crate::network::{DHT_NODES, Network};
use crate::numbers::{Numbers, Probing, Tcp, Udp, median};
use crate::options::Options;
use crate::parties::Parties;
use crate::sites::{self, Identity, NAMES, SERVER, Site, Tunnel, UNINVITED};
use crate::stranger::{self, Stranger};

/// Interval at which the state is checked.
const TICK: Duration = Duration::from_millis(50);

/// How long publishing may take, and how long a client may take to its first packet.
const OPENING: Duration = Duration::from_secs(30);

/// How long the uninvited client may take to look for the server.
const LOOKING: Duration = Duration::from_secs(20);

/// Time between two questions of the uninvited client.
const UNINVITED_EVERY: Duration = Duration::from_millis(100);

/// Additional slots that the traffic may take if it did not survive enough of them.
const SPARE_SLOTS: u32 = 3;

/// The network, with the running server and clients. Fields are dropped in order, the network last.
pub(crate) struct Stage {
    stranger: Option<Stranger>,
    captures: Captures,
    echo: Echo,
    clients: Vec<Client>,
    server: Controller,
    /// The server's key and folder.
    home: (Identity, Site),
    network: Network,
}

/// A registered client with an open session.
struct Client {
    name: &'static str,
    controller: Controller,
    tunnel: Tunnel,
    /// Time from its start to the first answer through the tunnel.
    first_packet: Duration,
    _site: Site,
}

impl Stage {
    /// Sets everything up, until all sessions are open.
    ///
    /// # Errors
    /// When something cannot be set up, or a client gets no session.
    pub(crate) fn build(options: &Options) -> Result<Self> {
        eprintln!(
            "making server, {} clients, an uninvited one, router and stranger, each in a network namespace, and a \
             private DHT of {DHT_NODES} nodes",
            options.clients
        );
        let network = Network::build(options.clients, options.delivery.into())?;
        let parties = Parties::of(&network)?;
        stranger::introduce(&network.base, &parties)?;
        let captures = Captures::start(&network.base, &parties)?;
        require_no_signal()?;
        eprintln!("making key files, and starting the server (mtd run)");
        let own = Identity::new()?;
        let keys: Vec<(&str, Identity)> = NAMES
            .into_iter()
            .take(options.clients.into())
            .map(|name| Ok((name, Identity::new()?)))
            .collect::<Result<_>>()?;
        let registered: Vec<_> = keys.iter().map(|(name, identity)| (*name, identity)).collect();
        let site = Site::server(&network, options, &own, &registered)?;
        let mut server = site.spawn(&network.base.server)?;
        server.wait_ready()?;
        wait_published(&server, &network.base.server, options.clients)?;
        let stranger = if options.no_scan {
            None
        } else {
            Some(Stranger::start(&network.base, &parties, captures.counters(), options.period)?)
        };
        let echo = Echo::start(&network.base.server.netns, SERVER.v6)?;
        let home = (own, site);
        let mut this = Self { stranger, captures, echo, clients: Vec::new(), server, home, network };
        for (n, (name, identity)) in keys.iter().enumerate() {
            this.connect(options, n, (name, identity))?;
        }
        Ok(this)
    }

    /// Starts a client, and waits for its first packet through the tunnel.
    fn connect(&mut self, options: &Options, n: usize, (name, own): (&'static str, &Identity)) -> Result<()> {
        let host = self.network.clients().nth(n).context("a client without a host")?;
        let site = Site::client(host, &self.network, options, own, &self.home.0)?;
        let asker = Asker::start(&host.netns, self.echo.address(), ASK_EVERY)?;
        let start = Instant::now();
        let mut controller = site.spawn(host)?;
        let opened = wait_until(&format!("a first packet of {name}"), OPENING, || {
            require_no_signal()?;
            if let Some(status) = controller.process.try_wait()? {
                bail!("the client ended with {status}");
            }
            Ok(asker.is_answered())
        });
        opened.with_context(|| format!("the log of {name} says:\n{}", controller.process.log()))?;
        let when = asker.stop().0.context("no answer")?;
        let status = controller.status(&host.netns)?;
        let tunnel = sites::tunnel(&status).context("the server gave the client no tunnel addresses")?;
        self.captures.add_inside(&host.netns, &status.device)?;
        let first_packet = when.saturating_duration_since(start);
        eprintln!("{name}: first packet through the tunnel {} ms after its start", first_packet.as_millis());
        self.clients.push(Client { name, controller, tunnel, first_packet, _site: site });
        Ok(())
    }

    /// Runs traffic, stranger and uninvited client for `duration`, and stops everything.
    ///
    /// # Errors
    /// When something cannot be run, or a controller does not answer. A claim that fails is a finding, not an error.
    pub(crate) fn play(mut self, options: &Options, duration: Duration) -> Result<Findings> {
        require_no_signal()?;
        eprintln!(
            "{} slots of {}, with traffic through every session{}; Ctrl-C ends it early",
            options.slots(),
            humantime::format_duration(options.period),
            if options.no_scan { "" } else { " and a stranger who probes the server" }
        );
        let stranger = self.stranger.take();
        if let Some(stranger) = &stranger {
            stranger.scan();
        }
        let counters = self.captures.counters().clone();
        let outsider = Outsider::start(&self, options)?;
        let pairs: Vec<_> = self
            .network
            .clients()
            .zip(&self.clients)
            .map(|(host, client)| (&host.netns, client.tunnel))
            .collect();
        let flows = Flows::start(&self.network.base.server.netns, &SERVER, &pairs, duration)?;
        let first: Vec<_> = self.clients.iter().map(|client| (client.name, client.first_packet)).collect();
        let lived = watch(options, &first, &flows, &counters);
        let stranger = stranger.map(Stranger::stop).transpose()?;
        let flows = flows.stop()?;
        let uninvited = outsider.stop(&self.network.uninvited)?;
        let documents = self.documents()?;
        let captured = self.captures.stop()?;
        for client in &mut self.clients {
            client.controller.stop()?;
        }
        self.server.stop()?;
        let seen = counters.seen().clone();
        let numbers = Numbers {
            slots: lived,
            server_addresses_seen: seen.addresses(),
            server_ports_seen: seen.ports(),
            tcp: Tcp::of(&flows.tcp),
            udp: Udp::of(&flows.udp),
            stranger: Probing { probes: counters.probes(), replies: seen.replies },
            plaintext_seen: seen.plaintext,
            drops: documents.drops,
            rendezvous: documents.rendezvous,
            clients: self.clients.len(),
            sessions_open: documents.sessions_open,
            start_to_first_packet_ms: median(first.iter().map(|(_, time)| time.as_secs_f64() * 1e3)),
        };
        let interrupted = cleanup::interrupted();
        Ok(Findings { numbers, flows, seen, captured, stranger, uninvited, first, interrupted })
    }

    /// The controllers' own status.
    fn documents(&self) -> Result<Documents> {
        let server = self.server.status(&self.network.base.server.netns)?;
        let clients = self
            .network
            .clients()
            .zip(&self.clients)
            .map(|(host, client)| client.controller.status(&host.netns))
            .collect::<Result<Vec<_>>>()?;
        let of_clients = || clients.iter().filter_map(|status| status.rendezvous.as_ref());
        let at_clients: usize = clients.iter().map(sites::open_sessions).sum();
        Ok(Documents {
            rendezvous: crate::numbers::Rendezvous {
                published: published(&server),
                fetched: of_clients().map(|rendezvous| rendezvous.fetched).sum(),
                median_fetch_ms: median(of_clients().filter_map(|rendezvous| rendezvous.median_fetch_ms)),
            },
            // A session counts as open only if both ends report it as open.
            sessions_open: sites::open_sessions(&server).min(at_clients),
            drops: server.drops,
        })
    }
}

struct Documents {
    rendezvous: crate::numbers::Rendezvous,
    sessions_open: usize,
    drops: BTreeMap<String, u64>,
}

/// The uninvited client at work.
struct Outsider {
    asker: Asker,
    controller: Controller,
    _site: Site,
}

impl Outsider {
    fn start(stage: &Stage, options: &Options) -> Result<Self> {
        let (network, host) = (&stage.network, &stage.network.uninvited);
        let site = Site::client(host, network, options, &Identity::new()?, &stage.home.0)?;
        let asker = Asker::start(&host.netns, stage.echo.address(), UNINVITED_EVERY)?;
        Ok(Self { controller: site.spawn(host)?, asker, _site: site })
    }

    /// Waits until the client has looked for the server, and stops it.
    fn stop(mut self, host: &Host) -> Result<Uninvited> {
        let deadline = Instant::now() + LOOKING;
        self.controller.wait_ready().with_context(|| format!("the controller of {UNINVITED}"))?;
        let status = loop {
            let status = self.controller.status(&host.netns)?;
            let looked = status.rendezvous.as_ref().is_some_and(has_looked);
            if looked || cleanup::interrupted() || Instant::now() >= deadline {
                break status;
            }
            thread::sleep(TICK);
        };
        let rendezvous = status.rendezvous.as_ref();
        self.controller.stop()?;
        let (_, asked) = self.asker.stop();
        Ok(Uninvited {
            looked: rendezvous.is_some_and(has_looked),
            fetched: rendezvous.map_or(0, |rendezvous| rendezvous.fetched),
            addresses: status.sessions.iter().map(|session| session.tunnel.local.len()).sum(),
            asked,
        })
    }
}

/// Whether nodes of the DHT have answered, even if they had nothing.
fn has_looked(rendezvous: &status::Rendezvous) -> bool {
    rendezvous.network == status::Network::Ok
}

fn published(server: &Status) -> u64 {
    server.rendezvous.as_ref().map_or(0, |rendezvous| rendezvous.published)
}

/// Waits until the server has published an introduction for every client. It publishes those of the next window later.
fn wait_published(server: &Controller, host: &Host, clients: u8) -> Result<()> {
    let start = Instant::now();
    wait_until("the server to publish its introductions", OPENING, || {
        require_no_signal()?;
        Ok(published(&server.status(&host.netns)?) >= u64::from(clients))
    })
    .with_context(|| format!("the server's log says:\n{}", server.process.log()))?;
    eprintln!("the server has published {clients} introductions in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Shows the traffic until it has survived the slots, or cannot do so any more, or a signal came. Returns the number of
/// slots that it survived.
fn watch(options: &Options, first: &[(&str, Duration)], flows: &Flows, counters: &Counters) -> u32 {
    let wanted = options.slots();
    let mut display = Display::new(wanted);
    let mut pulse = Pulse::new(options.period, Instant::now(), &flows.progress());
    while pulse.lived() < wanted
        && pulse.passed() < wanted.saturating_add(SPARE_SLOTS)
        && !cleanup::interrupted()
    {
        thread::sleep(TICK);
        let progress = flows.progress();
        pulse.tick(Instant::now(), &progress);
        let (current, addresses, replies) = {
            let seen = counters.seen();
            (seen.current, seen.addresses(), seen.replies)
        };
        let stranger = (!options.no_scan).then(|| (counters.probes(), replies));
        let slots = (pulse.lived(), wanted);
        display.show(&Live { slots, clients: first.len(), current, addresses, progress, stranger });
    }
    display.clear();
    pulse.lived()
}

/// Returns an error after Ctrl-C, which ends the preparations; the caller's values then clean up as they are dropped.
fn require_no_signal() -> Result<()> {
    ensure!(!cleanup::interrupted(), "interrupted");
    Ok(())
}
