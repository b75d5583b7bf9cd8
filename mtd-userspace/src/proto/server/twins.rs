//! Two hosts with one client's key: each is told, one keeps the session, and nothing that is replayed makes it seem so.

use super::{Refusal, Remark};
use crate::proto::client::{Phase, Trouble};
use crate::proto::exchange::SECOND;
use crate::proto::messages::Reason;
use crate::proto::model::{MILLISECOND, World, network};

/// A server, a client whose session is open, and a second host with the same key, which does not run.
fn world(seed: u64) -> World {
    let mut world = World::new(2, seed);
    world.hosts[2].identity = world.hosts[1].identity.clone();
    world.start_server();
    world.start_client(1);
    world.run(3 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    world
}

fn remarks(world: &mut World) -> Vec<Remark> {
    let now = world.hosts[0].now(world.boot).boot;
    world.server().remarks(now).map(|(_, remark)| remark).collect()
}

fn in_use(world: &mut World) -> u64 {
    world.server().counts().refused.get(&Refusal::InUse).copied().unwrap_or(0)
}

/// Lets time pass, and counts the steps in which a host's session is open.
fn open_while(world: &mut World, host: usize, seconds: u64) -> u64 {
    let mut open = 0;
    for _ in 0..seconds * 10 {
        world.run(100 * MILLISECOND);
        open += u64::from(world.phase(host) == Phase::Open);
    }
    open
}

#[test]
fn one_of_two_hosts_keeps_the_session_and_the_other_comes_in_when_it_stops() {
    for seed in 0..20 {
        let mut world = world(seed);
        world.faults.loss = 20 * (seed % 3);
        world.start_client(2);
        world.run(10 * SECOND);
        // The newcomer has it; what was there before has been told, and has proved to be alive.
        assert_eq!(world.phase(2), Phase::Open, "seed {seed}");
        assert_ne!(world.phase(1), Phase::Open, "seed {seed}");
        assert_eq!(world.client(1).trouble(), Some(Trouble::Denied(Reason::InUse)), "seed {seed}");
        assert_eq!(remarks(&mut world), [Remark::KeyInUse], "seed {seed}");
        assert_eq!(open_while(&mut world, 2, 240), 2400, "seed {seed}: over new keys, too");
        assert!(in_use(&mut world) >= 20, "seed {seed}");
        assert_eq!(remarks(&mut world), [Remark::KeyInUse]);

        world.faults.loss = 0;
        world.client(2).stop();
        world.act(2);
        world.hosts[2].machine = None;
        let stopped = world.boot;
        while world.phase(1) != Phase::Open {
            world.run(100 * MILLISECOND);
            assert!(world.boot < stopped + 9 * SECOND, "seed {seed}: {:?}", world.client(1).trouble());
        }
        world.run(70 * SECOND);
        assert_eq!(remarks(&mut world), [], "it is over");
    }
}

#[test]
fn a_host_that_vanishes_does_not_keep_the_other_out() {
    for seed in 0..20 {
        let mut world = world(100 + seed);
        world.start_client(2);
        world.run((5 + seed) * SECOND);
        assert_eq!(world.client(1).trouble(), Some(Trouble::Denied(Reason::InUse)));
        world.hosts[2].machine = None;
        let gone = world.boot;
        while world.phase(1) != Phase::Open {
            world.run(100 * MILLISECOND);
            assert!(world.boot < gone + 30 * SECOND, "seed {seed}: {:?}", world.client(1).trouble());
        }
    }
}

#[test]
fn restarts_moves_and_a_new_server_are_not_two_hosts() {
    let mut world = world(200);
    world.hosts[2].machine = None;
    for n in 0..10_u16 {
        match n % 3 {
            0 => world.start_client(1),
            1 => world.start_server(),
            _ => {
                let place = Some(network(50 + n));
                world.hosts[1].network = place;
                let now = world.hosts[1].now(world.boot);
                world.client(1).set_network(place, &[], now);
                world.act(1);
            }
        }
        world.run(70 * SECOND);
        assert_eq!(world.phase(1), Phase::Open, "{n}: {:?}", world.client(1).trouble());
        assert_eq!((in_use(&mut world), remarks(&mut world)), (0, vec![]), "{n}");
    }
}

#[test]
fn ten_hosts_with_one_key_do_not_take_turns() {
    let mut world = World::new(10, 300);
    for n in 2..=10 {
        world.hosts[n].identity = world.hosts[1].identity.clone();
    }
    world.start_server();
    for n in 1..=10 {
        world.start_client(n);
        world.run(3 * SECOND);
    }
    world.run(20 * SECOND);
    assert_eq!(open_while(&mut world, 10, 60), 600);
    for n in 1..10 {
        assert_eq!(world.client(n).trouble(), Some(Trouble::Denied(Reason::InUse)), "{n}");
    }
}

#[test]
fn requests_that_were_held_back_do_not_make_two_hosts_of_one() {
    let mut world = world(400);
    // It moves, and all that it sends is held back by somebody on the way.
    world.faults.loss = 1000;
    let place = Some(network(77));
    world.hosts[1].network = place;
    let (now, first) = (world.hosts[1].now(world.boot), world.heard.len());
    world.client(1).set_network(place, &[], now);
    world.act(1);
    world.run(1500 * MILLISECOND);
    let held_back = world.heard[first..].to_vec();
    assert!(held_back.len() >= 3);
    // Its controller is killed, and started again: the session of before is displaced.
    world.faults.loss = 0;
    world.start_client(1);
    world.run(3 * SECOND);
    assert_eq!(world.phase(1), Phase::Open);
    for _ in 0..3 {
        for packet in &held_back {
            world.transmit(packet);
        }
        world.run(3 * SECOND);
        assert_eq!((world.phase(1), remarks(&mut world)), (Phase::Open, vec![]));
    }
    assert!(in_use(&mut world) > 0, "they were authentic, and of a controller that has lost the session");
}

#[test]
fn a_copied_host_begins_anew_and_one_copy_keeps_the_session() {
    let mut world = world(500);
    world.start_client(2);
    world.run(5 * SECOND);
    for n in [1, 2] {
        let now = world.hosts[n].now(world.boot);
        world.client(n).handle_copied(now);
        world.act(n);
    }
    world.run(15 * SECOND);
    let open: Vec<_> = [1, 2].into_iter().filter(|n| world.phase(*n) == Phase::Open).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open_while(&mut world, open[0], 60), 600);
}
