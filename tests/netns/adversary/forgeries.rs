//! Changed copies of valid packets: every bit of the headers, every length.
//!
//! The copies are made of packets that have arrived, and of packets that were held back. Only the latter reach the check of
//! the tag, since their sequence numbers are unused. At the end of each test the held-back packet itself passes, and only
//! once. That shows that the copies have used up no sequence number, and that packets do arrive in this way.

use anyhow::{Context as _, Result};
use mtd_tests::packet::{
    DESTINATION_OPTIONS, ETHERNET_LEN, HOP_BY_HOP, IPV6_LEN, Path, UDP_LEN, fragments, udp,
    with_extension_header, with_fragment_header, with_vlan_tag,
};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::scene::{Drops, Scene, drops};

const UDP_AT: usize = ETHERNET_LEN + IPV6_LEN;
const MTD_AT: usize = UDP_AT + UDP_LEN;
const MTD_LEN: usize = 24;
const INNER_AT: usize = MTD_AT + MTD_LEN;

/// Shortest inner packet.
const MIN_INNER: usize = 20;

/// Payload of a packet that carries data of the TCP connection.
const DATA_LEN: usize = 400;

/// Slot length. An address lives for at least one more slot, which is long enough for all copies of one packet, even on a
/// busy machine.
const PERIOD: &str = "10s";

/// Rate of the connection: so slow that all packets of two slots fit into the sequence window.
const RATE: u64 = 16 << 10;

#[test]
fn flipped_bits_of_an_encrypted_packet_are_refused() -> Result<()> {
    flipped_bits_are_refused("encrypt")
}

#[test]
fn flipped_bits_of_an_authenticated_packet_are_refused() -> Result<()> {
    flipped_bits_are_refused("authenticate")
}

fn flipped_bits_are_refused(mode: &str) -> Result<()> {
    let mut scene = Scene::start(mode, PERIOD, RATE, &TopologyOptions::default(), "")?;
    let arrived = arrived(&scene)?;
    flip_all(&mut scene, &arrived, "replayed")?;
    let held_back = scene.held_back(DATA_LEN)?;
    flip_all(&mut scene, &held_back, "bad_tag")?;
    // A congestion mark that the inner packet cannot carry (RFC 6040): the packet is dropped, but its number stays unused.
    let mut marked = held_back.clone();
    marked[ETHERNET_LEN + 1] |= 0x30;
    assert_eq!(inject(&mut scene, &[marked])?, drops([("ecn", 1)]));
    passes_once(&mut scene, &held_back)?;
    scene.finish().map(drop)
}

#[test]
fn every_other_length_is_refused() -> Result<()> {
    let mut scene = Scene::start("encrypt", PERIOD, RATE, &TopologyOptions::default(), "")?;
    let held_back = scene.held_back(DATA_LEN)?;
    let whole = held_back.len();

    let cut: Vec<Vec<u8>> = (ETHERNET_LEN..whole).map(|len| held_back[..len].to_vec()).collect();
    let headless = MTD_AT - ETHERNET_LEN;
    let expected =
        drops([("truncated", headless as u64), ("length_mismatch", (cut.len() - headless) as u64)]);
    assert_eq!(inject(&mut scene, &cut)?, expected, "cut");

    let sound: Vec<Vec<u8>> = (MTD_AT..whole).map(|len| with_sound_lengths(&held_back[..len])).collect();
    let too_short = INNER_AT + MIN_INNER - MTD_AT;
    let expected = drops([("too_short", too_short as u64), ("bad_tag", (sound.len() - too_short) as u64)]);
    assert_eq!(inject(&mut scene, &sound)?, expected, "cut, with lengths to match");

    let longer = |extra: usize| [held_back.as_slice(), &vec![0; extra]].concat();
    let padded: Vec<Vec<u8>> = (1..=64).map(longer).collect();
    assert_eq!(inject(&mut scene, &padded)?, drops([("length_mismatch", 64)]), "extended");
    let sound: Vec<Vec<u8>> = padded.iter().map(|frame| with_sound_lengths(frame)).collect();
    assert_eq!(inject(&mut scene, &sound)?, drops([("bad_tag", 64)]), "extended, with lengths to match");

    passes_once(&mut scene, &held_back)?;
    scene.finish().map(drop)
}

