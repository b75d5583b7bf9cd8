//! Replayed packets: at once, one slot later, when their slot is over, after a restart, and reflected to their sender.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use mtd_tests::capture::Frame;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::scene::{Scene, drops};

/// Number of packets that are sent again.
const COUNT: usize = 40;

/// Rate of the connection: so slow that all packets of three slots fit into the sequence window.
const RATE: u64 = 16 << 10;

#[test]
fn a_replay_is_refused_now_one_slot_later_and_when_its_slot_is_over() -> Result<()> {
    let mut scene = Scene::start("encrypt", "3s", RATE, &TopologyOptions::default(), "")?;
    scene.wait_for_new_slot()?;
    let packets = packets_of_this_slot(&scene)?;
    let count = COUNT as u64;
    assert_eq!(scene.inject(&packets, count)?, drops([("replayed", count)]), "at once");
    scene.wait_for_new_slot()?;
    assert_eq!(scene.inject(&packets, count)?, drops([("replayed", count)]), "one slot later");
    scene.wait_for_new_slot()?;
    let over = scene.inject(&packets, count)?;
    let expected = ["stale_slot", "unknown_address"];
    assert!(over.keys().all(|reason| expected.contains(&reason.as_str())), "slot over: {over:?}");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(scene.inject(&packets, count)?, drops([("unknown_address", count)]), "long over");
    scene.finish().map(drop)
}

#[test]
fn a_replay_is_refused_while_the_controller_is_dead_and_after_it_is_back() -> Result<()> {
    let mut scene = Scene::start("encrypt", "10s", RATE, &TopologyOptions::default(), "")?;
    scene.wait_for_new_slot()?;
    let packets = packets_of_this_slot(&scene)?;
    let refused = drops([("replayed", COUNT as u64)]);
    scene.server.process.kill()?;
    // While there is no controller, `mtd status` reads the maps itself.
    assert_eq!(scene.inject(&packets, COUNT as u64)?, refused, "controller dead");
    scene.server = scene.server_setup.start(&scene.topology.server.netns)?;
    assert_eq!(scene.inject(&packets, COUNT as u64)?, refused, "controller back");
    scene.finish().map(drop)
}

#[test]
fn a_packet_thrown_back_at_its_sender_is_refused() -> Result<()> {
    let mut scene = Scene::start("authenticate", "5s", RATE, &TopologyOptions::default(), "")?;
    scene.wait_for_new_slot()?;
    let local = scene.status()?.peers[0].local.address;
    let own = |frame: &Frame| !frame.outgoing && frame.data[ETHERNET_LEN + 8..][..16] == local.octets();
    let mut frames = Vec::new();
    wait_until("packets of the server's", Duration::from_secs(4), || {
        frames = scene.snapshot()?;
        frames.retain(|frame| scene.is_genuine(frame) && own(frame));
        Ok(frames.len() >= COUNT)
    })?;
    let thrown_back: Vec<_> = frames[..COUNT].iter().map(|frame| reflected(&scene, &frame.data)).collect();
    let refused = scene.inject(&thrown_back, COUNT as u64)?;
    // Addresses and ports are right, but each direction has its own keys, so the sequence number unmasks to a random one.
    assert!(refused.get("invalid_sequence") > Some(&(COUNT as u64 / 2)), "{refused:?}");
    let known = ["invalid_sequence", "bad_tag"];
    assert!(refused.keys().all(|reason| known.contains(&reason.as_str())), "{refused:?}");
    scene.finish().map(drop)
}

/// Packets of the client's that the server has accepted, in this slot, in the order of their arrival.
fn packets_of_this_slot(scene: &Scene) -> Result<Vec<Vec<u8>>> {
    let local = scene.status()?.peers[0].local.address;
    let mut packets = Vec::new();
    wait_until("packets of this slot", Duration::from_secs(5), || {
        packets = scene.captured_to_server()?;
        packets.retain(|frame| frame.data[ETHERNET_LEN + 24..][..16] == local.octets());
        Ok(packets.len() >= COUNT)
    })?;
    ensure!(scene.status()?.peers[0].local.address == local, "the slot is over before its packets are there");
    Ok(packets[..COUNT].iter().map(|frame| scene.forwarded(&frame.data)).collect())
}

/// The frame with addresses and ports exchanged, for which the UDP checksum stays correct.
fn reflected(scene: &Scene, frame: &[u8]) -> Vec<u8> {
    const UDP_AT: usize = ETHERNET_LEN + IPV6_LEN;
    let mut copy = scene.forwarded(frame);
    copy[22..38].copy_from_slice(&frame[38..54]);
    copy[38..54].copy_from_slice(&frame[22..38]);
    copy[UDP_AT..UDP_AT + 2].copy_from_slice(&frame[UDP_AT + 2..UDP_AT + 4]);
    copy[UDP_AT + 2..UDP_AT + 4].copy_from_slice(&frame[UDP_AT..UDP_AT + 2]);
    copy
}
