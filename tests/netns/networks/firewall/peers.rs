//! Two statically configured peers, each behind a router that lets in only answers: neither can be reached before it has sent.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::Middlebox;
use mtd_tests::firewall::{Gate, tracked_flows};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{UdpOptions, UdpReport, UdpStream};
use mtd_tests::wait_until;

use super::{PATIENCE, SLOT};
use crate::sessions::at_once;
use crate::sessions::world::{Inner, Role, World};

/// Both peers behind firewalls, and the routers.
fn behind_firewalls() -> Result<(World, [Gate; 2])> {
    let world = World::new("encrypt", &TopologyOptions::default())?;
    let gate = |role, number| Gate::before(world.topology(), world.host(role), number);
    let gates = [gate(Role::Client, 1)?, gate(Role::Server, 2)?];
    Ok((world, gates))
}

/// 1,000 packets a second from one to the other, which sends nothing.
fn stream(world: &World, from: Role, to: Role, duration: Duration) -> Result<UdpReport> {
    let options = UdpOptions::to(world.address(to, Inner::V6));
    let stream = UdpStream::start(world.netns(from), world.netns(to), &options)?;
    thread::sleep(duration);
    stream.stop()
}

fn require_lossless(world: &World, from: Role, report: &UdpReport) -> Result<()> {
    println!("from {from:?}: {report:?}");
    ensure!(report.lost == 0 && report.sent > 0, "from {from:?}: {report:?}\n{}", world.explain());
    Ok(())
}

fn wait_for(world: &World, role: Role, wanted: Middlebox) -> Result<()> {
    let what = format!("{role:?} to say of the middlebox: {}", wanted.as_str());
    wait_until(&what, PATIENCE, || Ok(world.peer(role)?.middlebox == Some(wanted)))
        .with_context(|| world.explain())
}

/// Also if their clocks differ by nearly half a slot.
#[test]
fn both_behind_firewalls_reach_each_other_after_a_quiet_while() -> Result<()> {
    at_once(&[Duration::ZERO, Duration::from_millis(400)], |&apart| {
        let (mut world, gates) = behind_firewalls()?;
        world.setup(Role::Client).set_clock(apart.as_nanos() as i64)?;
        world.start_all()?;
        for role in [Role::Client, Role::Server] {
            wait_for(&world, role, Middlebox::Found)?;
        }
        let ways = [(Role::Client, Role::Server), (Role::Server, Role::Client)];
        for (from, to) in ways {
            thread::sleep(3 * SLOT);
            let report = stream(&world, from, to, 4 * SLOT)?;
            require_lossless(&world, from, &report)?;
        }
        for gate in &gates {
            println!("{} flows in the table", tracked_flows(&gate.router)?);
        }
        Ok(())
    })
}

#[test]
fn peers_that_nothing_keeps_apart_stop_to_open() -> Result<()> {
    let world = World::open("encrypt", &TopologyOptions::default())?;
    for role in [Role::Client, Role::Server] {
        wait_for(&world, role, Middlebox::None)?;
    }
    wait_until("both to be told", PATIENCE, || {
        let told = |role| Ok::<_, anyhow::Error>(!world.peer(role)?.answered_where_heard);
        Ok(told(Role::Client)? && told(Role::Server)?)
    })?;
    let sent = || Ok::<_, anyhow::Error>(world.peer(Role::Client)?.sent.packets);
    let before = sent()?;
    thread::sleep(4 * SLOT);
    ensure!(sent()? <= before + 1, "{} packets in four slots", sent()? - before);
    world.require_no_session_drops(&[Role::Client, Role::Server])
}
