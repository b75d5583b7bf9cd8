//! A client behind a stateful firewall, in virtual time.

use super::*;
use crate::model::MiddleboxChoice;
use crate::proto::exchange::MILLISECOND;
use crate::proto::middlebox::Finding;
use crate::proto::model::{Faults, Firewall, World};

/// A world whose client has a firewall in front of it, with the session open and the middlebox found.
fn behind_firewall(seed: u64) -> World {
    let mut world = World::new(1, seed);
    world.hosts[1].firewall = Some(Firewall::default());
    world.start_server();
    world.start_client(1);
    world.run(20 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    world
}

fn finding(world: &mut World) -> Finding {
    world.client(1).middlebox().1
}

/// The server sends to a client that sends nothing; returns how many packets were lost.
fn stream(world: &mut World, packets: u64, interval: u64) -> u64 {
    let before = world.hosts[1].delivered.len() as u64;
    for number in 0..packets {
        assert!(world.send(0, 1, &number.to_be_bytes()));
        world.run(interval);
    }
    world.run(SECOND);
    packets - (world.hosts[1].delivered.len() as u64 - before)
}

#[test]
fn nothing_from_the_server_is_lost_on_the_way_to_an_idle_client() {
    for seed in 0..10 {
        let mut world = behind_firewall(seed);
        assert_eq!(finding(&mut world), Finding::Found);
        // Ten minutes: 200 slots, and five renewals of the keys.
        assert_eq!(stream(&mut world, 12_000, 50 * MILLISECOND), 0, "seed {seed}");
        // The first packet after a quiet while.
        world.run(75 * SECOND);
        assert_eq!(stream(&mut world, 1, 50 * MILLISECOND), 0);
        let boot = world.boot;
        let entries = world.hosts[1].firewall.as_ref().unwrap().entries(boot);
        assert!(entries <= 14, "{entries} entries for 30 s of slots of 3 s");
    }
}

/// As it is without openers: what this is for.
#[test]
fn without_openers_an_idle_client_is_not_reached() {
    let mut world = World::new(1, 1);
    world.middlebox = MiddleboxChoice::Off;
    world.hosts[1].firewall = Some(Firewall::default());
    world.start_server();
    world.start_client(1);
    world.run(20 * SECOND);
    let lost = stream(&mut world, 1_200, 50 * MILLISECOND);
    assert!(lost > 600, "{lost} of 1,200 lost");
}

#[test]
fn every_first_opener_of_a_slot_may_be_lost() {
    for seed in 0..10 {
        let mut world = behind_firewall(seed);
        let mut lost = 0;
        // The network loses everything for a while after each edge of a slot, by the client's clock.
        for _ in 0..60 {
            let boot = BootNs(world.boot);
            let (_, session, offset, _) = world.client(1).session().unwrap();
            let left = session.period - offset.session(boot).0.wrapping_add(session.phase) % session.period;
            lost += stream_until(&mut world, left);
            world.hosts[0].network = None;
            world.run(300 * MILLISECOND);
            world.hosts[0].network = Some(crate::proto::model::network(1));
        }
        assert_eq!(lost, 0, "seed {seed}");
    }
}

/// The server sends for so long; returns how many packets were lost.
fn stream_until(world: &mut World, duration: u64) -> u64 {
    let packets = duration / (50 * MILLISECOND);
    let before = world.hosts[1].delivered.len() as u64;
    for number in 0..packets {
        assert!(world.send(0, 1, &number.to_be_bytes()));
        world.run(50 * MILLISECOND);
    }
    world.run(duration % (50 * MILLISECOND));
    // The last ones are still under way.
    (packets - (world.hosts[1].delivered.len() as u64 - before)).saturating_sub(1)
}

#[test]
fn openers_stop_where_nothing_is_in_between() {
    let mut world = World::open(1, 7);
    world.run(10 * SECOND);
    assert_eq!(finding(&mut world), Finding::Absent);
    let server_answers_where_heard =
        |world: &World| world.hosts[0].tables.entries.values().any(|entry| entry.where_heard);
    assert!(!server_answers_where_heard(&world));
    let count = |world: &World| world.heard.len();
    let before = count(&world);
    world.run(45 * SECOND);
    // A ping and its answer each ten seconds, the question and its answers at most once.
    assert!(count(&world) - before <= 2 * 5 + 4, "{} packets", count(&world) - before);

    // A firewall appears in mid-session: noticed within a minute, and gone again.
    world.hosts[1].firewall = Some(Firewall::default());
    world.run(75 * SECOND);
    assert_eq!(finding(&mut world), Finding::Found);
    assert_eq!(stream(&mut world, 600, 50 * MILLISECOND), 0);
    world.hosts[1].firewall = None;
    world.run(75 * SECOND);
    assert_eq!(finding(&mut world), Finding::Absent);
    assert!(!server_answers_where_heard(&world));
}

#[test]
fn an_idle_client_sends_two_small_packets_a_slot_at_most() {
    let mut world = behind_firewall(3);
    let before = world.heard.len();
    world.run(30 * SECOND);
    let sent =
        world.heard[before..].iter().filter(|packet| packet[..40] != [0; 40] && is_clients(packet)).count();
    // Beside the keep-alive and the question.
    assert!(sent <= 2 * 11 + 3 + 3, "{sent} packets in ten slots");
}

fn is_clients(packet: &[u8]) -> bool {
    packet[8..24].starts_with(&crate::proto::model::network(2).prefix[..8])
}

#[test]
fn a_clock_that_differs_and_packets_that_overtake_each_other_cost_nothing() {
    for (seed, error) in [(1, 900_i64), (2, -900), (3, 1_400), (4, -1_400)] {
        let mut world = behind_firewall(seed);
        world.faults = Faults { delay: 150 * MILLISECOND, duplication: 100, ..Faults::default() };
        // The programs of the server count slots by another clock than its controller says.
        for entry in world.hosts[0].tables.entries.values_mut() {
            entry.offset = entry.offset.moved(error * 1_000_000);
        }
        assert_eq!(stream(&mut world, 400, 50 * MILLISECOND), 0, "{error} ms");
    }
}

#[test]
fn a_restart_of_either_controller_keeps_the_way_open() {
    let mut world = behind_firewall(5);
    world.restart_server(&[1]);
    assert_eq!(stream(&mut world, 200, 50 * MILLISECOND), 0, "the server's");
    world.restart_client(1);
    assert_eq!(stream(&mut world, 200, 50 * MILLISECOND), 0, "the client's");
}
