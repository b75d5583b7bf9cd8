//! Everything through the tunnel: a client whose server is its exit to a network that nobody else reaches.

mod names;
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::controller::mtd_program;
use mtd_tests::home::{HomeRouter, Translation};
use mtd_tests::link::Veth;
use mtd_tests::netns::Netns;
use mtd_tests::topology::TopologyOptions;

use crate::rendezvous::world::{Who, World, quoted};
use crate::sessions::at_once;

/// How long something may take on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host behind the exit, which knows no way to anybody but the exit.
const FAR: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(198, 18, 99, 2))];

/// Everything, as one network and in halves.
const WHOLE: &str = r#"["::/0", "0.0.0.0/0"]"#;
const HALVES: &str = r#"["::/1", "8000::/1", "0.0.0.0/1", "128.0.0.0/1"]"#;

/// How the operator of a server makes it an exit; `docs/operations.md` has the same commands.
const EXIT: [&str; 5] = [
    "sysctl -w net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1",
    "nft add table inet mtd-exit",
    "nft 'add chain inet mtd-exit out { type nat hook postrouting priority srcnat; }'",
    "nft 'add rule inet mtd-exit out ip6 saddr fd00:6d74::/64 oifname != \"mtd0\" masquerade'",
    "nft 'add rule inet mtd-exit out ip saddr 10.66.0.0/16 oifname != \"mtd0\" masquerade'",
];

/// A client, and a server that is its exit.
struct Exit {
    world: World,
    _far: Netns,
    /// The client's rules and tables before mtd has touched them.
    before: String,
}

impl Exit {
    /// The network; no controller runs.
    fn new(allowed: &str) -> Result<Self> {
        let mut world = World::new(&TopologyOptions::default())?;
        let member = world.setup_mut(Who::Alice);
        member.keys.extend([("allowed_ips", allowed.to_owned()), ("keepalive", quoted("2s"))]);
        let far = Netns::new("far")?;
        let server = world.netns(Who::Server);
        let cable = Veth::connect((server, "ex"), (&far, "far"), 1500)?;
        for (netns, end, last) in [(server, &cable.left, 1), (&far, &cable.right, 2)] {
            netns.set_up(end)?;
            for (address, length) in FAR.into_iter().zip([64, 24]) {
                let address = match address {
                    IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() - 2 + last)),
                    IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() - 2 + last as u32)),
                };
                netns.add_address(end, IpNet::new_assert(address, length))?;
            }
        }
        far.wait_usable(&cable.right, PATIENCE)?;
        for command in EXIT {
            shell(server, command)?;
        }
        let before = routing(world.netns(Who::Alice))?;
        Ok(Self { world, _far: far, before })
    }

    /// The same, with both controllers started and the far host reached.
    fn open(allowed: &str) -> Result<Self> {
        let mut exit = Self::new(allowed)?;
        exit.world.start_all()?;
        exit.require_reached()?;
        Ok(exit)
    }

    fn client(&self) -> &Netns {
        self.world.netns(Who::Alice)
    }

    /// Waits until the client reaches the far host in both IP versions.
    fn require_reached(&self) -> Result<()> {
        self.world.wait_open(Who::Alice)?;
        FAR.into_iter().try_for_each(|to| self.client().wait_reachable(to, PATIENCE)).with_context(|| {
            format!("{}\n{}", routing(self.client()).unwrap_or_default(), self.world.explain())
        })
    }

    /// Begins to watch what leaves the client.
    fn watch(&self) -> Result<Capture> {
        let host = self.world.host(Who::Alice);
        Capture::start(self.world.router(), &host.tap_ifname, &CaptureOptions::default())
    }

    /// Runs `ip ARGUMENTS` on the client.
    fn ip(&self, arguments: &str) -> Result<String> {
        self.client().run(&arguments.split(' ').collect::<Vec<_>>())
    }

    /// Stops the client's controller, and requires that nothing of it is left.
    fn stop(&mut self) -> Result<()> {
        self.world.stop(Who::Alice)?;
        self.require_nothing_left()
    }

    /// Runs `mtd detach` on the client.
    fn detach(&self) -> Result<()> {
        let mut command = self.client().command(mtd_program()?)?;
        let output = command.args(["detach", &self.world.host(Who::Alice).ifname]).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    /// That the client's rules and routes are as they were at first.
    fn require_nothing_left(&self) -> Result<()> {
        let after = routing(self.client())?;
        ensure!(after == self.before, "left behind:\n{after}\nat first:\n{}", self.before);
        Ok(())
    }
}

