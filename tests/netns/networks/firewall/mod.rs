//! A client behind a router that lets in only answers, as every home router does: what the server sends on its own must arrive
//! all the same, in each slot, although each slot is another flow for the router.

mod peers;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::{Middlebox, PathSource, Session};
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::firewall::{forget_flows_after, let_in_answers_only, let_in_everything, tracked_flows};
use mtd_tests::packet::Outer;
use mtd_tests::rendezvous::SERVER_V6;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::torture::wanted_length;
use mtd_tests::traffic::{UdpOptions, UdpReport, UdpStream};
use mtd_tests::wait_until;

use crate::rendezvous::world::{Inner, Who, World, quoted};

/// For how long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Slots of the sessions of these worlds.
const SLOT: Duration = Duration::from_secs(1);

/// A world whose client is behind a firewall, with the session open. `middlebox` is the client's setting.
fn behind_firewall(middlebox: &str) -> Result<World> {
    let mut world = World::new(&TopologyOptions::default())?;
    let member = world.setup_mut(Who::Alice);
    member.keys.insert("middlebox", quoted(middlebox));
    let_in_answers_only(world.router(), &world.host(Who::Alice).gateway_ifname)?;
    world.open_all()?;
    Ok(world)
}

/// Waits until the client says this of a middlebox on its side.
fn wait_for(world: &World, wanted: Middlebox) -> Result<()> {
    let what = format!("the client to say of the middlebox: {}", wanted.as_str());
    wait_until(&what, PATIENCE, || Ok(world.session(Who::Alice)?.middlebox == Some(wanted)))
        .with_context(|| world.explain())
}

/// 1,000 packets a second from the server to a client that sends nothing.
fn stream(world: &World, duration: Duration) -> Result<UdpReport> {
    let to = world.address(Who::Alice, Inner::V6)?;
    let stream = UdpStream::start(world.netns(Who::Server), world.netns(Who::Alice), &UdpOptions::to(to))?;
    thread::sleep(duration);
    stream.stop()
}

fn require_lossless(world: &World, report: &UdpReport) -> Result<()> {
    println!("{report:?}");
    let whole = report.lost == 0 && report.duplicated == 0 && report.foreign == 0 && report.sent > 0;
    ensure!(whole, "{report:?}\n{}", world.explain());
    Ok(())
}

#[test]
fn torture_nothing_that_the_server_sends_to_an_idle_client_is_lost() -> Result<()> {
    let world = behind_firewall("auto")?;
    wait_for(&world, Middlebox::Found)?;
    let report = stream(&world, wanted_length().unwrap_or(12 * SLOT))?;
    require_lossless(&world, &report)?;
    let sessions = world.sessions_with(Who::Alice)?;
    ensure!(sessions.iter().all(|session| session.answered_where_heard), "{sessions:?}");
    let text = world.mtd(Who::Alice, &["status"])?;
    ensure!(text.contains("middlebox here:    found"), "{text}");
    let text = world.mtd(Who::Server, &["status"])?;
    ensure!(text.contains("answered where it was heard"), "{text}");
    println!("{} flows in the router's table", tracked_flows(world.router())?);
    world.require_no_session_drops(&world.hosts())
}

/// What it is without: the code before, or `middlebox = "off"`.
#[test]
fn without_openers_the_server_does_not_reach_an_idle_client() -> Result<()> {
    let world = behind_firewall("off")?;
    wait_for(&world, Middlebox::Off)?;
    let report = stream(&world, 4 * SLOT)?;
    println!("{report:?}");
    ensure!(report.lost > report.sent / 4, "{report:?}");
    Ok(())
}

/// The time of the first packet after a while in which the client has sent nothing but openers, longer than the router
/// remembers a flow.
#[test]
fn torture_the_first_packet_after_a_quiet_while_is_not_late() -> Result<()> {
    let world = behind_firewall("auto")?;
    forget_flows_after(world.router(), 3)?;
    wait_for(&world, Middlebox::Found)?;
    let to = world.address(Who::Alice, Inner::V6)?;
    let inbox = world.netns(Who::Alice).enter(|| UdpSocket::bind((to, 0)))??;
    inbox.set_read_timeout(Some(Duration::from_secs(5)))?;
    let sender = world.netns(Who::Server).enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    let usual = [5_000, 4_100, 1_250, 1_500].map(Duration::from_millis);
    for quiet in wanted_length().into_iter().chain(usual) {
        thread::sleep(quiet);
        let sent = Instant::now();
        sender.send_to(b"first", inbox.local_addr()?)?;
        inbox.recv(&mut [0; 16]).with_context(|| world.explain())?;
        println!("after {quiet:?}: {:.2?}", sent.elapsed());
        // Not the next slot's opener has let it in.
        ensure!(sent.elapsed() < SLOT / 4, "{:.2?}", sent.elapsed());
    }
    Ok(())
}

