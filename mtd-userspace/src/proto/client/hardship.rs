//! Outages, clocks and adversaries that once kept a client from its server.

use super::*;
use crate::proto::model::{MILLISECOND, Machine, Tables, World, network};
use crate::proto::server::Admission;

fn start(world: &mut World, n: usize, keepalive: u64) {
    let settings = Settings {
        identity: world.hosts[n].identity.clone(),
        server: world.hosts[0].identity.public(),
        window: world.window,
        keepalive,
        period_ms: 0,
        allowed: Vec::new(),
        middlebox: world.middlebox,
    };
    let random = world.dice.source();
    let mut client = Client::new(settings, random).unwrap();
    client.set_network(world.hosts[n].network, &[], world.hosts[n].now(world.boot));
    world.hosts[n].tables = Tables::default();
    world.hosts[n].machine = Some(Machine::Client(Box::new(client)));
    world.act(n);
}

#[test]
fn an_outage_longer_than_the_idle_time() {
    let mut world = World::open(1, 1);
    world.faults.loss = 1000;
    world.run(120 * SECOND);
    world.faults.loss = 0;
    world.run(120 * SECOND);
    assert_eq!(world.phase(1), Phase::Open, "{:?}", world.client(1).trouble());
}

#[test]
fn a_session_that_ended_as_idle_comes_back() {
    let mut world = World::new(1, 2);
    world.start_server();
    start(&mut world, 1, 3600 * SECOND);
    world.run(3 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    world.run(70 * SECOND);
    // the client must have a session again, whatever happened.
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Phase::Open, "{:?}", world.client(1).trouble());
}

#[test]
fn clocks_set_back_at_both_ends() {
    let mut world = World::open(1, 4);
    world.run(4 * 900 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    for host in &mut world.hosts {
        host.wall -= 3 * 3600 * SECOND;
    }
    world.hosts[0].machine = None;
    world.start_server();
    world.run(200 * SECOND);
    let known: Vec<_> = world.client(1).known.keys().copied().collect();
    assert_eq!(world.phase(1), Phase::Open, "{:?} {known:?}", world.client(1).trouble());
}

#[test]
fn a_client_that_moved_knows_that_it_is_cut_off() {
    let mut world = World::open(1, 5);
    world.faults.loss = 1000;
    world.hosts[1].network = Some(network(77));
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(network(77)), &[], now);
    world.act(1);
    world.run(200 * MILLISECOND);
    assert!(![Phase::Open, Phase::HalfOpen].contains(&world.phase(1)), "{:?}", world.phase(1));
    assert!(!world.send(1, 0, b"nothing leaves with the old prefix"));
}

#[test]
fn two_handshakes_at_once() {
    let mut bad = Vec::new();
    for seed in 0..150 {
        let mut world = World::open(1, 1000 + seed);
        world.run(100 * SECOND);
        while world.client(1).rekey.is_none() {
            world.run(50 * MILLISECOND);
            assert!(world.boot < 1200 * SECOND);
        }
        // The request is on its way, the answer gets lost.
        world.faults.loss = 1000;
        world.run(100 * MILLISECOND);
        world.faults.loss = 0;
        // As when the session counts as silent, or is about to expire: both kinds of request at a time.
        let now = world.hosts[1].now(world.boot);
        let client = world.client(1);
        client.start_rekey(now);
        let window = client.window(now);
        client.start_attempt(window, 0, now);
        world.act(1);
        world.run(12 * SECOND);
        let text = seed.to_be_bytes();
        let (a, b) = (world.send(1, 0, &text), world.send(0, 1, &text));
        world.run(SECOND);
        let arrived = |n: usize, world: &World| world.hosts[n].delivered.iter().any(|t| *t == text);
        if !(a && b && arrived(0, &world) && arrived(1, &world)) {
            bad.push((seed, a, b, world.phase(1)));
        }
    }
    assert!(bad.is_empty(), "{} of 150: {bad:?}", bad.len());
}

#[test]
fn answers_lost_for_some_seconds() {
    let mut world = World::open(1, 7);
    world.run(100 * SECOND);
    while world.client(1).rekey.is_none() {
        world.run(50 * MILLISECOND);
    }
    // The request is under way; its answers get lost.
    world.faults.loss = 1000;
    world.run(21 * MILLISECOND);
    assert!(world.client(1).rekey.is_some() && world.server().half_open() == 1);
    world.run(4500 * MILLISECOND);
    world.faults.loss = 0;
    let (mut sent, before) = (0, (world.hosts[0].delivered.len(), world.hosts[1].delivered.len()));
    for _ in 0..150_u32 {
        let text = world.boot.to_be_bytes();
        world.send(1, 0, &text);
        world.send(0, 1, &text);
        sent += 1;
        world.run(100 * MILLISECOND);
    }
    let got = (world.hosts[0].delivered.len() - before.0, world.hosts[1].delivered.len() - before.1);
    let drops = format!("{:?}", world.hosts[0].tables.drops);
    assert_eq!(got, (sent, sent), "{drops} {:?}", world.client(1).trouble());
}

#[test]
fn a_server_whose_clock_was_ahead_before_its_restart() {
    // A wrong clock at first publication, put right, restart: what was published has higher numbers.
    let mut world = World::new(1, 8);
    world.hosts[0].wall += 300 * SECOND;
    world.start_server();
    start(&mut world, 1, 10 * SECOND);
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Phase::Open, "{:?}", world.client(1).trouble());
    world.hosts[0].wall -= 300 * SECOND;
    world.start_server();
    world.run(120 * SECOND);
    assert_eq!(world.phase(1), Phase::Open, "{:?}", world.client(1).trouble());
}