/// Runs a line of shell in a namespace.
fn shell(netns: &Netns, line: &str) -> Result<String> {
    let mut command: Command = netns.command("sh")?;
    let output = command.args(["-c", line]).output()?;
    ensure!(output.status.success(), "{line}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// All rules, and all routes of tables other than that of the host's own addresses.
fn routing(netns: &Netns) -> Result<String> {
    let mut text = String::new();
    for version in ["-4", "-6"] {
        text += &netns.run(&[version, "rule", "show"])?;
        let routes = netns.run(&[version, "route", "show", "table", "all"])?;
        let kept = routes.lines().filter(|line| !line.contains("table local") && !line.starts_with("fe80"));
        text += &(kept.collect::<Vec<_>>().join("\n") + "\n");
    }
    Ok(text)
}

/// The IP addresses of a frame, source first.
fn ends(frame: &Frame) -> Option<[IpAddr; 2]> {
    let v4 = |at: usize| <[u8; 4]>::try_from(frame.data.get(at..at + 4)?).ok().map(IpAddr::from);
    let v6 = |at: usize| <[u8; 16]>::try_from(frame.data.get(at..at + 16)?).ok().map(IpAddr::from);
    match frame.data.get(12..14)? {
        [0x08, 0x00] => Some([v4(26)?, v4(30)?]),
        [0x86, 0xdd] => Some([v6(22)?, v6(38)?]),
        _ => None,
    }
}

/// That nothing to or from the far host was seen in the clear.
fn require_nothing_in_the_clear(capture: Capture) -> Result<()> {
    let report = capture.stop()?;
    ensure!(report.kernel_drops == 0 && report.over_limit == 0, "the capture is not complete");
    let leaked = report.frames.iter().filter_map(ends).find(|ends| ends.iter().any(|end| FAR.contains(end)));
    ensure!(leaked.is_none(), "seen on the way: {leaked:?}");
    ensure!(report.frames.len() > 10, "nothing was seen at all");
    Ok(())
}

#[test]
fn a_client_sends_everything_through_the_tunnel_and_finds_its_server_past_it() -> Result<()> {
    at_once(&[WHOLE, HALVES], |&allowed| {
        let mut exit = Exit::new(allowed)?;
        let capture = exit.watch()?;
        exit.world.start_all()?;
        exit.require_reached().with_context(|| allowed.to_owned())?;
        // What is on the link is reached directly.
        let gateway = exit.world.host(Who::Alice).gateway;
        exit.client().wait_reachable(gateway.into(), PATIENCE)?;
        require_nothing_in_the_clear(capture)?;

        let status = exit.world.status(Who::Alice)?;
        let bypass = status.bypass.clone().with_context(|| format!("{status:?}"))?;
        ensure!(bypass.peers == ["home"] && !bypass.kill_switch && bypass.problem.is_none(), "{bypass:?}");
        let text = exit.world.mtd(Who::Alice, &["status"])?;
        ensure!(
            text.contains(&format!("to home, except packets with the mark {:#x}", bypass.mark)),
            "{text}"
        );
        // Packets to nobody: the far host is reached only by the tunnel.
        exit.stop()?;
        let far = exit.client().ping(FAR[0], 2)?;
        ensure!(far.received == 0, "{far:?}");
        Ok(())
    })
}

#[test]
fn a_client_behind_a_router_that_translates_sends_everything_through_the_tunnel() -> Result<()> {
    let mut exit = Exit::new(WHOLE)?;
    exit.world.setup_mut(Who::Alice).shared_prefix = true;
    let (topology, host) = (exit.world.topology(), exit.world.host(Who::Alice));
    let home = HomeRouter::move_in(topology, host, Translation::Masquerade)?;
    home.let_in_answers_only(&topology.router)?;
    exit.before = routing(exit.client())?;
    let capture = exit.watch()?;
    exit.world.start_all()?;
    exit.require_reached()?;
    require_nothing_in_the_clear(capture)?;
    exit.stop()
}

/// The bytes of UDP that leave the client with mtd's mark and without it, counted behind all routing.
const COUNTERS: &str = "table netdev marks { chain out { type filter hook egress device \"IFACE\" priority 0; \
                        meta l4proto udp meta mark 0x6d74 counter comment \"marked\"; \
                        meta l4proto udp meta mark != 0x6d74 counter comment \"bare\"; }; }";

impl Exit {
    /// Begins to count.
    fn count_marks(&self) -> Result<()> {
        let rules = COUNTERS.replace("IFACE", &self.world.host(Who::Alice).ifname);
        shell(self.client(), &format!("nft '{rules}'")).map(drop)
    }

    /// Requires that mtd's own packets, and no others, have left.
    fn require_marks(&self) -> Result<()> {
        let rules = shell(self.client(), "nft list table netdev marks")?;
        let line = |name: &str| rules.lines().find(|line| line.contains(name)).map(str::to_owned);
        let (marked, bare) = (line("marked").context("no counter")?, line("bare").context("no counter")?);
        ensure!(!marked.contains("packets 0 ") && bare.contains("packets 0 "), "{rules}");
        Ok(())
    }
}

#[test]
fn a_client_comes_back_while_everything_is_sent_into_the_tunnel() -> Result<()> {
    let mut exit = Exit::open(WHOLE)?;
    // Killed with the routes in place; meanwhile the server has ended the session.
    exit.world.kill(Who::Alice)?;
    exit.world.stop(Who::Server)?;
    ensure!(routing(exit.client())? != exit.before, "the rules are gone");
    let capture = exit.watch()?;
    exit.count_marks()?;
    exit.world.start(Who::Server)?;
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    require_nothing_in_the_clear(capture)?;
    exit.require_marks()?;
    // Once more, from nothing but the rules.
    exit.world.kill(Who::Alice)?;
    exit.ip("link delete dev mtd0")?;
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    // `mtd detach` takes them away.
    exit.world.kill(Who::Alice)?;
    exit.detach()?;
    exit.require_nothing_left()
}

#[test]
fn networks_that_contain_those_of_the_underlay_go_through_the_tunnel() -> Result<()> {
    // The client's own prefix, the router's, the server's, and the far host's.
    let mut exit = Exit::new(r#"["2001:db8::/32"]"#)?;
    let capture = exit.watch()?;
    exit.world.start_all()?;
    exit.world.wait_open(Who::Alice)?;
    exit.client().wait_reachable(FAR[0], PATIENCE).with_context(|| exit.world.explain())?;
    require_nothing_in_the_clear(capture)?;
    // Renewed keys and a new introduction.
    exit.world.kill(Who::Alice)?;
    exit.world.stop(Who::Server)?;
    exit.world.start(Who::Server)?;
    exit.world.start(Who::Alice)?;
    exit.world.wait_open(Who::Alice)?;
    let bypass = exit.world.status(Who::Alice)?.bypass.context("no bypass")?;
    ensure!(bypass.networks.len() == 1 && bypass.peers == ["home"], "{bypass:?}");
    // IPv4 is as it was.
    ensure!(!exit.ip("rule show")?.contains("fwmark"), "{}", exit.ip("rule show")?);
    exit.stop()
}

#[test]
fn the_documents_commands_are_those_that_were_tried() -> Result<()> {
    let text = include_str!("../../../../docs/operations.md");
    for command in EXIT {
        ensure!(text.contains(command), "docs/operations.md lacks: {command}");
    }
    Ok(())
}
