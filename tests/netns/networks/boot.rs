//! Interfaces and addresses that are not there yet when the controller starts, or go while it runs.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd::instance::Instance;
use mtd::status::Status;
use mtd_tests::controller::{Controller, End, Session, Setup, mtd_program};
use mtd_tests::link::interface_name;
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::topology::{Delivery, Topology, TopologyOptions};
use mtd_tests::wait_until;
use nix::sys::signal::Signal;

use crate::rendezvous::world::{Who, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// A host with a static session through an interface that is not there, and is made by [`Late::plug_in`].
struct Late {
    setup: Setup,
    topology: Topology,
    far_end: String,
}

impl Late {
    fn new() -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(&TopologyOptions::default())?;
        let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
        let mut setup =
            Setup::new(&topology.client, &near, Delivery::Routed)?.with_peer(&Session::new("encrypt")?, &far);
        setup.interface = interface_name("late")?;
        Ok(Self { setup, topology, far_end: interface_name("far")? })
    }

    fn netns(&self) -> &Netns {
        &self.topology.client.netns
    }

    fn plug_in(&self) -> Result<()> {
        let (near, far) = (&self.setup.interface, &self.far_end);
        self.netns().run(&["link", "add", near, "type", "veth", "peer", "name", far])?;
        self.netns().set_up(near)
    }

    fn pull_out(&self) -> Result<()> {
        self.netns().run(&["link", "del", &self.setup.interface]).map(drop)
    }

    /// Waits until the status document of a controller is like this.
    fn wait_status(&self, controller: &Controller, like: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let waited = wait_until("a status document", PATIENCE, || {
            // There may be no socket yet.
            last = controller.status(self.netns()).ok();
            Ok(last.as_ref().is_some_and(&like))
        });
        waited.with_context(|| format!("{last:?}\n{}", controller.process.log()))?;
        last.context("a document")
    }
}

fn warns(status: &Status, code: &str) -> bool {
    status.warnings.iter().any(|warning| warning.code == code)
}

#[test]
fn a_controller_waits_for_its_interface_and_says_so() -> Result<()> {
    let late = Late::new()?;
    let (name, netns) = (&late.setup.interface, late.netns());
    let mut controller = late.setup.spawn(netns)?;
    let status = late.wait_status(&controller, |status| status.waiting_for.is_some())?;
    let text = status.waiting_for.clone().unwrap_or_default();
    for part in [name.as_str(), "this network namespace has: lo", "ip netns exec"] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    ensure!(warns(&status, "waiting") && !warns(&status, "interface_missing"), "{:?}", status.warnings);
    let shown = controller.command(netns, &["status"])?;
    let shown = String::from_utf8(shown.stdout)?;
    ensure!(shown.contains("waiting for the interface") && !shown.contains("dropped packets"), "{shown}");
    let refused = controller.command(netns, &["peers", "list"])?;
    let refused = String::from_utf8(refused.stderr)?;
    ensure!(refused.contains("waits for its interface"), "{refused}");

    late.plug_in()?;
    controller.wait_ready()?;
    let status = late.wait_status(&controller, |status| status.waiting_for.is_none())?;
    ensure!(status.xdp != "none" && status.peers.len() == 1, "{status:?}");
    controller.stop().map(drop)
}

/// It goes again before the programs are loaded, or is another one when they are: then the controller ends, and its manager
/// starts it again.
#[test]
fn an_interface_that_is_plugged_in_badly_is_waited_for() -> Result<()> {
    let late = Late::new()?;
    let mut controller = late.setup.spawn(late.netns())?;
    late.wait_status(&controller, |status| status.waiting_for.is_some())?;
    for shortly in [50, 300, 50, 600] {
        late.plug_in()?;
        thread::sleep(Duration::from_millis(shortly));
        late.pull_out()?;
    }
    late.plug_in()?;
    wait_until("a controller that works", PATIENCE, || {
        if controller.process.log().contains("was removed and made anew") {
            controller.process.wait(PATIENCE)?;
            controller = late.setup.spawn(late.netns())?;
        }
        let status = controller.status(late.netns()).ok();
        // It looks at the interface twice a second.
        Ok(status.is_some_and(|status| status.waiting_for.is_none() && status.uptime_seconds > 1.5))
    })
    .with_context(|| controller.process.log())?;
    controller.stop().map(drop)
}

