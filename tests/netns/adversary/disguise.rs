//! What an observer of the server's link sees of a session: nothing that stays the same from slot to slot.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtd_tests::capture::Frame;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN, Outer};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{UdpOptions, UdpStream, contains_marker};

use super::scene::{Record, Scene, ends};

/// Slots of a second.
const SLOTS: usize = 12;

/// Length of the masked sequence number and the tag, which are all of mtd's header.
const HEADER_LEN: usize = 24;

#[test]
fn an_encrypted_session_shows_nothing_constant_and_no_plaintext() -> Result<()> {
    let (scene, inner) = run("encrypt")?;
    let server = scene.topology.server.prefix;
    let record = scene.finish()?;
    assert_nothing_links_slots(&record)?;
    for frame in &record.frames {
        assert!(!contains_marker(&frame.data), "plaintext on the wire: {:02x?}", frame.data);
        let clear = frame.data.windows(16).any(|window| inner.iter().any(|a| a.octets() == window));
        let ours = ends(&frame.data).is_some_and(|(s, d)| server.contains(&s) || server.contains(&d));
        assert!(!clear || !ours, "an inner address on the wire: {:02x?}", frame.data);
    }
    Ok(())
}

#[test]
fn an_authenticated_session_shows_its_plaintext_but_nothing_constant_around_it() -> Result<()> {
    let (scene, _) = run("authenticate")?;
    let record = scene.finish()?;
    assert_nothing_links_slots(&record)?;
    let marked = record.genuine.iter().filter(|frame| contains_marker(&frame.data)).count();
    assert!(marked > SLOTS, "{marked} packets with the marker: could it be seen if it were there?");
    Ok(())
}

/// A session over the slots, and its inner addresses.
fn run(mode: &str) -> Result<(Scene, [Ipv6Addr; 2])> {
    let scene = Scene::start(mode, "1s", 64 << 10, &TopologyOptions::default(), "")?;
    let (client, server) = (&scene.topology.client.netns, &scene.topology.server.netns);
    let to = UdpOptions { rate: 100, ..UdpOptions::to(scene.server_end.v6.into()) };
    let stream = UdpStream::start(client, server, &to)?;
    thread::sleep(Duration::from_secs(SLOTS as u64 + 1));
    let report = stream.stop()?;
    assert_eq!(report.lost, 0, "{report:?}");
    let inner = [scene.client_end.v6, scene.server_end.v6];
    Ok((scene, inner))
}

/// The packets of one slot, known by the server's address.
struct Slot {
    client: Ipv6Addr,
    client_port: u16,
    server_port: u16,
    first_ns: u64,
    last_ns: u64,
}

fn assert_nothing_links_slots(record: &Record) -> Result<()> {
    let mut slots: BTreeMap<Ipv6Addr, Slot> = BTreeMap::new();
    let mut hop_limits = [HashSet::new(), HashSet::new()];
    for frame in &record.genuine {
        let outer = Outer::parse(&frame.data).context("not UDP right behind the IPv6 header")?;
        assert_plain(frame, &outer);
        hop_limits[usize::from(frame.outgoing)].insert(outer.hop_limit);
        let (server, server_port, client, client_port) = if frame.outgoing {
            (outer.destination, outer.destination_port, outer.source, outer.source_port)
        } else {
            (outer.source, outer.source_port, outer.destination, outer.destination_port)
        };
        let time = frame.time_ns;
        let slot = slots.entry(server).or_insert(Slot {
            client,
            client_port,
            server_port,
            first_ns: time,
            last_ns: time,
        });
        let seen = (client, client_port, server_port);
        assert_eq!(seen, (slot.client, slot.client_port, slot.server_port), "two of a kind in one slot");
        slot.last_ns = slot.last_ns.max(time);
    }
    assert!(hop_limits.iter().all(|values| values.len() == 1), "hop limits: {hop_limits:?}");
    assert_slots_are_fresh(record, &slots);
    let headers: Vec<[u8; HEADER_LEN]> = record.genuine.iter().filter_map(header).collect();
    assert_eq!(headers.len(), record.genuine.len());
    assert_headers_are_random(&headers);
    // Consecutive packets of one direction are compared: a counter under a constant mask would show here.
    let sent: Vec<_> = record.genuine.iter().filter(|frame| frame.outgoing).filter_map(header).collect();
    let differences: Vec<_> =
        sent.windows(2).map(|pair| std::array::from_fn(|i| pair[0][i] ^ pair[1][i])).collect();
    assert_bits_are_balanced(&differences);
    Ok(())
}