#[test]
fn forms_that_mtd_never_sends_are_refused() -> Result<()> {
    // A larger MTU, so that packets can be longer than any that a peer sends.
    let options = TopologyOptions { mtu: 2000, ..TopologyOptions::default() };
    let mut scene = Scene::start("encrypt", PERIOD, RATE, &options, "")?;
    // The VLAN tag stays in the frame, as on a wire, instead of being passed beside it from one virtual device to the next.
    let mut ethtool = scene.topology.router.command("ethtool")?;
    let output = ethtool.args(["-K", &scene.topology.server.tap_ifname, "txvlan", "off"]).output()?;
    assert!(output.status.success(), "{output:?}");
    let held_back = scene.held_back(DATA_LEN)?;

    let tagged = with_vlan_tag(&held_back, 5);
    let twice = with_vlan_tag(&tagged, 6);
    assert_eq!(inject(&mut scene, &[tagged, twice])?, drops([("vlan", 2)]));
    let headers = [HOP_BY_HOP, DESTINATION_OPTIONS].map(|kind| with_extension_header(&held_back, kind));
    assert_eq!(inject(&mut scene, &headers)?, drops([("extension_header", 2)]));
    let mut parts = fragments(&held_back, 7, 128);
    parts.push(with_fragment_header(&held_back, 8));
    assert_eq!(inject(&mut scene, &parts)?, drops([("fragment", parts.len() as u64)]));

    let peer = &scene.status()?.peers[0];
    let path =
        Path::new(scene.stranger.interface().mac, scene.server_mac, peer.remote.address, peer.local.address);
    let from_peer = |payload: usize| udp(&path, peer.remote.port, peer.local.port, &vec![0; payload]);
    let most = usize::try_from(scene.status()?.mtu)? + MTD_LEN;
    let oversized: Vec<_> = (1..=100).map(|extra| from_peer(most + extra)).collect();
    assert_eq!(inject(&mut scene, &oversized)?, drops([("oversized", 100)]));
    let longest = inject(&mut scene, &[from_peer(most)])?;
    assert!(!longest.contains_key("oversized"), "{longest:?}");

    passes_once(&mut scene, &held_back)?;
    scene.finish().map(drop)
}

#[test]
fn a_vlan_tag_that_the_interface_takes_out_opens_no_door() -> Result<()> {
    let mut scene = Scene::start("encrypt", PERIOD, RATE, &TopologyOptions::default(), "")?;
    let arrived = with_vlan_tag(&arrived(&scene)?, 5);
    // Programs see such a frame without its VLAN tag, so an invalid packet is dropped for its own reason.
    assert_eq!(inject(&mut scene, &[arrived])?, drops([("replayed", 1)]));
    scene.finish().map(drop)
}

/// Flips every bit of the headers, and bits of all bytes of the sealed packet, which is then refused for `otherwise`. If
/// the packet was held back, the fields that routers may change are left out, because the packet would stay valid.
fn flip_all(scene: &mut Scene, packet: &[u8], otherwise: &'static str) -> Result<()> {
    let held_back = otherwise != "replayed";
    let prefix_len = usize::from(scene.topology.server.prefix.prefix_len());
    let (mut copies, mut expected, mut passed) = (Vec::new(), Drops::new(), 0);
    for bit in (ETHERNET_LEN * 8..MTD_AT * 8).filter(|bit| !held_back || !is_mutable(*bit)) {
        copies.push(flipped(packet, bit));
        match reason(bit, prefix_len, held_back) {
            Some(reason) => *expected.entry(reason.to_owned()).or_default() += 1,
            None => passed += 1,
        }
    }
    let before = scene.status()?.frames;
    assert_eq!(scene.inject(&copies, copies.len() as u64 - passed)?, expected, "IPv6 and UDP headers");
    let after = scene.status()?.frames;
    assert!(after.passed - before.passed >= passed, "packets to other prefixes are the kernel's");

    // A flip in mtd's header changes the sequence number: at random, the result is used, unused or impossible.
    let copies: Vec<_> = (MTD_AT * 8..INNER_AT * 8).map(|bit| flipped(packet, bit)).collect();
    let found = inject(scene, &copies)?;
    let known = ["replayed", "invalid_sequence", "bad_tag"];
    assert!(found.keys().all(|reason| known.contains(&reason.as_str())), "{found:?}");
    assert!(found.get("invalid_sequence") > Some(&100), "most tags give impossible numbers: {found:?}");
    assert!(!held_back || found.contains_key("bad_tag"), "{found:?}");

    let copies: Vec<_> =
        (INNER_AT * 8..packet.len() * 8).step_by(3).map(|bit| flipped(packet, bit)).collect();
    assert_eq!(inject(scene, &copies)?, drops([(otherwise, copies.len() as u64)]), "sealed packet");
    Ok(())
}