#[test]
fn a_client_that_only_reads_gets_every_line_at_once() -> Result<()> {
    let world = behind_firewall("auto")?;
    wait_for(&world, Middlebox::Found)?;
    let listener = world.netns(Who::Server).enter(|| TcpListener::bind((SERVER_V6, 0)))??;
    let at: SocketAddr = listener.local_addr()?;
    let reader = world.netns(Who::Alice).enter(|| TcpStream::connect_timeout(&at, PATIENCE))??;
    reader.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut writer, _) = listener.accept()?;
    writer.set_nodelay(true)?;
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..24 {
                thread::sleep(Duration::from_millis(350));
                writeln!(writer, "{number} {}", begin.elapsed().as_micros())?;
            }
            Ok::<_, std::io::Error>(())
        });
        let mut latest = Duration::ZERO;
        for (number, line) in BufReader::new(reader).lines().enumerate() {
            let line = line.with_context(|| world.explain())?;
            let (found, sent) = line.split_once(' ').context("two numbers")?;
            ensure!(found.parse() == Ok(number), "line {number}: {line}");
            latest = latest.max(begin.elapsed().saturating_sub(Duration::from_micros(sent.parse()?)));
        }
        println!("slowest line: {latest:.2?}");
        // A segment that was lost would come again after a fifth of a second at the earliest, and then after twice that.
        ensure!(latest < Duration::from_millis(600), "{latest:.2?}\n{}", world.explain());
        Ok(())
    })
}

/// Frames of the client's sessions on its cable, both ways, and how many of them it has sent.
fn frames_on_the_cable(world: &World, duration: Duration) -> Result<(usize, usize)> {
    let client = world.host(Who::Alice);
    let capture = Capture::start(world.router(), &client.tap_ifname, &CaptureOptions::default())?;
    thread::sleep(duration);
    let report = capture.stop()?;
    let outers: Vec<_> = report.frames.iter().filter_map(|frame| Outer::parse(&frame.data)).collect();
    let ours = |address: &Ipv6Addr| client.prefix.contains(address);
    let sent = outers.iter().filter(|outer| ours(&outer.source)).count();
    let received = outers.iter().filter(|outer| ours(&outer.destination)).count();
    Ok((sent + received, sent))
}

#[test]
fn openers_cost_two_packets_a_slot_at_most_and_stop_where_nothing_is_in_between() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    // Only openers, and the questions whether they are needed.
    world.setup_mut(Who::Alice).keys.insert("keepalive", quoted("1h"));
    for (key, value) in [("idle_timeout", "1h"), ("rekey_after", "10min"), ("expire_after", "20min")] {
        world.setup_mut(Who::Server).keys.insert(key, quoted(value));
    }
    let_in_answers_only(world.router(), &world.host(Who::Alice).gateway_ifname)?;
    world.open_all()?;
    wait_for(&world, Middlebox::Found)?;
    let (all, sent) = frames_on_the_cable(&world, 6 * SLOT)?;
    println!("behind a firewall: {all} frames in six slots, {sent} of them sent");
    ensure!((6..=14).contains(&sent) && all == sent, "{all} frames, {sent} sent");

    let_in_everything(world.router())?;
    world.stop(Who::Alice)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    wait_for(&world, Middlebox::None)?;
    let asks = || Ok(world.sessions_with(Who::Alice)?.iter().any(|session| session.answered_where_heard));
    wait_until("the server to be told", PATIENCE, || asks().map(|asks: bool| !asks))?;
    let probed = |sessions: &[Session]| sessions.iter().all(|one| one.path_source == PathSource::Probed);
    wait_until("both ends to know the path", PATIENCE, || {
        Ok(probed(&[world.session(Who::Alice)?]) && probed(&world.sessions_with(Who::Alice)?))
    })?;
    let (all, _) = frames_on_the_cable(&world, 5 * SLOT)?;
    println!("without one: {all} frames in five slots");
    ensure!(all == 0, "{all} frames");
    let report = stream(&world, 2 * SLOT)?;
    require_lossless(&world, &report)
}

/// The sessions of a killed controller go on, and so does what the server knows of the middlebox; openers go on with the
/// next controller.
#[test]
fn the_next_controller_after_a_kill_keeps_the_way_open() -> Result<()> {
    let mut world = behind_firewall("auto")?;
    wait_for(&world, Middlebox::Found)?;
    for who in [Who::Server, Who::Alice] {
        world.kill(who)?;
        world.start(who)?;
        world.wait_open(Who::Alice)?;
        let report = stream(&world, 3 * SLOT)?;
        require_lossless(&world, &report)?;
    }
    Ok(())
}
