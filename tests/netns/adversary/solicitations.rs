//! Neighbour solicitations: a sender learns whether an address is live only if the link needs that, and never anything
//! about a dead address (requirement MT-09).

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtd_tests::capture::Frame;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN, neighbour_solicitation};
use mtd_tests::topology::{Delivery, TopologyOptions};
use mtd_tests::wait_until;

use super::scene::{Scene, drops};

const ICMP_AT: usize = ETHERNET_LEN + IPV6_LEN;

#[test]
fn on_link_each_solicitation_of_a_live_address_gets_one_advertisement() -> Result<()> {
    let (mut scene, live) = scene(Delivery::OnLink)?;
    dead_addresses_are_silent(&mut scene, live)?;

    let asked = solicitations(&scene, live);
    scene.dropped_during(0, |scene| asked.iter().try_for_each(|frame| scene.stranger.send(frame)))?;
    let answers = advertisements(&scene, asked.len())?;
    assert_eq!(answers.len(), asked.len(), "one each");
    for frame in &answers {
        assert_advertises(&scene, &frame.data, live);
    }

    // Solicitations that no real neighbour would send get no answer, whether or not the address is live.
    let sound = &asked[1];
    let broken: Vec<Vec<u8>> = [
        (ETHERNET_LEN + 7, 1),           // hop limit 254: forwarded, so from elsewhere
        (ICMP_AT + 1, 1),                // code
        (ICMP_AT + 3, 1),                // checksum
        (ICMP_AT + 24, 3),               // option type: target's link-layer address
        (ICMP_AT + 25, 3),               // option length
        (ETHERNET_LEN + 8, 0xff ^ 0x20), // multicast source
    ]
    .map(|(at, flip)| {
        let mut frame = sound.clone();
        frame[at] ^= flip;
        frame
    })
    .into();
    let refused = scene.inject(&broken, broken.len() as u64)?;
    assert_eq!(refused, drops([("neighbour_malformed", broken.len() as u64)]));
    assert_eq!(advertisements(&scene, asked.len())?.len(), asked.len(), "no further answer");
    assert_only_live_addresses_are_advertised(&scene)?;
    scene.finish().map(drop)
}

#[test]
fn routed_no_solicitation_is_answered() -> Result<()> {
    let (mut scene, live) = scene(Delivery::Routed)?;
    dead_addresses_are_silent(&mut scene, live)?;
    let asked = solicitations(&scene, live);
    let count = asked.len() as u64;
    assert_eq!(scene.inject(&asked, count)?, drops([("neighbour_dead", count)]));
    let record = scene.finish()?;
    assert!(!record.frames.iter().any(|frame| frame.data.get(ICMP_AT) == Some(&136)
        && frame.data.get(ICMP_AT + 8..ICMP_AT + 24) == Some(&live.octets())));
    Ok(())
}

/// A session with long slots, and the server's address in the present one.
fn scene(delivery: Delivery) -> Result<(Scene, Ipv6Addr)> {
    let options = TopologyOptions { delivery, ..TopologyOptions::default() };
    let scene = Scene::start("encrypt", "10s", 32 << 10, &options, "")?;
    let live = scene.status()?.peers[0].local.address;
    Ok((scene, live))
}

/// Solicitations for an address, as multicast and as unicast.
fn solicitations(scene: &Scene, target: Ipv6Addr) -> Vec<Vec<u8>> {
    let mac = scene.stranger.interface().mac;
    let source = scene.topology.scanner.address;
    vec![
        neighbour_solicitation(mac, source, target, None),
        neighbour_solicitation(mac, source, target, Some(scene.server_mac)),
        neighbour_solicitation(mac, source, target, None),
    ]
}

fn dead_addresses_are_silent(scene: &mut Scene, live: Ipv6Addr) -> Result<()> {
    let prefix = u128::from(scene.topology.server.prefix.network());
    let fixed = [0, 1, 2, 0x53, 0xdead_beef_dead_beef].map(|host| prefix | host);
    // Addresses that differ from a live one in one bit, and one with the host part of the live one in another prefix.
    let near = (0..64).map(|bit| u128::from(live) ^ 1 << bit);
    let mut asked = Vec::new();
    for address in fixed.into_iter().chain(near).map(Ipv6Addr::from) {
        asked.extend(solicitations(scene, address));
        // As for duplicate address detection.
        let mac = scene.stranger.interface().mac;
        asked.push(neighbour_solicitation(mac, Ipv6Addr::UNSPECIFIED, address, None));
    }
    let count = asked.len() as u64;
    assert_eq!(scene.inject(&asked, count)?, drops([("neighbour_dead", count)]));
    Ok(())
}

/// The advertisements to the stranger: waits until there are `count`, and returns those that came.
fn advertisements(scene: &Scene, count: usize) -> Result<Vec<Frame>> {
    let mac = scene.stranger.interface().mac;
    let mut answers = Vec::new();
    wait_until("advertisements", Duration::from_secs(2), || {
        answers = scene.snapshot()?;
        answers.retain(|frame| frame.data[..6] == mac && scene.advertised(frame).is_some());
        Ok(answers.len() >= count)
    })
    .with_context(|| format!("{} of {count}", answers.len()))?;
    Ok(answers)
}

/// Checks RFC 4861 section 7.2.4: flags solicited and override, the target's link-layer address; from the target to the
/// sender of the solicitation.
fn assert_advertises(scene: &Scene, frame: &[u8], live: Ipv6Addr) {
    assert_eq!(frame[6..12], scene.server_mac);
    assert_eq!(frame[ETHERNET_LEN + 7], 255, "hop limit");
    assert_eq!(frame[ETHERNET_LEN + 8..ETHERNET_LEN + 24], live.octets());
    assert_eq!(frame[ETHERNET_LEN + 24..ICMP_AT], scene.topology.scanner.address.octets());
    assert_eq!(frame[ICMP_AT + 4..ICMP_AT + 8], [0x60, 0, 0, 0], "flags");
    assert_eq!(frame[ICMP_AT + 8..ICMP_AT + 24], live.octets());
    let option = [&[2, 1], &scene.server_mac[..]].concat();
    assert_eq!(frame[ICMP_AT + 24..], option, "target link-layer address");
}

/// Checks that every advertised address is one that the session's packets use.
fn assert_only_live_addresses_are_advertised(scene: &Scene) -> Result<()> {
    let frames = scene.snapshot()?;
    let used: Vec<[u8; 16]> = frames
        .iter()
        .filter(|frame| frame.outgoing && scene.is_genuine(frame))
        .filter_map(|frame| frame.data[ETHERNET_LEN + 24..ICMP_AT].try_into().ok())
        .collect();
    for address in frames.iter().filter_map(|frame| scene.advertised(frame)) {
        assert!(used.contains(&address.octets()), "{address} was advertised and never used");
    }
    Ok(())
}
