//! Ends of different versions, and options of later ones.

use std::time::Duration;

use mtd_common::address::{End, Endpoint};
use mtd_common::slot;

use super::{Refusal, Remark};
use crate::keys::SecretKey;
use crate::proto::client::{Phase, Trouble};
use crate::proto::exchange::{Binding, NO_COMMUNITY, Received, SECOND};
use crate::proto::messages::{Control, Reason, Reply, Request, VERSION};
use crate::proto::model::{World, network};
use crate::proto::noise::{Ephemeral, Initiator};
use crate::proto::packet::{self, Path};
use crate::proto::rendezvous::{Introduction, Shared};
use crate::proto::session::{Ends, Session};

/// A client of this or another version, that knows its server's introduction.
struct Peer {
    key: SecretKey,
    session: Session,
    path: Path,
    initiator: Initiator,
    message: Vec<u8>,
    psk: [u8; 32],
}

impl Peer {
    /// Asks for a session with this payload.
    fn new(world: &mut World, version: u8, key: SecretKey, payload: impl Fn(End) -> Vec<u8>) -> Self {
        let ((_, window), introduction) = world.dht.iter().next().map(|(k, v)| (*k, v.clone())).unwrap();
        let server = world.hosts[0].identity.public();
        let shared = Shared::new(&key, &server).unwrap();
        let local = End { network: network(2), seed: shared.client_seed(&introduction) };
        let remote = End { network: introduction.network, seed: introduction.seed };
        let period = introduction.slot.as_nanos() as u64;
        let session =
            Session::to_introduction(Ends { local, remote }, introduction.key.as_bytes(), window, period);
        let number = slot::number(world.hosts[1].now(world.boot).wall.0, 0, period);
        let binding = Binding::Introduction { window, key: introduction.key.as_bytes(), slot: number as u32 };
        let psk = binding.psk(&NO_COMMUNITY, &shared, &server, &key.public());
        let (local, remote) = session.endpoints(number);
        let (initiator, message) = Initiator::start(
            &key,
            &server,
            &binding.prologue_of(version, &server),
            Ephemeral([world.dice.below(250) as u8 + 1; 32]),
            &payload(End { network: network(2), seed: [7; 8] }),
        )
        .unwrap();
        let mut message = Control::Request(&message).encode();
        message[1] = version;
        let path = Path { slot: number, local, remote };
        Self { key, session, path, initiator, message, psk }
    }

    /// Sends the request, and returns the number of packets that come back within a second.
    fn ask(&mut self, world: &mut World) -> usize {
        let inner = packet::control(self.path.local.address, self.path.remote.address, &self.message);
        let random = world.dice.below(u64::MAX);
        let packet = packet::seal(&self.session, &self.path, random, &inner).unwrap();
        let before = world.heard.len();
        world.transmit(&packet);
        world.run(SECOND);
        world.heard.len() - before - 1
    }

    /// What the server has answered last.
    fn reply(&mut self, world: &World) -> Option<Reply> {
        let packet = world.heard.last()?;
        let (_, inner) = packet::open(&self.session, self.path.slot as u32, packet).ok()?;
        let Control::Response(body) = Control::decode(packet::control_message(&inner)?)? else { return None };
        let (payload, _) = self.initiator.finish(body, &self.psk).ok()?;
        Reply::decode(&payload)
    }
}

/// A payload of the first version.
fn first_version(end: End) -> Vec<u8> {
    [&[64, 0, 0, 0], &end.network.prefix[..], &end.seed, &[0; 16]].concat()
}

fn request(end: End) -> Request {
    Request {
        end,
        tunnel: [0; 16],
        period_ms: 0,
        capabilities: None,
        instance: None,
        token: None,
        unknown: None,
    }
}

/// A server whose only client does not run.
fn world(seed: u64) -> World {
    let mut world = World::new(1, seed);
    world.start_server();
    world.run(SECOND);
    world
}

fn remarks(world: &mut World) -> Vec<Remark> {
    let now = world.hosts[0].now(world.boot).boot;
    world.server().remarks(now).map(|(_, remark)| remark).collect()
}

#[test]
fn a_registered_client_of_another_version_is_told_of_and_gets_no_answer() {
    for version in [1, 3, 200] {
        let mut world = world(u64::from(version));
        let key = world.hosts[1].identity.clone();
        let mut peer = Peer::new(&mut world, version, key, first_version);
        assert_eq!(peer.ask(&mut world), 0);
        assert_eq!(remarks(&mut world), [Remark::OtherVersion(version)]);
        assert_eq!(peer.ask(&mut world), 0);
        let refused = world.server().counts().refused.clone();
        assert_eq!((refused[&Refusal::OtherVersion], refused[&Refusal::Replayed]), (1, 1));
        // It is updated.
        world.start_client(1);
        world.run(3 * SECOND);
        assert_eq!((world.phase(1), remarks(&mut world)), (Phase::Open, vec![]));
    }
}

