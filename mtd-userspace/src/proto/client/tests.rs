//! Both machines against each other, in virtual time.

use super::*;
use crate::proto::model::{MILLISECOND, Translation, World, network};

/// Both directions work.
fn assert_traffic(world: &mut World, n: usize) {
    for (from, to) in [(n, 0), (0, n)] {
        let text = world.boot.to_be_bytes();
        assert!(world.send(from, to, &text), "{from} has no way to {to}");
        world.run(SECOND / 2);
        assert!(world.hosts[to].delivered.iter().any(|t| *t == text), "{from} to {to}");
    }
}

#[test]
fn a_client_finds_its_server_from_public_keys_alone() {
    let mut world = World::new(3, 1);
    world.start_server();
    let began = world.boot;
    (1..=3).for_each(|n| world.start_client(n));
    while (1..=3).any(|n| world.phase(n) != Phase::Open) {
        world.run(50 * MILLISECOND);
        assert!(world.boot - began < SECOND, "{:?}", world.phase(1));
    }
    (1..=3).for_each(|n| assert_traffic(&mut world, n));
    assert_eq!(world.server().half_open(), 0);
    assert_eq!(world.server().counts().answered, 3);
    assert!(world.server().counts().refused.is_empty());
}

#[test]
fn keys_are_replaced_without_loss() {
    let mut world = World::open(1, 2);
    let first = world.client(1).session().unwrap().0;
    let mut sent = 0_u32;
    for _ in 0..6000 {
        assert!(world.send(1, 0, &sent.to_be_bytes()) && world.send(0, 1, &sent.to_be_bytes()));
        sent += 1;
        world.run(100 * MILLISECOND);
    }
    world.run(SECOND);
    for host in [0, 1] {
        let delivered = &world.hosts[host].delivered;
        assert_eq!(delivered.len(), sent as usize, "host {host}: {:?}", world.hosts[host].tables.drops);
    }
    let (now, ..) = world.client(1).session().unwrap();
    assert!(now.0 >= first.0 + 4, "ten minutes are four sets of keys at least");
}

#[test]
fn a_clock_that_is_wrong_by_up_to_a_window_is_no_hindrance() {
    for error in [-899_i64, -600, -75, -31, 31, 75, 450, 899] {
        let mut world = World::new(1, error.unsigned_abs());
        world.start_server();
        world.run(600 * SECOND);
        world.hosts[1].wall = world.hosts[1].wall.wrapping_add_signed(error * 1_000_000_000);
        world.start_client(1);
        world.run(40 * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "wrong by {error} s: {:?}", world.client(1).trouble());
        assert_traffic(&mut world, 1);
        // The clock is set right in mid-session.
        world.hosts[1].wall = world.hosts[0].wall;
        world.run(300 * SECOND);
        assert_eq!(world.phase(1), Phase::Open);
        assert_traffic(&mut world, 1);
    }
}

#[test]
fn drift_is_followed() {
    let mut world = World::open(1, 4);
    // The client's clocks run 1 % fast: far more than any real one's.
    for _ in 0..600 {
        world.run(SECOND);
        let (id, _, offset, _) = world.client(1).session().unwrap();
        let server = world.server().sessions().map(|view| view.offset).last().unwrap();
        let difference = offset.ahead_of(server);
        assert!(difference.unsigned_abs() < 300 * MILLISECOND, "{difference} ns in {id:?}");
    }
    assert_traffic(&mut world, 1);
}

#[test]
fn a_client_that_moves_keeps_its_tunnel() {
    let mut world = World::open(1, 5);
    let tunnel = world.client(1).tunnel();
    world.hosts[1].network = Some(network(77));
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(network(77)), &[], now);
    world.act(1);
    world.run(SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    assert_traffic(&mut world, 1);
    assert_eq!(world.client(1).tunnel(), tunnel);
    world.run(60 * SECOND);
    assert_eq!(world.server().sessions().count(), 1, "the one from the old place is gone");
}