#[test]
fn a_controller_that_waits_is_ready_for_its_manager_and_stops_when_told() -> Result<()> {
    let late = Late::new()?;
    let path = late.setup.folder().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut command = late.netns().command(mtd_program()?)?;
    command.arg("run").arg("-c").arg(late.setup.write()?);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let mut process = Running::spawn("mtd as a service", command)?;
    let next = || -> Result<String> {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).context("the service manager hears nothing")?;
        Ok(std::str::from_utf8(&buffer[..length])?.trim().to_owned())
    };
    let first = next()?;
    ensure!(first.starts_with("READY=1\nSTATUS=waiting for the interface"), "{first}");
    ensure!(next()? == "WATCHDOG=1", "a manager must not take it for dead");
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", process.log());
    let instance = late.netns().enter(|| Instance::of(&late.setup.interface))??;
    for file in [instance.socket(), instance.lock(), instance.pins()] {
        ensure!(!file.exists(), "{} is left", file.display());
    }
    Ok(())
}

#[test]
fn a_wait_that_is_limited_ends_with_what_is_missing() -> Result<()> {
    let mut late = Late::new()?;
    late.setup = late.setup.with_line("interface_wait = \"1s\"");
    let mut controller = late.setup.spawn(late.netns())?;
    let status = controller.process.wait(PATIENCE)?;
    let log = controller.process.log();
    ensure!(!status.success() && log.contains("there is no interface"), "{status}: {log}");
    Ok(())
}

#[test]
fn a_server_waits_for_an_address_to_listen_at() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.setup_mut(Who::Server).shared_prefix = true;
    let host = world.host(Who::Server);
    let address = format!("{}/64", host.address);
    host.netns.run(&["-6", "address", "del", &address, "dev", &host.ifname])?;
    let config = world.setup(Who::Server).write()?;
    let mut controller = Controller::spawn(&host.netns, &host.ifname, &config, &[])?;
    controller.process.wait_for_line("waiting for a prefix to listen in", PATIENCE)?;
    let status = controller.status(&host.netns)?;
    ensure!(status.waiting_for.is_some_and(|text| text.contains("no global IPv6 address")));
    host.netns.add_address(&host.ifname, IpNet::V6(Ipv6Net::new_assert(host.address, 64)))?;
    controller.wait_ready()?;
    controller.stop().map(drop)
}

#[test]
fn an_interface_that_is_made_anew_ends_the_controller_and_the_next_one_has_it() -> Result<()> {
    let late = Late::new()?;
    late.plug_in()?;
    let mut controller = late.setup.start(late.netns())?;
    late.pull_out()?;
    late.wait_status(&controller, |status| warns(status, "interface_missing"))?;
    late.plug_in()?;
    let status = controller.process.wait(PATIENCE)?;
    let log = controller.process.log();
    ensure!(!status.success() && log.contains("was removed and made anew"), "{status}: {log}");
    let mut controller = late.setup.start(late.netns())?;
    let status = late.wait_status(&controller, |status| status.pid.is_some())?;
    for code in ["not_attached", "interface_missing"] {
        ensure!(!warns(&status, code), "{:?}", status.warnings);
    }
    controller.stop().map(drop)
}

/// As above, and the controller was killed before, so that its programs are still pinned.
#[test]
fn what_a_killed_controller_left_on_an_interface_that_is_gone_is_replaced() -> Result<()> {
    let late = Late::new()?;
    late.plug_in()?;
    let mut controller = late.setup.start(late.netns())?;
    controller.process.kill()?;
    late.pull_out()?;
    let mut controller = late.setup.spawn(late.netns())?;
    late.wait_status(&controller, |status| status.waiting_for.is_some())?;
    late.plug_in()?;
    controller.wait_ready()?;
    let status = late.wait_status(&controller, |status| status.waiting_for.is_none())?;
    ensure!(!warns(&status, "not_attached"), "{:?}", status.warnings);
    controller.stop().map(drop)
}