#[test]
fn keys_that_live_shortly() {
    let mut world = World::new(1, 9);
    let settings = crate::proto::server::Settings { rekey_after: 10, expire_after: 16, ..world.settings() };
    let random = world.dice.source();
    let mut server = crate::proto::server::Server::new(settings, random, 0);
    let now = world.hosts[0].now(world.boot);
    server.register(Admission::new(world.hosts[1].identity.public(), crate::proto::model::tunnel(2)), now);
    server.poll(now);
    world.hosts[0].machine = Some(Machine::Server(Box::new(server)));
    world.act(0);
    start(&mut world, 1, 10 * SECOND);
    world.run(60 * SECOND);
    let counts = format!("{:?}", world.server().counts());
    assert!(world.server().counts().answered <= 8, "{counts}");
}

#[test]
fn who_knows_the_introduction_takes_nothing_from_others() {
    use crate::proto::exchange::introduce;
    use crate::proto::packet::Path;
    use crate::proto::session::{Ends, Session};
    use mtd_common::address::End;
    let mut world = World::new(2, 10);
    world.start_server();
    let ((_, window), introduction) =
        world.dht.iter().next().map(|(key, found)| (*key, found.clone())).unwrap();

    let period = introduction.slot.as_nanos() as u64;
    // 200 packets a second with the victim's prefix as their source, which nobody has to receive at.
    let mut dice = world.dice.source();
    for n in 0..6000 {
        if n == 1000 {
            start(&mut world, 1, 10 * SECOND);
        }
        let now = world.hosts[1].now(world.boot);
        let local = End { network: network(2), seed: [7; 8] };
        let remote = End { network: introduction.network, seed: introduction.seed };
        let session =
            Session::to_introduction(Ends { local, remote }, introduction.key.as_bytes(), window, period);
        let number = mtd_common::slot::number(now.wall.0, 0, period);
        let (local, remote) = session.endpoints(number);
        let mut body = [0; 140];
        dice(&mut body);
        let path = Path { slot: number, local, remote };
        let packet = introduce(&session, &path, remote, Control::Request(&body), &mut dice).unwrap();
        world.transmit(&packet);
        world.run(5 * MILLISECOND);
    }

    let counts = format!("{:?}", world.server().counts());

    assert_eq!(world.phase(1), Phase::Open, "{counts}");
}

/// What was replaced is over at both ends, also where one was killed meanwhile. A message through it would meet addresses that
/// the other end does not have any more; and its keys would stay for minutes.
#[test]
fn a_session_that_was_replaced_before_a_crash_is_not_used_again() {
    for killed in [&[0][..], &[1], &[1, 0]] {
        let mut world = World::open(1, 20);
        while world.client(1).sessions.iter().all(|active| active.retires.is_none()) {
            world.run(50 * MILLISECOND);
            assert!(world.boot < 1200 * SECOND);
        }
        for n in killed {
            world.hosts[*n].machine = None;
        }
        world.run(10 * SECOND);
        for n in killed {
            if *n == 0 { world.restart_server(&[1]) } else { world.restart_client(1) }
        }
        world.run(6 * SECOND);
        let left = (world.client(1).sessions.len(), world.server().sessions().count());
        assert_eq!(left, (1, 1), "{killed:?}: only the newest session goes on");
        // Keys are renewed once more, and the time after which an idle session ends passes.
        world.run(150 * SECOND);
        assert_eq!(world.phase(1), Phase::Open);
        let drops = [0, 1].map(|n| world.hosts[n].tables.drops.clone());
        assert!(drops.iter().all(BTreeMap::is_empty), "{killed:?}: {drops:?}");
    }
}

/// The client's data plane goes on with the session that it has, while the server already has heard it in the new one.
#[test]
fn a_client_killed_in_the_middle_of_new_keys_loses_nothing_that_it_sends() {
    let mut world = World::open(1, 22);
    let half_open = |world: &mut World| {
        let sessions = &world.client(1).sessions;
        sessions.len() == 2 && !sessions[1].last_valid.happened()
    };
    while !half_open(&mut world) {
        world.run(MILLISECOND);
        assert!(world.boot < 1200 * SECOND);
    }
    world.hosts[1].machine = None;
    let before = world.hosts[0].delivered.len();
    for number in 0..200_u8 {
        assert!(world.send(1, 0, &[number]));
        world.run(50 * MILLISECOND);
    }
    assert_eq!(world.hosts[0].delivered.len() - before, 200, "{:?}", world.hosts[0].tables.drops);
    world.restart_client(1);
    world.run(20 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    assert_eq!((world.client(1).sessions.len(), world.server().sessions().count()), (1, 1));
    assert!(world.hosts[0].tables.drops.is_empty(), "{:?}", world.hosts[0].tables.drops);
}

/// The host has slept for less than the time after which its keys expire, and for longer.
#[test]
fn a_client_that_has_slept_has_new_keys_at_once() {
    for slept in [5, 40, 600] {
        let mut world = World::open(1, 30);
        world.run(10 * SECOND);
        let answered = world.server().counts().answered;
        world.boot += slept * SECOND;
        let now = world.hosts[1].now(world.boot);
        world.server().handle_woken(now);
        world.client(1).handle_woken(now);
        world.run(2 * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "{slept} s: {:?}", world.client(1).trouble());
        assert!(world.server().counts().answered > answered, "{slept} s: no new keys");
        assert!(world.send(0, 1, b"welcome back") && world.send(1, 0, b"good morning"));
        world.run(SECOND);
        assert_eq!(world.hosts.iter().map(|host| host.delivered.len()).sum::<usize>(), 2, "{slept} s");
    }
}