/// The network is renumbered: addresses in the old prefix still work.
#[test]
fn a_client_loses_nothing_where_its_old_prefix_still_works() {
    let mut world = World::open(1, 15);
    let (old, before) = (world.hosts[1].network.unwrap(), world.hosts[1].delivered.len());
    world.hosts[1].old_network = Some(old);
    world.hosts[1].network = Some(network(77));
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(network(77)), &[old], now);
    world.act(1);
    for n in 0..100_u32 {
        assert!(world.send(1, 0, &n.to_be_bytes()) && world.send(0, 1, &n.to_be_bytes()));
        world.run(100 * MILLISECOND);
        assert_eq!(world.phase(1), Phase::Open);
    }
    world.run(SECOND);
    assert_eq!((world.hosts[0].delivered.len(), world.hosts[1].delivered.len() - before), (100, 100));
    assert_eq!(world.client(1).networks().collect::<Vec<_>>(), [network(77)], "the old session is gone");
    // Nothing is left that could use the old prefix.
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(network(77)), &[], now);
    assert_traffic(&mut world, 1);
}

#[test]
fn where_nothing_comes_through_the_new_prefix_the_old_session_goes_on() {
    let mut world = World::open(1, 16);
    let old = world.hosts[1].network.unwrap();
    let now = world.hosts[1].now(world.boot);
    // No packet to the new prefix arrives.
    world.client(1).set_network(Some(network(77)), &[old], now);
    world.act(1);
    for _ in 0..200 {
        assert_traffic(&mut world, 1);
        assert_eq!(world.phase(1), Phase::Open);
    }
    assert!(world.client(1).blames_prefix());
    assert!(world.server().counts().answered < 120, "{:?}", world.server().counts());
    // Back to the old one: nothing has happened.
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(old), &[network(77)], now);
    world.act(1);
    assert_traffic(&mut world, 1);
    assert!(!world.client(1).blames_prefix());
}

/// A client that was connected knows what time it is at the server; a loss says nothing of the clock.
#[test]
fn a_client_that_moves_through_a_bad_moment_is_back_within_seconds() {
    for clock_error in [0_i64, 400] {
        let mut world = World::open(1, 17);
        world.hosts[1].wall = world.hosts[1].wall.wrapping_add_signed(clock_error * 1_000_000_000);
        world.faults.loss = 1000;
        world.hosts[1].network = Some(network(77));
        let now = world.hosts[1].now(world.boot);
        world.client(1).set_network(Some(network(77)), &[], now);
        world.act(1);
        world.run(3 * SECOND);
        world.faults.loss = 0;
        world.run(2 * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "{:?}", world.client(1).trouble());
        assert_traffic(&mut world, 1);
    }
}

#[test]
fn both_ends_come_back_by_themselves() {
    let mut world = World::open(2, 6);
    // The server's process is killed and started again, with nothing left of what it knew.
    world.hosts[0].machine = None;
    world.run(5 * SECOND);
    world.start_server();
    world.run(60 * SECOND);
    (1..=2).for_each(|n| assert_traffic(&mut world, n));
    // It is stopped: the clients know at once.
    world.server().stop();
    world.act(0);
    world.run(SECOND);
    assert_ne!(world.phase(1), Phase::Open);
    assert_eq!(world.client(1).trouble(), Some(Trouble::TornDown(Reason::Stopping)));
    world.run(100 * SECOND);
    world.start_server();
    world.run(60 * SECOND);
    (1..=2).for_each(|n| assert_traffic(&mut world, n));
    // A client goes and comes back.
    world.client(1).stop();
    world.act(1);
    world.run(SECOND);
    assert_eq!(world.server().sessions().count(), 1);
    world.start_client(1);
    world.run(2 * SECOND);
    assert_traffic(&mut world, 1);
}

/// What the old server had published is still there, and leads nowhere.
#[test]
fn after_a_restart_of_the_server_its_new_introduction_is_found_soon() {
    for pause in [1, 3, 8] {
        let mut world = World::open(1, 11);
        world.server().stop();
        world.act(0);
        world.hosts[0].machine = None;
        world.run(pause * SECOND);
        world.start_server();
        world.run((pause + 4) * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "down for {pause} s: {:?}", world.client(1).trouble());
        assert_traffic(&mut world, 1);
    }
}

