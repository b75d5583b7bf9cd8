//! What a server refuses, and what it forgets.

use super::*;
use crate::model::UnixNs;
use crate::proto::client::Phase;
use crate::proto::exchange::Publication;
use crate::proto::model::{MILLISECOND, Translation, World, network};
use crate::proto::rendezvous::window_start;

#[test]
fn a_client_that_is_not_registered_gets_no_answer() {
    let mut world = World::open(1, 1);
    let stranger = SecretKey::from_bytes([99; 32]);
    world.hosts[1].identity = stranger.clone();
    // Even when it has got hold of the introduction: the one of the registered client.
    let window = world.dht.keys().next().unwrap().1;
    let introduction = world.dht.values().next().unwrap().clone();
    world.dht.insert((*stranger.public().as_bytes(), window), introduction);
    world.start_client(1);
    world.run(10 * SECOND);
    assert_eq!(world.phase(1), Phase::Connecting);
    let counts = world.server().counts();
    assert_eq!(counts.answered, 1, "only the registered one before");
    assert!(counts.refused[&Refusal::Unregistered] >= 3, "{counts:?}");
    assert_eq!(world.server().sessions().count(), 1);
}

#[test]
fn a_removed_client_is_out_at_once() {
    let mut world = World::open(2, 2);
    let client = world.hosts[1].identity.public();
    let now = world.hosts[0].now(world.boot);
    world.server().remove(&client, now);
    world.act(0);
    assert_eq!(world.server().sessions().count(), 1);
    world.run(SECOND);
    assert_ne!(world.phase(1), Phase::Open);
    assert_eq!(world.phase(2), Phase::Open);
    world.run(120 * SECOND);
    assert_ne!(world.phase(1), Phase::Open);
    assert_eq!(world.phase(2), Phase::Open);
    // And in again.
    let now = world.hosts[0].now(world.boot);
    world.server().register(Admission::new(client, crate::proto::model::tunnel(2)), now);
    world.act(0);
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
}

#[test]
fn replays_of_all_that_was_sent_change_nothing() {
    let mut world = World::open(2, 3);
    world.run(20 * SECOND);
    let heard = world.heard.clone();
    let (sessions, answered) = (world.server().sessions().count(), world.server().counts().answered);
    for wait in [0, 1, 10, 40, 900] {
        world.run(wait * SECOND);
        let before: Vec<_> = world.hosts[0].delivered.clone();
        for packet in &heard {
            world.transmit(packet);
        }
        world.run(2 * SECOND);
        assert_eq!(world.hosts[0].delivered, before);
        assert_eq!(world.server().sessions().filter(|view| !view.closing).count(), sessions);
        (1..=2).for_each(|n| assert_eq!(world.phase(n), Phase::Open, "after {wait} s"));
    }
    // The keys of the two clients were replaced meanwhile, by nobody but themselves.
    let rekeys = world.server().counts().answered - answered;
    assert!((14..=18).contains(&rekeys), "{rekeys}");
}

#[test]
fn idle_and_half_open_sessions_end() {
    let mut world = World::open(1, 4);
    // The client's host vanishes.
    world.hosts[1].machine = None;
    world.run(65 * SECOND);
    assert_eq!(world.server().sessions().count(), 0);

    // A request whose answer never arrives.
    let mut world = World::new(1, 5);
    world.start_server();
    world.start_client(1);
    while world.server().half_open() == 0 {
        world.run(MILLISECOND);
    }
    world.hosts[1].machine = None;
    world.run(35 * SECOND);
    assert_eq!((world.server().half_open(), world.server().sessions().count()), (0, 0));
}

#[test]
fn clients_were_not_idle_while_the_server_slept() {
    for woken in [false, true] {
        let mut world = World::open(1, 7);
        world.boot += 70 * SECOND;
        let now = world.hosts[0].now(world.boot);
        if woken {
            world.server().handle_woken(now);
        }
        world.server().poll(now);
        assert_eq!(world.server().sessions().count(), usize::from(woken));
    }
}

