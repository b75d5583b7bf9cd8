//! Sessions as the controller makes them from configurations. Keys and addresses are compared with a second, independent
//! derivation, and the two ends exchange packets through both programs.

use std::net::{Ipv6Addr, SocketAddrV6};

use hkdf::Hkdf;
use mtd::config::{Config, Peer};
use mtd::keys::SecretKey;
use mtd::model::{SessionIndex, SessionNs};
use mtd::proto::session::Session;
use mtd::proto::slots::{Loader, Place};
use mtd_common::DropReason;
use sha2::{Digest as _, Sha256};

use crate::harness::{Bench, Fixture, TC_ACT_REDIRECT, boot_time};
use crate::inner::{OWN6, PEER6, Version, framed, ipv6};
use crate::peering::{PREFIXES, Peering};
use crate::wire::{Keys, Mode, Packet};

const KEY: [u8; 32] = [0x42; 32];
/// A time of the wall clock in ns, and a slot length so long that no slot ends during a test.
const NOW: u64 = 1_800_000_000_123_456_789;
const PERIOD: u64 = 3_600_000_000_000;
/// The ends; the first one has the lower seed.
const SEEDS: [u64; 2] = [0x1111_2222_3333_4444, 0xaaaa_bbbb_cccc_dddd];

/// The configuration of one end: end 0 has the first prefix of [`PREFIXES`], end 1 the second.
fn configured(end: usize, mode: Mode) -> Session {
    let other = 1 - end;
    let mode = if mode == Mode::Encrypt { "encrypt" } else { "authenticate" };
    let text = format!(
        "interface = \"eth0\"\nprefix = \"{}\"\naddress = [\"fd00:66::{}/64\"]\n[[peer]]\nname = \"p\"\n\
         prefix = \"{}\"\nkey_file = \"k\"\nseed = \"{:016x}\"\npeer_seed = \"{:016x}\"\nperiod = \"1h\"\n\
         mode = \"{mode}\"\nallowed_ips = [\"fd00:66::{}/128\"]\n",
        PREFIXES[end].0,
        end + 1,
        PREFIXES[other].0,
        SEEDS[end],
        SEEDS[other],
        other + 1,
    );
    let config = Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"));
    let peer = config.peers.into_iter().next().expect("a peer");
    Session::new(&Peer {
        name: peer.name,
        prefix: peer.prefix,
        local_prefix: peer.local_prefix,
        key_file: peer.key_file,
        key: SecretKey::from_bytes(KEY),
        seed: peer.seed,
        peer_seed: peer.peer_seed,
        period: peer.period,
        mode: peer.mode,
        allowed_ips: peer.allowed_ips,
        middlebox: mtd::model::MiddleboxChoice::Off,
        filter: None,
    })
}

/// The second derivation: everything that a packet from end `from` in a slot needs.
struct Derivation {
    hkdf: Hkdf<Sha256>,
    context: Vec<u8>,
}

impl Derivation {
    fn new(mode: Mode) -> Self {
        let mode: u32 = if mode == Mode::Encrypt { 1 } else { 2 };
        let context = [
            &SEEDS[0].to_be_bytes()[..],
            &SEEDS[1].to_be_bytes(),
            &PERIOD.to_be_bytes(),
            &mode.to_be_bytes(),
        ]
        .concat();
        Self { hkdf: Hkdf::new(Some(b"mtd v1 static session"), &KEY), context }
    }

    fn expand<const N: usize>(&self, label: &str) -> [u8; N] {
        let mut out = [0; N];
        self.hkdf.expand(&[&self.context, label.as_bytes()].concat(), &mut out).expect("short output");
        out
    }

    fn keys(&self, from: usize) -> Keys {
        let direction = ["first to second", "second to first"][from];
        Keys {
            seal: self.expand(&format!("{direction} seal")),
            mask: self.expand(&format!("{direction} mask")),
        }
    }

    fn phase(&self) -> u64 {
        u64::from_be_bytes(self.expand("phase")) % PERIOD
    }

    fn slot(&self) -> u64 {
        (NOW + self.phase()) / PERIOD
    }

    /// Address and port of an end: SHA-256(seed, addressing key, slot) gives the identifier (8 bytes) and the port (4).
    fn endpoint(&self, end: usize, slot: u64) -> SocketAddrV6 {
        let key: [u8; 32] = self.expand("address");
        let mut hash = Sha256::new();
        hash.update(SEEDS[end].to_be_bytes());
        hash.update(key);
        hash.update(slot.to_be_bytes());
        let digest = hash.finalize();
        let iid = u64::from_be_bytes(*digest.first_chunk().expect("8 bytes"));
        let scaled = u64::from(u32::from_be_bytes(*digest[8..].first_chunk().expect("4 bytes")));
        let port = 1024 + ((scaled * (65_536 - 1024)) >> 32) as u16;
        let host_bits = [64, 48][end];
        let host = u128::from(iid >> (64 - host_bits));
        let address = Ipv6Addr::from(u128::from(PREFIXES[end].1) | host);
        SocketAddrV6::new(address, port, 0, 0)
    }