/// Why a packet with this bit of its IPv6 or UDP header flipped is refused. `None` if its destination is then outside the
/// prefix, so that it is passed to the kernel.
fn reason(bit: usize, prefix_len: usize, held_back: bool) -> Option<&'static str> {
    let ip = bit - ETHERNET_LEN * 8;
    Some(match ip {
        // The flip changes nothing that is authenticated.
        _ if is_mutable(bit) => "replayed",
        // Version, payload length, UDP length.
        0..4 | 32..48 | 352..368 => "length_mismatch",
        12..32 => "flow_label",
        48..56 => "other_protocol",
        // Source address and port.
        64..192 | 320..336 => "wrong_peer",
        192..320 if ip - 192 < prefix_len => return None,
        192..320 => "unknown_address",
        336..352 => "wrong_port",
        _ if held_back => "bad_checksum",
        _ => "replayed",
    })
}

/// Whether the bit belongs to the traffic class or the hop limit. The network may change these (RFC 8200), so a packet with
/// other values is valid.
fn is_mutable(bit: usize) -> bool {
    let ip = bit - ETHERNET_LEN * 8;
    (4..12).contains(&ip) || (56..64).contains(&ip)
}

/// The packet with one bit changed; bits are counted from the first on the wire.
fn flipped(packet: &[u8], bit: usize) -> Vec<u8> {
    let mut copy = packet.to_vec();
    copy[bit / 8] ^= 0x80 >> (bit % 8);
    copy
}

/// The packet with payload length and UDP length corrected, after it was cut or extended.
fn with_sound_lengths(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let length = ((packet.len() - UDP_AT) as u16).to_be_bytes();
    packet[ETHERNET_LEN + 4..ETHERNET_LEN + 6].copy_from_slice(&length);
    packet[UDP_AT + 4..UDP_AT + 6].copy_from_slice(&length);
    packet
}

/// The client's newest packet with data that the server has accepted.
fn arrived(scene: &Scene) -> Result<Vec<u8>> {
    let fresh = scene.status()?.peers[0].local.address.octets();
    let mut packet = None;
    wait_until("a packet of this slot", std::time::Duration::from_secs(5), || {
        let captured = scene.captured_to_server()?;
        let fits =
            |data: &&Vec<u8>| data.len() > MTD_AT + DATA_LEN && data[ETHERNET_LEN + 24..][..16] == fresh;
        packet = captured.iter().map(|frame| &frame.data).rfind(fits).cloned();
        Ok(packet.is_some())
    })?;
    Ok(scene.forwarded(&packet.context("no packet")?))
}

/// Sends frames as the stranger, of which none may pass. Returns what the server dropped.
fn inject(scene: &mut Scene, frames: &[Vec<u8>]) -> Result<Drops> {
    scene.inject(frames, frames.len() as u64)
}

/// Checks that the packet that was held back is accepted once, and never again.
fn passes_once(scene: &mut Scene, packet: &[u8]) -> Result<()> {
    scene.stranger.send(packet)?;
    scene.meant_to_pass += 1;
    let again = vec![packet.to_vec(); 3];
    assert_eq!(inject(scene, &again)?, drops([("replayed", 3)]), "the packet itself, once more");
    Ok(())
}