#[test]
fn an_end_that_was_copied_uses_no_key_again() {
    for copied in [0, 1] {
        let mut world = World::open(1, 12);
        let keys = world.client(1).session().unwrap().1.tx.clone();
        let now = world.hosts[copied].now(world.boot);
        if copied == 0 {
            world.server().handle_copied();
        } else {
            world.client(1).handle_copied(now);
        }
        let heard = world.heard.len();
        world.act(copied);
        assert_eq!(world.heard.len(), heard, "nobody is told with the keys of before");
        world.run(60 * SECOND);
        assert_eq!(world.phase(1), Phase::Open);
        assert!(world.client(1).session().unwrap().1.tx != keys);
        assert_traffic(&mut world, 1);
    }
}

#[test]
fn a_running_session_needs_no_dht() {
    let mut world = World::open(1, 7);
    world.faults.dht_gone = true;
    world.run(3600 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    assert_traffic(&mut world, 1);
    // Nor does a client that moves while its introduction is good.
    let mut world = World::open(1, 8);
    world.faults.dht_gone = true;
    world.run(120 * SECOND);
    world.hosts[1].network = Some(network(78));
    let now = world.hosts[1].now(world.boot);
    world.client(1).set_network(Some(network(78)), &[], now);
    world.act(1);
    world.run(5 * SECOND);
    assert_traffic(&mut world, 1);
}

#[test]
fn what_is_missing_is_named() {
    let mut world = World::new(1, 9);
    world.faults.dht_gone = true;
    world.start_client(1);
    world.run(3 * SECOND);
    assert_eq!(world.client(1).trouble(), Some(Trouble::NetworkUnreachable));
    world.faults.dht_gone = false;
    world.run(60 * SECOND);
    assert_eq!(world.client(1).trouble(), Some(Trouble::NothingPublished));
    // Published, and then nobody there.
    world.start_server();
    world.hosts[0].machine = None;
    world.hosts[0].tables = crate::proto::model::Tables::default();
    world.run(120 * SECOND);
    assert_eq!(world.client(1).trouble(), Some(Trouble::NoAnswer));
    world.start_server();
    world.run(70 * SECOND);
    assert_eq!((world.phase(1), world.client(1).trouble()), (Phase::Open, None));
    let mut world = World::new(1, 10);
    world.hosts[1].network = None;
    world.start_server();
    world.start_client(1);
    world.run(SECOND);
    assert_eq!(world.phase(1), Phase::NoPrefix);
}

#[test]
fn a_router_that_translates_is_no_hindrance() {
    let mut world = World::new(2, 12);
    world.start_server();
    world.hosts[1].router = Some(Translation::new(network(88)));
    (1..=2).for_each(|n| world.start_client(n));
    world.run(3 * SECOND);
    let translated = |world: &mut World| {
        let at_server: Vec<_> = world.server().sessions().filter(|view| view.translated).collect();
        let keys: Vec<_> = at_server.iter().map(|view| *view.client).collect();
        assert!(!keys.is_empty() && keys.iter().all(|key| *key == world.hosts[1].identity.public()));
        assert!(world.client(1).is_translated() && !world.client(2).is_translated());
    };
    assert_eq!(world.phase(1), Phase::Open, "{:?}", world.server().counts());
    translated(&mut world);
    assert_traffic(&mut world, 1);
    // The router restarts, and has forgotten everything: the next packet of the client teaches the server.
    world.hosts[1].router = Some(Translation::new(network(89)));
    assert_traffic(&mut world, 1);
    // Keys are renewed inside the session, and both controllers are killed.
    world.run(300 * SECOND);
    assert!(world.client(1).session().is_some_and(|(id, ..)| id.0 > 3));
    translated(&mut world);
    world.restart_server(&[1, 2]);
    world.restart_client(1);
    world.run(30 * SECOND);
    assert_traffic(&mut world, 1);
    assert!(world.server().counts().refused.is_empty(), "{:?}", world.server().counts());
}

#[test]
fn a_session_outlives_a_router_that_begins_and_one_that_ends_to_translate() {
    let mut world = World::open(1, 13);
    world.hosts[1].router = Some(Translation::new(network(88)));
    world.run(30 * SECOND);
    assert_traffic(&mut world, 1);
    assert!(world.client(1).is_translated());
    world.hosts[1].router = None;
    assert_traffic(&mut world, 1);
    // With the next keys the server takes packets from the client's own addresses only.
    world.run(130 * SECOND);
    assert!(!world.client(1).is_translated());
    assert!(world.server().sessions().all(|view| !view.translated));
    assert_traffic(&mut world, 1);
}