#[test]
fn introductions_are_renewed_every_window_and_outlive_it_for_a_while() {
    let mut world = World::new(1, 6);
    world.start_server();
    for _ in 0..240 {
        world.run(30 * SECOND);
        let now = world.hosts[0].now(world.boot).wall.seconds();
        let window = window_start(now, 900);
        let open: Vec<_> = world.server().introductions.iter().map(|open| open.window).collect();
        assert!(open.contains(&window), "{open:?} at {now}");
        assert_eq!(open.contains(&(window + 900)), now >= window + 600, "{open:?} at {now}");
        assert!(open.len() <= 3);
        if world.boot > 3000 * SECOND {
            assert_eq!(open.contains(&(window - 900)), now < window + 300, "{open:?} at {now}");
        }
    }
    let mut keys: Vec<_> = world.dht.values().map(|found| *found.key.as_bytes()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), world.dht.len(), "a new key for every window");
    assert!(world.dht.len() >= 8);
}

#[test]
fn one_client_cannot_take_all_the_handshakes() {
    let mut world = World::open(2, 7);
    for _ in 0..200 {
        world.start_client(1);
        world.run(300 * MILLISECOND);
    }
    let refused = world.server().counts().refused.clone();
    assert!(refused[&Refusal::ClientLimit] > 20, "{refused:?}");
    assert!(world.server().sessions().count() <= 8);
    world.start_client(2);
    world.run(2 * SECOND);
    assert_eq!(world.phase(2), Phase::Open);
}

/// Whoever copies a request and is faster gets an answer that it cannot read, and keeps nobody from its own.
#[test]
fn a_copy_that_comes_first_is_of_no_use() {
    for translated in [false, true] {
        let mut world = World::new(1, 8);
        world.faults.delay = 0;
        world.start_server();
        world.hosts[1].router = translated.then(|| Translation::new(network(88)));
        world.start_client(1);
        // Until the request is on its way.
        while world.heard.is_empty() {
            world.run(MILLISECOND / 2);
        }
        let mut thief = Translation::new(network(66));
        let copy = thief.outwards(&world.heard[0].clone());
        world.deliver(&copy);
        let id = world.server().sessions().next().map(|view| (view.id, view.translated));
        assert!(id.is_some_and(|(_, translated)| translated), "the copy is taken for a translated one");
        world.run(2 * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "translated: {translated}");
        let to_thief = world.heard.iter().filter(|packet| packet[24..32] == network(66).prefix[..8]).count();
        assert_eq!(to_thief, 1, "one answer for one copy");
        assert!(
            world.heard.iter().all(|packet| packet[24..32] != network(66).prefix[..8] || packet.len() == 880)
        );
        let views: Vec<_> = world.server().sessions().map(|view| (view.id, view.translated)).collect();
        assert_eq!(views, [(id.unwrap().0, translated)], "one session, as strict as can be");
        // Later copies change nothing.
        for packet in world.heard.clone() {
            let copy = thief.outwards(&packet);
            world.deliver(&copy);
        }
        world.run(SECOND);
        assert_eq!(world.server().sessions().count(), 1);
        let late = world.heard.iter().filter(|packet| packet[24..32] == network(66).prefix[..8]).count();
        assert_eq!(late, 1);
        assert!(world.send(0, 1, b"still to the client"));
        world.run(SECOND);
        assert_eq!(world.hosts[1].delivered, [b"still to the client"]);
    }
}

