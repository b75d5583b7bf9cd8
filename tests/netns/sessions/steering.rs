//! Packets of a busy session, which one CPU receives and another one opens.

use std::net::IpAddr;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use mtd::status::Status;
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{TcpFlow, TcpOptions, UdpOptions, UdpReport, UdpStream};

use super::world::{Inner, Role, World};
use super::{PATIENCE, SLOT};

/// TCP as fast as possible, which makes the session busy, and at the same time a steady UDP stream that accounts for every
/// packet.
pub(super) struct Traffic {
    flow: TcpFlow,
    stream: UdpStream,
}

impl Traffic {
    pub(super) fn start(world: &World) -> Result<Self> {
        let (client, server) = (world.netns(Role::Client), world.netns(Role::Server));
        let address: IpAddr = world.address(Role::Server, Inner::V6);
        let options = TcpOptions { bytes_per_second: 1 << 30, ..TcpOptions::to(address) };
        let flow = TcpFlow::start(client, server, &options)?;
        Ok(Self { flow, stream: UdpStream::start(client, server, &UdpOptions::to(address))? })
    }

    /// Ends both. Checks that TCP did not break, and that no packet of the stream came twice, changed, or out of order.
    pub(super) fn stop(self) -> Result<UdpReport> {
        let report = self.stream.stop()?;
        let flow = self.flow.stop();
        ensure!(flow.broken.is_none(), "{flow:?}");
        ensure!(flow.longest_stall < PATIENCE, "{flow:?}");
        ensure!(report.duplicated == 0 && report.reordered == 0 && report.foreign == 0, "{report:?}");
        Ok(report)
    }

    /// Ends both, and checks only that TCP did not break. For cases in which packets may get lost or overtake others,
    /// because programs and queues were replaced.
    pub(super) fn stop_changed(self) -> Result<()> {
        let flow = self.flow.stop();
        ensure!(flow.broken.is_none(), "{flow:?}");
        self.stream.stop().map(drop)
    }
}

fn drops(status: &Status, reason: &str) -> u64 {
    status.drops.get(reason).copied().unwrap_or(0)
}

#[test]
fn what_another_cpu_opens_arrives_once_and_in_order() -> Result<()> {
    alone("what is steered depends on how busy each processor is")?;
    let world = World::open("encrypt", &TopologyOptions::default())?;
    let traffic = Traffic::start(&world)?;
    // The traffic lasts for several changes of addresses.
    thread::sleep(5 * SLOT);
    let report = traffic.stop().with_context(|| world.explain())?;
    let status = world.status(Role::Server)?;
    println!("{report:?}, {:?}", status.frames);
    ensure!(status.frames.steered > 1_000, "hardly anything was handed to another CPU: {:?}", status.frames);
    ensure!(status.frames.steering_lost == 0, "{:?}", status.frames);
    // The other CPU may not keep up with a burst; nothing else may be lost.
    ensure!(report.lost <= drops(&status, "steering_full"), "{report:?}, {:?}", status.drops);
    world.require_no_session_drops(&world.hosts())
}

#[test]
fn a_copy_of_a_packet_that_waits_for_the_other_cpu_is_refused_there() -> Result<()> {
    alone("what is steered depends on how busy each processor is")?;
    let world = World::open("authenticate", &TopologyOptions::default())?;
    // The router sends a copy directly after each original, before that one has been opened.
    let (router, server) = (&world.topology().router, world.host(Role::Server));
    let copy = format!(
        "table ip6 copies {{\nchain copy {{\ntype filter hook prerouting priority 0\nip6 daddr {} dup to {}\n}}\n}}\n",
        server.prefix, server.address
    );
    ensure!(router.command("nft")?.arg(copy).status()?.success(), "nft");
    let traffic = Traffic::start(&world)?;
    thread::sleep(3 * SLOT);
    traffic.stop().with_context(|| world.explain())?;
    let status = world.status(Role::Server)?;
    println!("{:?}, {:?}", status.frames, status.drops);
    let replayed = drops(&status, "replayed");
    ensure!(status.frames.steered > 1_000 && replayed > 1_000, "{:?}, {:?}", status.frames, status.drops);
    ensure!(
        status.frames.steering_lost == 0,
        "a refused copy counts as one that still waits: {:?}",
        status.frames
    );
    // In this order, since control messages still come.
    let (peer, frames) = (world.peer(Role::Server)?, world.status(Role::Server)?.frames);
    ensure!(peer.received.packets <= frames.accepted + frames.control, "{peer:?}, {frames:?}");
    Ok(())
}

#[test]
fn packets_go_on_to_the_other_cpu_while_the_controller_is_dead() -> Result<()> {
    alone("what is steered depends on how busy each processor is")?;
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let traffic = Traffic::start(&world)?;
    thread::sleep(SLOT);
    world.kill(Role::Server)?;
    let dead = world.status(Role::Server)?.frames;
    thread::sleep(2 * SLOT);
    let later = world.status(Role::Server)?.frames;
    ensure!(later.steered > dead.steered + 1_000, "{dead:?}, {later:?}");
    // The next controller replaces programs and queues by its own, under traffic.
    world.start(Role::Server)?;
    thread::sleep(2 * SLOT);
    let back = world.status(Role::Server)?.frames;
    ensure!(back.steered > later.steered + 1_000, "{later:?}, {back:?}");
    traffic.stop_changed()
}

#[test]
fn steering_can_be_switched_off() -> Result<()> {
    alone("what is steered depends on how busy each processor is")?;
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).extra = "steering = \"off\"\n".to_owned();
    world.start_all()?;
    world.wait_open()?;
    let traffic = Traffic::start(&world)?;
    thread::sleep(2 * SLOT);
    traffic.stop().with_context(|| world.explain())?;
    let frames = world.status(Role::Server)?.frames;
    ensure!(frames.accepted > 1_000 && frames.steered == 0, "{frames:?}");
    Ok(())
}