/// The fields that are the same in all packets of every mtd session.
fn assert_plain(frame: &Frame, outer: &Outer) {
    assert_eq!(outer.flow_label, 0);
    assert_eq!(outer.traffic_class >> 2, 0, "DSCP");
    assert!(outer.checksum_is_right() && !frame.checksum_pending, "UDP checksum: {:02x?}", frame.data);
    assert_eq!(
        frame.data.len(),
        ETHERNET_LEN + IPV6_LEN + 8 + outer.payload.len(),
        "bytes behind the packet"
    );
    assert!(outer.source_port >= 1024 && outer.destination_port >= 1024, "MT-02: {outer:?}");
}

fn assert_slots_are_fresh(record: &Record, slots: &BTreeMap<Ipv6Addr, Slot>) {
    let times = || record.genuine.iter().map(|frame| frame.time_ns);
    let seconds = (times().max().unwrap_or(0) - times().min().unwrap_or(0)) / 1_000_000_000;
    let count = slots.len();
    assert!(count >= SLOTS && count as u64 >= seconds, "{count} server addresses in {seconds} s");
    for (address, slot) in slots {
        let nanoseconds = slot.last_ns - slot.first_ns;
        assert!(nanoseconds < 1_900_000_000, "{address} was used for {nanoseconds} ns");
    }
    let clients: HashSet<_> = slots.values().map(|slot| slot.client).collect();
    assert_eq!(clients.len(), count, "a client address came again");
    let ports: [HashSet<u16>; 2] = [
        slots.values().map(|slot| slot.server_port).collect(),
        slots.values().map(|slot| slot.client_port).collect(),
    ];
    // Of about 14 draws out of 64,512, two are the same once in 700 runs; three are almost never the same.
    assert!(ports.iter().all(|ports| ports.len() + 1 >= count), "ports: {ports:?}");
    let identifiers = |a: &Ipv6Addr| a.octets()[8..].to_vec();
    assert_no_byte_is_constant(&slots.keys().map(identifiers).collect::<Vec<_>>());
    assert_no_byte_is_constant(&slots.values().map(|slot| identifiers(&slot.client)).collect::<Vec<_>>());
    let ports = |slot: &Slot| [slot.server_port.to_be_bytes(), slot.client_port.to_be_bytes()].concat();
    assert_no_byte_is_constant(&slots.values().map(ports).collect::<Vec<_>>());
}

fn assert_no_byte_is_constant(rows: &[Vec<u8>]) {
    for at in 0..rows[0].len() {
        let values: HashSet<u8> = rows.iter().map(|row| row[at]).collect();
        assert!(values.len() > 1, "byte {at} is {values:?} in all slots");
    }
}

fn header(frame: &Frame) -> Option<[u8; HEADER_LEN]> {
    Outer::parse(&frame.data)?.payload.first_chunk().copied()
}

fn assert_headers_are_random(headers: &[[u8; HEADER_LEN]]) {
    let numbers: HashSet<_> = headers.iter().map(|header| &header[..8]).collect();
    let tags: HashSet<_> = headers.iter().map(|header| &header[8..]).collect();
    assert_eq!((numbers.len(), tags.len()), (headers.len(), headers.len()), "a header field came again");
    assert_bits_are_balanced(headers);
}

/// Checks that every bit is set in about half of the rows: within six standard deviations, which random bits exceed once in
/// some million runs.
fn assert_bits_are_balanced(rows: &[[u8; HEADER_LEN]]) {
    assert!(rows.len() > 1000, "only {} packets", rows.len());
    let half = rows.len() as f64 / 2.0;
    let limit = 6.0 * (rows.len() as f64).sqrt() / 2.0;
    for bit in 0..HEADER_LEN * 8 {
        let set = rows.iter().filter(|row| row[bit / 8] >> (bit % 8) & 1 == 1).count() as f64;
        assert!((set - half).abs() < limit, "bit {bit} is set in {set} of {} packets", rows.len());
    }
}