#[test]
fn a_stranger_of_another_version_gets_no_answer_and_is_nobody() {
    let mut world = world(1);
    let mut stranger = Peer::new(&mut world, 1, SecretKey::from_bytes([99; 32]), first_version);
    assert_eq!(stranger.ask(&mut world), 0);
    // Authentic, but of a version that it does not claim.
    let key = world.hosts[1].identity.clone();
    let mut liar = Peer::new(&mut world, 1, key, first_version);
    liar.message[1] = 9;
    assert_eq!(liar.ask(&mut world), 0);
    let refused = world.server().counts().refused.clone();
    assert_eq!((refused[&Refusal::Unregistered], refused[&Refusal::NotAuthentic]), (1, 1));
    assert_eq!(remarks(&mut world), []);
}

#[test]
fn an_option_that_must_be_known_is_refused_and_others_are_skipped() {
    let mut world = world(2);
    let key = world.hosts[1].identity.clone();
    let with = |kind: [u8; 2]| {
        move |end| {
            let mut payload = request(end).encode();
            payload[44..52].copy_from_slice(&[kind[0], kind[1], 0, 4, 1, 2, 3, 4]);
            payload
        }
    };
    let mut peer = Peer::new(&mut world, VERSION, key.clone(), with([0, 99]));
    assert_eq!(peer.ask(&mut world), 1);
    assert!(matches!(peer.reply(&world), Some(Reply::Session(_))));
    let mut peer = Peer::new(&mut world, VERSION, key, with([0x80, 99]));
    assert_eq!(peer.ask(&mut world), 1);
    let Some(Reply::Denied(denial)) = peer.reply(&world) else { panic!("no refusal") };
    assert_eq!((denial.reason, denial.text.as_str()), (Reason::UnknownOption, "option 99"));
    assert_eq!(remarks(&mut world), [Remark::UnknownOption(99)]);
    // The answer may have been lost: the same again, at most eight times.
    let answers: usize = (0..12).map(|_| peer.ask(&mut world)).sum();
    assert_eq!(answers, 7);
    let stranger = SecretKey::from_bytes([98; 32]);
    assert_ne!(peer.key.public(), stranger.public());
    assert_eq!(Peer::new(&mut world, VERSION, stranger, with([0x80, 99])).ask(&mut world), 0);
}

#[test]
fn a_client_says_that_its_server_takes_other_versions_only() {
    for (versions, trouble) in
        [(None, Trouble::OtherVersion(1, 1)), (Some(VERSION + 1..=VERSION + 4), Trouble::OtherVersion(3, 6))]
    {
        let mut world = World::new(1, 3);
        let (key, window) = (SecretKey::from_bytes([5; 32]), 1_800_000_000);
        let introduction = Introduction {
            network: network(1),
            seed: versions.as_ref().map_or([9; 8], |versions| Introduction::seed_for(versions, &key)),
            key,
            rot: Duration::from_secs(3),
            slot: Duration::from_secs(30),
            published_ms: 1,
        };
        world.dht.insert((*world.hosts[1].identity.public().as_bytes(), window), introduction);
        world.start_client(1);
        for _ in 0..30 {
            world.run(2 * SECOND);
            assert_eq!(world.client(1).trouble(), Some(trouble), "{:?}", world.phase(1));
        }
        assert!(world.heard.len() >= 8, "the server's operator is to be told, too");
        // The server is updated.
        world.dht.clear();
        world.start_server();
        world.run(60 * SECOND);
        assert_eq!((world.phase(1), world.client(1).trouble()), (Phase::Open, None));
    }
}

#[test]
fn a_client_that_speaks_another_version_since_its_session_began_is_told_of_at_once() {
    let mut world = World::open(1, 4);
    let now = world.hosts[0].now(world.boot);
    let id = world.server().sessions().next().unwrap().id;
    let message = [&[0, 1, 0, 0][..], &[7; 140]].concat();
    let receive = |message: &[u8], world: &mut World| {
        let source = Endpoint { address: [1; 16], port: 1 };
        let received = Received { id, slot: 0, source, inner_source: [1; 16], message };
        world.server().handle_control(received, now);
    };
    receive(b"no message at all", &mut world);
    assert_eq!(remarks(&mut world), []);
    receive(&message, &mut world);
    assert_eq!(remarks(&mut world), [Remark::OtherVersion(1)]);
    assert_eq!(world.server().counts().refused[&Refusal::OtherVersion], 1);
    assert_eq!(world.phase(1), Phase::Open);
}