#[test]
fn slots_are_what_is_set_or_what_is_wished_within_bounds() {
    let mut world = World::new(1, 9);
    world.start_server();
    let server = world.server();
    for (set, wish, expected) in [
        (None, 0, 3),
        (None, 1_000, 3),
        (None, 10_000, 10),
        (None, 30_000, 30),
        (None, 3_600_000, 30),
        (Some(90 * SECOND), 0, 90),
        (Some(90 * SECOND), 10_000, 90),
    ] {
        assert_eq!(server.period(set, wish), expected * SECOND, "{set:?}, {wish}");
    }
    server.settings.longest_period = SECOND;
    assert_eq!(server.period(None, 10_000), 3 * SECOND, "no wish is granted");
    // From the next session on.
    let client = world.hosts[1].identity.public();
    let now = world.hosts[0].now(world.boot);
    let admission =
        Admission { period: Some(7 * SECOND), ..Admission::new(client, crate::proto::model::tunnel(2)) };
    world.server().register(admission, now);
    world.start_client(1);
    world.run(SECOND);
    assert!(world.server().sessions().all(|view| view.session.period == 7 * SECOND));
    assert_eq!(world.phase(1), Phase::Open);
}

/// The introductions that a server publishes or makes ahead at this Unix time in s.
fn publications(server: &mut Server, seconds: u64) -> BTreeMap<u64, Publication> {
    let (boot, wall) = (BootNs(seconds * SECOND), UnixNs(seconds * SECOND));
    server.poll(Reading { boot, wall });
    let actions = std::iter::from_fn(|| server.next_action());
    let published = actions.filter_map(|action| match action {
        Action::Publish(publication) => Some((publication.window, publication)),
        _ => None,
    });
    published.collect()
}

#[test]
fn introductions_made_ahead_are_those_that_are_opened_later() {
    const START: u64 = 1_800_000_000;
    let world = World::new(1, 31);
    let n = world.settings().window;
    let mut count = 0_u8;
    let random: Random = Box::new(move |bytes| {
        count = count.wrapping_add(1);
        bytes.fill(count);
    });
    let mut server = Server::new(Settings { ahead: 3, ..world.settings() }, random, 0);
    let client = world.hosts[1].identity.public();
    let now = Reading { boot: BootNs(START * SECOND), wall: UnixNs(START * SECOND) };
    server.register(Admission::new(client, crate::proto::model::tunnel(1)), now);

    let first = publications(&mut server, START);
    let windows = |from: u64, to: u64| (from..=to).map(|nth| START + nth * n).collect::<Vec<_>>();
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), windows(0, 3));
    assert_eq!(first.values().map(|one| one.ahead).collect::<Vec<_>>(), [false, true, true, true]);
    let keys: std::collections::BTreeSet<_> =
        first.values().map(|one| *one.introduction.key.as_bytes()).collect();
    assert_eq!(keys.len(), 4, "a key of its own for each window");
    assert!(publications(&mut server, START + 1).is_empty(), "made once");

    // In its time, the next one is opened as it was made, and another one is made at the end.
    let opened = publications(&mut server, START + n - n / 3);
    let [(window, opened)] = opened.into_iter().collect::<Vec<_>>().try_into().unwrap();
    let made = &first[&window].introduction;
    assert!(!opened.ahead && opened.introduction.published_ms > made.published_ms);
    assert_eq!(
        (opened.introduction.key.as_bytes(), opened.introduction.seed),
        (made.key.as_bytes(), made.seed)
    );
    assert_eq!(publications(&mut server, START + n).keys().copied().collect::<Vec<_>>(), windows(4, 4));

    // Whoever is removed knows none of those for the times to come.
    let now = Reading { boot: BootNs((START + n) * SECOND), wall: UnixNs((START + n) * SECOND) };
    server.remove(&client, now);
    server.register(Admission::new(client, crate::proto::model::tunnel(1)), now);
    let renewed = publications(&mut server, START + n + 3);
    assert_eq!(renewed.keys().copied().collect::<Vec<_>>(), windows(0, 4));
    // The window before is still open, for a time of grace.
    assert!(renewed.values().all(|one| !keys.contains(one.introduction.key.as_bytes())));
    // After a step of the clock, nothing of another time is kept.
    let later = publications(&mut server, START + 100 * n);
    assert_eq!(later.keys().copied().collect::<Vec<_>>(), windows(100, 103));
}
