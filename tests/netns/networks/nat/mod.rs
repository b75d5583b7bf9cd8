//! A client that has only local addresses (RFC 4193): its router translates them, and lets in only answers.

mod attacks;
mod changes;
mod slots;

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::firewall::forget_flows_after;
use mtd_tests::home::{HomeRouter, Translation};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::torture::wanted_length;
use mtd_tests::traffic::{UdpOptions, UdpStream};
use mtd_tests::wait_until;

use crate::rendezvous::world::{Inner, Who, World, quoted};
use crate::sessions::at_once;

/// How long a session may take to open, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Slot length of the sessions.
const SLOT: Duration = Duration::from_secs(1);

/// Age at which keys are renewed, where the test does not wait for that.
const SELDOM: &str = "120s";

/// A world whose first client is behind a router that does this, and lets in only answers; no controller runs.
fn at_home(translation: Translation) -> Result<(World, HomeRouter)> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.setup_mut(Who::Alice).shared_prefix = true;
    let (topology, host) = (world.topology(), world.host(Who::Alice));
    let home = HomeRouter::move_in(topology, host, translation)?;
    home.let_in_answers_only(&topology.router)?;
    forget_flows_after(&topology.router, 30)?;
    let server = world.setup_mut(Who::Server);
    server.keys.extend([("rekey_after", quoted(SELDOM)), ("expire_after", quoted("180s"))]);
    Ok((world, home))
}

/// The same, with the session open.
fn open_at_home(translation: Translation) -> Result<(World, HomeRouter)> {
    let (mut world, home) = at_home(translation)?;
    world.open_all()?;
    require_translated(&world, true)?;
    Ok((world, home))
}

/// That both ends say whether the client is translated.
fn require_translated(world: &World, translated: bool) -> Result<()> {
    wait_until("both ends to say whether the client is translated", PATIENCE, || {
        let far = world.sessions_with(Who::Alice)?;
        let near = world.session(Who::Alice)?.translated == translated;
        Ok(near && !far.is_empty() && far.iter().all(|session| session.translated == translated))
    })
    .with_context(|| world.explain())
}

/// Sends from the server to the client, which sends nothing by itself, for so long.
fn one_way(world: &World, time: Duration) -> Result<mtd_tests::traffic::UdpReport> {
    let options = UdpOptions::to(world.address(Who::Alice, Inner::V6)?);
    let stream = UdpStream::start(world.netns(Who::Server), world.netns(Who::Alice), &options)?;
    thread::sleep(time);
    stream.stop()
}

/// How long a datagram of the server takes to an idle client.
fn first_packet(world: &World) -> Result<Duration> {
    let to = world.address(Who::Alice, Inner::V6)?;
    let inbox = world.netns(Who::Alice).enter(|| UdpSocket::bind((to, 0)))??;
    inbox.set_read_timeout(Some(PATIENCE))?;
    let probe = world.netns(Who::Server).enter(|| UdpSocket::bind((IpAddr::from([0_u16; 8]), 0)))??;
    let sent = Instant::now();
    probe.send_to(b"first", inbox.local_addr()?)?;
    inbox.recv(&mut [0; 8]).context("the first packet after a quiet time is lost")?;
    Ok(sent.elapsed())
}

#[test]
fn torture_a_client_behind_a_router_that_translates_reaches_its_server_and_is_reached() -> Result<()> {
    at_once(&[Translation::Masquerade, Translation::Ports, Translation::Prefix], |&translation| {
        let (mut world, _) = open_at_home(translation)?;
        let handshakes = world.handshakes()?;
        ensure!(handshakes.refused.is_empty() && handshakes.answered == 1, "{handshakes:?}");
        // Nothing is lost over many slots, although the client sends nothing by itself.
        let report = one_way(&world, wanted_length().unwrap_or(8 * SLOT))?;
        println!("{translation:?}: {report:?}");
        ensure!(
            report.lost == 0 && report.duplicated == 0,
            "{translation:?}: {report:?}\n{}",
            world.explain()
        );
        thread::sleep(wanted_length().unwrap_or(3 * SLOT));
        let first = first_packet(&world).with_context(|| world.explain())?;
        println!("{translation:?}: {first:?} to an idle client");
        ensure!(first < Duration::from_millis(200), "{first:?}");
        world.require_no_session_drops(&[Who::Alice, Who::Server])?;
        let status = world.mtd(Who::Server, &["status"])?;
        ensure!(status.contains("translated"), "{status}");
        world.stop(Who::Alice)
    })
}

#[test]
fn a_client_that_is_not_translated_is_taken_at_its_own_addresses_only() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.open_all()?;
    require_translated(&world, false)?;
    ensure!(!world.mtd(Who::Server, &["status"])?.contains("translated"));
    Ok(())
}

#[test]
fn a_client_with_local_addresses_that_nobody_answers_is_told_of_translation() -> Result<()> {
    let (mut world, home) = at_home(Translation::Masquerade)?;
    home.hold_back(&world.topology().router, true)?;
    world.start_all()?;
    wait_until("the client to name the cause", PATIENCE, || {
        Ok(world.session(Who::Alice)?.hint.is_some_and(|hint| hint.contains("NAT66")))
    })
    .with_context(|| world.explain())?;
    // By now it tries other times than its own clock's, since that may be wrong.
    world.stop(Who::Alice)?;
    home.hold_back(&world.topology().router, false)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)
}
