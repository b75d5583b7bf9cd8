//! Scans with nmap and ping from the server's link and from behind the router. The capture shows which packets reached the
//! server; the counters must agree, reason by reason, and no answer may come back.

use std::net::Ipv6Addr;
use std::process::Output;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mtd_tests::capture::Frame;
use mtd_tests::netns::Netns;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN};
use mtd_tests::topology::{Delivery, TopologyOptions};

use super::scene::{Drops, Scene, difference, drops, ends, icmp};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

#[test]
fn scans_of_a_routed_prefix_find_nothing() -> Result<()> {
    scans_find_nothing(Delivery::Routed)
}

#[test]
fn scans_of_an_on_link_prefix_find_nothing() -> Result<()> {
    scans_find_nothing(Delivery::OnLink)
}

fn scans_find_nothing(delivery: Delivery) -> Result<()> {
    let options = TopologyOptions { delivery, second_client: true, ..TopologyOptions::default() };
    // The expected counts are computed for the slot at the end: if a slot edge falls into the scans, they are repeated, which
    // cannot be necessary twice.
    for _ in 0..2 {
        let mut scene = Scene::start("encrypt", "1h", 32 << 10, &options, "")?;
        let slot = scene.status()?.peers[0].slot;
        let found = scan(&mut scene)?;
        if scene.status()?.peers[0].slot == slot {
            check(&scene, &found, delivery)?;
            return scene.finish().map(drop);
        }
    }
    bail!("two slot edges within a minute, and slots of an hour");
}

/// Scans from the link and from behind the router. Returns what the server dropped meanwhile.
fn scan(scene: &mut Scene) -> Result<Drops> {
    let live = scene.status()?.peers[0].local;
    let targets = targets(scene, live.address);
    let before = scene.drops()?;
    for attacker in [false, true] {
        let netns = match (attacker, &scene.topology.client2) {
            (true, Some(host)) => &host.netns,
            _ => &scene.topology.scanner.netns,
        };
        let ports = format!("22,80,443,{}", live.port);
        let [syn, datagrams, echo] = thread::scope(|scope| {
            let scans = [
                vec!["-Pn", "-sS", "-p", &ports],
                vec!["-Pn", "-sU", "-p", &ports],
                vec!["-sn", "-PE", "--disable-arp-ping"],
            ];
            scans
                .map(|arguments| scope.spawn(|| nmap(netns, arguments, &targets)))
                .map(|scan| scan.join().expect("a thread that scans"))
        });
        for (kind, output) in [("TCP", syn?), ("UDP", datagrams?)] {
            // nmap's grepable output has one "port/state/…" for each open or closed port.
            assert!(!output.contains("/open/") && !output.contains("/closed/"), "{kind}: {output}");
        }
        let echo = echo?;
        assert!(echo.contains("(0 hosts up)"), "{echo}");
        assert_eq!(netns.ping(live.address.into(), 3)?.received, 0);
    }
    thread::sleep(Duration::from_millis(500));
    let found = difference(&before, &scene.drops()?);
    scene.take_note(&found);
    Ok(found)
}

/// Checks that the counts are explained by the capture, and that no address but the live one was advertised.
fn check(scene: &Scene, found: &Drops, delivery: Delivery) -> Result<()> {
    let live = scene.status()?.peers[0].local.address;
    assert_eq!(*found, expected(scene, live, delivery)?, "against the capture");
    for reason in ["tcp", "icmpv6", "wrong_port", "wrong_peer"] {
        assert!(found.contains_key(reason), "{found:?}");
    }
    let dead = if delivery == Delivery::Routed { "unknown_address" } else { "neighbour_dead" };
    assert!(found.contains_key(dead), "{found:?}");
    for frame in scene.snapshot()? {
        let advertised = scene.advertised(&frame);
        assert!(advertised.is_none_or(|a| a == live && delivery == Delivery::OnLink), "{frame:02x?}");
    }
    Ok(())
}

/// The live address, its neighbours, and addresses that administrators often choose.
fn targets(scene: &Scene, live: Ipv6Addr) -> Vec<String> {
    let prefix = u128::from(scene.topology.server.prefix.network());
    let live = u128::from(live);
    [live, live ^ 1, live ^ 1 << 63, prefix, prefix | 1, prefix | 2, prefix | 0x53, prefix | 0xcafe]
        .map(|address| Ipv6Addr::from(address).to_string())
        .into()
}

fn nmap(netns: &Netns, arguments: Vec<&str>, targets: &[String]) -> Result<String> {
    let mut nmap = netns.command("nmap")?;
    nmap.args(["-6", "-n", "--send-ip", "--max-retries", "0", "--host-timeout", "20s", "-oG", "-"]);
    nmap.args(["--initial-rtt-timeout", "200ms", "--max-rtt-timeout", "200ms"]);
    let Output { status, stdout, stderr } = nmap
        .args(arguments)
        .args(targets)
        .output()
        .context("cannot run nmap; `cargo xtask setup` installs it")?;
    ensure!(status.success(), "nmap: {status}: {}", String::from_utf8_lossy(&stderr));
    Ok(String::from_utf8(stdout)?)
}

/// The counts that the server must have, computed from the headers of the packets that reached its link.
fn expected(scene: &Scene, live: Ipv6Addr, delivery: Delivery) -> Result<Drops> {
    let protected = scene.topology.server.prefix;
    let mut counts =
        [("tcp", 0), ("icmpv6", 0), ("unknown_address", 0), ("wrong_port", 0), ("wrong_peer", 0)];
    let mut solicited = 0;
    let live_port = scene.status()?.peers[0].local.port.to_be_bytes();
    let mut count = |reason| counts.iter_mut().filter(|(name, _)| *name == reason).for_each(|(_, n)| *n += 1);
    for frame in scene.snapshot()?.iter().filter(|frame| frame.outgoing && !scene.is_genuine(frame)) {
        if let Some(target) = scene.solicited(frame) {
            solicited += u64::from(target != live || delivery == Delivery::Routed);
            continue;
        }
        let Some((_, destination)) = ends(&frame.data).filter(|(_, to)| protected.contains(to)) else {
            continue;
        };
        count(match (frame.data[ETHERNET_LEN + 6], destination == live) {
            (TCP, _) => "tcp",
            (ICMPV6, _) => "icmpv6",
            (UDP, false) => "unknown_address",
            (UDP, true) if port(frame) == live_port => "wrong_peer",
            (UDP, true) => "wrong_port",
            (other, _) => panic!("next header {other} in a scan: {:?}", icmp(&frame.data)),
        });
    }
    let mut expected = drops(counts);
    expected.extend(drops([("neighbour_dead", solicited)]));
    Ok(expected)
}

/// UDP destination port.
fn port(frame: &Frame) -> [u8; 2] {
    let at = ETHERNET_LEN + IPV6_LEN + 2;
    [frame.data[at], frame.data[at + 1]]
}