    fn packet(&self, from: usize, slot: u64, sequence: u64, mode: Mode) -> Packet {
        let (source, destination) = if from == 0 { (OWN6, PEER6) } else { (PEER6, OWN6) };
        Packet {
            from: self.endpoint(from, slot),
            to: self.endpoint(1 - from, slot),
            keys: self.keys(from),
            mode,
            slot,
            sequence,
            inner: ipv6(source, destination, 0, 444),
            traffic_class: 0,
        }
    }
}

/// A data plane with the session of one end, loaded as the controller does; session index 0.
fn end(number: usize, mode: Mode) -> Bench {
    let session = configured(number, mode);
    let mut bench = Bench::new();
    let generation = 5;
    let peer = if number == 0 { PEER6 } else { OWN6 };
    let element = session.element(generation, NOW.wrapping_sub(boot_time()), 0, [peer.octets(), [0; 16]]);
    bench.plane.set_session(0, element).expect("a session");
    let place = Place { index: SessionIndex(0), generation };
    let mut loader = Loader::new(place, 0);
    loader.advance(&session, SessionNs(NOW), 2 * PERIOD, bench.plane.slots()).expect("room for the slots");
    bench.route(&format!("{peer}/128"), &Peering { generation, ..Peering::new(0, mode) });
    bench
}

#[test]
fn packets_of_a_second_derivation_are_accepted() {
    for mode in Mode::BOTH {
        for receiver in [0, 1] {
            let derivation = Derivation::new(mode);
            let mut bench = end(receiver, mode);
            let slot = derivation.slot();
            let mut list = Vec::new();
            for (nth, number) in (slot - 1..=slot + 1).enumerate() {
                let packet = derivation.packet(1 - receiver, number, NOW / 64 + nth as u64, mode);
                let peering = Peering::new(0, mode);
                list.push(Fixture::accept(
                    format!("{mode:?}, end {receiver}, slot {number}"),
                    &peering,
                    &packet,
                ));
            }
            let ahead = derivation.packet(1 - receiver, slot + 2, NOW / 64, mode).frame();
            list.push(Fixture::drop("a slot loaded ahead", DropReason::StaleSlot, ahead));
            let before = derivation.packet(1 - receiver, slot - 2, NOW / 64, mode).frame();
            list.push(Fixture::drop("a slot never loaded", DropReason::UnknownAddress, before));
            let reflected = derivation.packet(receiver, slot, NOW / 64, mode).frame();
            list.push(Fixture::pass("a packet of its own, going out", reflected_elsewhere(reflected)));
            bench.run_all(&list);
        }
    }
}

/// The frame towards a prefix that is not protected.
fn reflected_elsewhere(mut frame: Vec<u8>) -> Vec<u8> {
    frame[38..46].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0xff, 0xff, 0, 0]);
    frame
}

#[test]
fn what_one_end_sends_the_other_one_opens() {
    for mode in Mode::BOTH {
        let mut ends = [end(0, mode), end(1, mode)];
        for from in [0, 1, 0, 1, 1] {
            let inner = if from == 0 { Version::V6.sent(0, 1234) } else { Version::V6.received(0, 1234) };
            let mut sent = ends[from].send(&framed(&inner));
            assert_eq!(sent.verdict, TC_ACT_REDIRECT, "{sent:?}");
            sent.frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let derivation = Derivation::new(mode);
            let sequence = derivation.keys(from).sequence(&sent.frame);
            let received = ends[1 - from].receive(&sent.frame);
            received.accepted(0, sequence, &inner).unwrap_or_else(|error| panic!("{mode:?}: {error:#}"));
        }
    }
}

/// Ends of different configurations: nothing gets through.
#[test]
fn ends_that_differ_in_mode_do_not_meet() {
    let mut sender = end(0, Mode::Encrypt);
    let mut receiver = end(1, Mode::Authenticate);
    let mut sent = sender.send(&framed(&Version::V6.sent(0, 99)));
    assert_eq!(sent.verdict, TC_ACT_REDIRECT);
    sent.frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    receiver.check(&Fixture::drop("the other mode", DropReason::UnknownAddress, sent.frame));
}
