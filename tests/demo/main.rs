//! `mtd-demo`: the main job of mtd on real packets in a real kernel, in network namespaces that it makes and removes.
//!
//! A client and a server keep TCP and UDP alive through a tunnel whose addresses change every slot; a stranger on the
//! server's Ethernet looks for the server. What is claimed in the end was counted by sockets and packet captures.
//! `cargo xtask run` builds everything and starts it.

mod display;
mod flows;
mod link;
mod nmap;
mod options;
mod probes;
mod report;
mod stranger;
mod view;

use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use mtd_tests::cleanup;
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::topology::{Topology, TopologyOptions};

use crate::display::{Display, Live};
use crate::flows::{Flows, Pulse};
use crate::link::{Captures, Counters, Parties};
use crate::options::Options;
use crate::report::{Findings, Numbers, Probing, Tcp, Udp};
use crate::stranger::Stranger;

/// Exit code of a program that was ended by SIGINT, as shells report it.
const EXIT_INTERRUPTED: u8 = 130;

/// How often the state is looked at.
const TICK: Duration = Duration::from_millis(50);

/// How long the first packet may take through the tunnel.
const OPENING: Duration = Duration::from_secs(20);

/// So many slots more than wanted the traffic may take, when it did not live through all of them.
const SPARE_SLOTS: u32 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    match demonstrate(&options) {
        Ok(findings) if findings.interrupted => ExitCode::from(EXIT_INTERRUPTED),
        Ok(findings) if findings.failures(&options).is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) if cleanup::interrupted() => {
            eprintln!("ended by a signal before there was anything to show; everything is cleaned up");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demonstration and prints what it found.
fn demonstrate(options: &Options) -> Result<Findings> {
    ensure!(
        std::env::var_os("MTD_BIN").is_some(),
        "MTD_BIN is not set: start the demonstration with `cargo xtask run`, which builds mtd and sets it"
    );
    mtd_tests::check_root()?;
    let duration = options.duration()?;
    cleanup::handle_interrupts()?;
    eprintln!("making client, router, server and stranger, each in a network namespace");
    let findings = Stage::build(options)?.play(options, duration)?;
    let summary = findings.summary(options)?;
    if options.json {
        eprint!("{summary}");
        println!("{}", serde_json::to_string(&findings.numbers)?);
    } else {
        print!("{summary}");
    }
    Ok(findings)
}

/// The network with two controllers in it. Dropped in the order of the fields: the network goes last.
struct Stage {
    client: Site,
    server: Site,
    parties: Parties,
    topology: Topology,
}

/// One end of the session.
struct Site {
    controller: Controller,
    end: End,
    /// Its folder holds the configuration.
    _setup: Setup,
}

impl Stage {
    fn build(options: &Options) -> Result<Self> {
        let delivery = options.delivery.into();
        let topology = Topology::standard(&TopologyOptions { delivery, ..TopologyOptions::default() })?;
        let parties = Parties::of(&topology)?;
        stranger::introduce(&topology, &parties)?;
        require_no_signal()?;
        eprintln!("starting two controllers (mtd run)");
        let ends = [End::new(0, &topology.client), End::new(1, &topology.server)];
        let session = Session {
            period: humantime::format_duration(options.period).to_string(),
            ..Session::new(options.mode.name())?
        };
        let site = |host, local: &End, remote| -> Result<Site> {
            let setup = Setup::new(host, local, delivery)?.with_peer(&session, remote);
            let controller = setup.start(&host.netns)?;
            require_no_signal()?;
            Ok(Site { controller, end: local.clone(), _setup: setup })
        };
        let client = site(&topology.client, &ends[0], &ends[1])?;
        let server = site(&topology.server, &ends[1], &ends[0])?;
        let inside = IpAddr::V6(server.end.v6);
        topology.client.netns.wait_reachable(inside, OPENING).context("the tunnel did not open")?;
        Ok(Self { client, server, parties, topology })
    }

    /// Runs traffic and stranger for as long as asked, and stops everything.
    fn play(mut self, options: &Options, duration: Duration) -> Result<Findings> {
        require_no_signal()?;
        eprintln!(
            "{} slots of {}, with traffic through the tunnel{}; Ctrl-C ends it early",
            options.slots(),
            humantime::format_duration(options.period),
            if options.no_scan { "" } else { " and a stranger who probes the server" }
        );
        let Self { topology, parties, .. } = &self;
        let tunnel = self.client.controller.status(&topology.client.netns)?.device;
        let captures = Captures::start(topology, parties, &tunnel)?;
        let counters = captures.counters().clone();
        let flows = Flows::start(topology, &self.client.end, &self.server.end, duration)?;
        let stranger = if options.no_scan {
            None
        } else {
            Some(Stranger::start(topology, parties, &counters, options.period)?)
        };
        let lived = watch(options, &flows, &counters);
        let stranger = stranger.map(Stranger::stop).transpose()?;
        let flows = flows.stop()?;
        let drops = self.server.controller.status(&topology.server.netns)?.drops;
        let missed = captures.stop()?;
        self.client.controller.stop()?;
        self.server.controller.stop()?;
        let seen = counters.seen().clone();
        let numbers = Numbers {
            slots: lived,
            server_addresses_seen: seen.addresses(),
            server_ports_seen: seen.ports(),
            tcp: Tcp::of(&flows.tcp),
            udp: Udp::of(&flows.udp),
            stranger: Probing { probes: counters.probes(), replies: seen.replies },
            plaintext_seen: seen.plaintext,
            drops,
        };
        let marked_inside = counters.marked_inside();
        let interrupted = cleanup::interrupted();
        Ok(Findings { numbers, flows, seen, marked_inside, missed, stranger, interrupted })
    }
}

/// Shows the traffic until it has lived through the slots, or cannot any more, or a signal came; returns how many it
/// lived through.
fn watch(options: &Options, flows: &Flows, counters: &Counters) -> u32 {
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
        display.show(&Live { slots: (pulse.lived(), wanted), current, addresses, progress, stranger });
    }
    display.clear();
    pulse.lived()
}

/// Ends the preparations early after Ctrl-C; what was made so far is taken away on the way out.
fn require_no_signal() -> Result<()> {
    if cleanup::interrupted() {
        bail!("interrupted");
    }
    Ok(())
}
