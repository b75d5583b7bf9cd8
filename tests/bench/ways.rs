//! Ways from one host to another over a cable: the bare cable, or a tunnel of mtd or of another program.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd::config::Config;
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::link::{Veth, Via, default_route, interface_name};
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::topology::{Delivery, Host};
use tempfile::TempDir;

const MTU: u32 = 1500;
const PATIENCE: Duration = Duration::from_secs(10);

/// Two hosts, and the way of packets from the left one to the right one. Fields are dropped in order: processes first, the
/// namespaces last.
pub(crate) struct Way {
    /// The address of the right host to which packets take this way.
    pub(crate) address: Ipv6Addr,
    /// The slots of the session, if this way is a tunnel of mtd.
    pub(crate) slots: Option<Slots>,
    _controllers: Vec<Controller>,
    _processes: Option<Processes>,
    pub(crate) left: Host,
    pub(crate) right: Host,
}

/// When the slots of a session begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    period: u64,
    phase: u64,
}

impl Slots {
    /// The distance from `time` (since 1970) to the nearest beginning of a slot.
    pub(crate) fn distance_to_edge(self, time: Duration) -> Duration {
        let time = time.as_nanos() as u64;
        let since = time.wrapping_add(self.phase) % self.period;
        Duration::from_nanos(since.min(self.period - since))
    }
}

impl Way {
    /// The bare cable.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn bare(tag: &str) -> Result<Self> {
        let (left, right) = cable(tag)?;
        let address = right.address;
        Ok(Self { address, slots: None, _controllers: Vec::new(), _processes: None, left, right })
    }

    /// The bare cable, without segmentation offload and without merging, so that every packet is handled by itself.
    ///
    /// # Errors
    /// When it cannot be made, or the driver refuses.
    pub(crate) fn bare_without_offload(tag: &str) -> Result<Self> {
        let way = Self::bare(tag)?;
        for host in [&way.left, &way.right] {
            for offload in ["tso", "gso", "gro"] {
                host.netns.set_offload(&host.ifname, offload, false)?;
            }
        }
        Ok(way)
    }

    /// A controller at both ends; `mode` as in the configuration.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub(crate) fn mtd(mode: &str) -> Result<Self> {
        Self::mtd_with(mode, mode, "")
    }

    /// The same, encrypting, with a filter of 64 rules at both ends, of which the last two let everything here pass.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub(crate) fn mtd_filtered() -> Result<Self> {
        let mut rules: Vec<_> =
            (0..31).map(|n| format!("\"allow in tcp/{} from 10.1.{n}.0/24\"", 20_000 + n)).collect();
        rules.extend((0..31).map(|n| format!("\"deny out udp/{} to fd00:9:{n:x}::/48\"", 30_000 + n)));
        rules.extend(["\"allow in\"".to_owned(), "\"allow out\"".to_owned()]);
        Self::mtd_with("filtered", "encrypt", &format!("filter = [{}]", rules.join(", ")))
    }

    /// `lines`: further ones of `[[peer]]`.
    fn mtd_with(tag: &str, mode: &str, lines: &str) -> Result<Self> {
        let (left, right) = cable(tag)?;
        let session = Session { period: "3s".to_owned(), extra: lines.to_owned(), ..Session::new(mode)? };
        let ends = (End::new(0, &left), End::new(1, &right));
        let first = Setup::new(&left, &ends.0, Delivery::Routed)?.with_peer(&session, &ends.1);
        let second = Setup::new(&right, &ends.1, Delivery::Routed)?.with_peer(&session, &ends.0);
        let slots = slots(&first)?;
        let controllers = vec![first.start(&left.netns)?, second.start(&right.netns)?];
        left.netns.wait_reachable(IpAddr::V6(ends.1.v6), PATIENCE)?;
        Ok(Self {
            address: ends.1.v6,
            slots: Some(slots),
            _controllers: controllers,
            _processes: None,
            left,
            right,
        })
    }

    /// A tunnel of other programs between the hosts of a cable. The right host has `address` in the tunnel.
    pub(crate) fn through(address: Ipv6Addr, (left, right): (Host, Host), processes: Processes) -> Self {
        Self { address, slots: None, _controllers: Vec::new(), _processes: Some(processes), left, right }
    }

    /// A user-space implementation of WireGuard at both ends.
    ///
    /// # Errors
    /// When the tunnel does not come up, for example because the program is not installed or cannot run here.
    pub(crate) fn wireguard(program: WireGuard) -> Result<Self> {
        let (left, right) = cable(program.tag)?;
        let addresses = [1, 2].map(|n| Ipv6Addr::new(0xfd00, 0x7767, 0, 0, 0, 0, 0, n));
        let peers = [program.start(&left, addresses[0])?, program.start(&right, addresses[1])?];
        peers[0].know(&peers[1], &left, &right)?;
        peers[1].know(&peers[0], &right, &left)?;
        left.netns.wait_reachable(IpAddr::V6(addresses[1]), PATIENCE)?;
        let [first, second] = peers;
        let processes = Processes {
            _running: [first.process, second.process],
            _folders: vec![first.folder, second.folder],
        };
        Ok(Self::through(addresses[1], (left, right), processes))
    }
}

/// The processes at both ends of a tunnel, and the files that they read.
pub(crate) struct Processes {
    pub(crate) _running: [Running; 2],
    pub(crate) _folders: Vec<TempDir>,
}

/// The slots of the only session in a configuration.
fn slots(setup: &Setup) -> Result<Slots> {
    let config = Config::load(&setup.write()?)?;
    let session = mtd::proto::session::Session::new(config.peers.first().context("no peer")?);
    Ok(Slots { period: session.period, phase: session.phase })
}

/// A cable between two new namespaces, with addresses.
pub(crate) fn cable(tag: &str) -> Result<(Host, Host)> {
    let (left, right) = (Netns::new(&format!("{tag}-l"))?, Netns::new(&format!("{tag}-r"))?);
    let veth = Veth::connect((&left, "bl"), (&right, "br"), MTU)?;
    let left = host(left, veth.left.clone(), 1, veth.right.clone())?;
    let right = host(right, veth.right, 2, veth.left)?;
    left.netns.wait_usable(&left.ifname, PATIENCE)?;
    right.netns.wait_usable(&right.ifname, PATIENCE)?;
    left.netns.wait_reachable(IpAddr::V6(right.address), PATIENCE)?;
    Ok((left, right))
}

/// Host 1 or 2 of a cable. Each is the other's gateway.
fn host(netns: Netns, ifname: String, number: u16, other_ifname: String) -> Result<Host> {
    let address = |number| Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number);
    let gateway = address(3 - number);
    netns.set_up(&ifname)?;
    netns.add_address(&ifname, IpNet::V6(Ipv6Net::new(address(number), 64)?))?;
    netns.add_route(default_route(), Via::Gateway(IpAddr::V6(gateway)))?;
    Ok(Host {
        netns,
        ifname,
        address: address(number),
        prefix: Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, 0xe, number, 0, 0, 0, 0), 64)?,
        gateway,
        gateway_ifname: other_ifname.clone(),
        tap_ifname: other_ifname,
    })
}

/// An implementation of WireGuard in user space.
#[derive(Clone, Copy)]
pub(crate) struct WireGuard {
    tag: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// The one in Go, from Debian's package of that name.
pub(crate) const WIREGUARD_GO: WireGuard =
    WireGuard { tag: "wggo", program: "wireguard-go", arguments: &["--foreground"] };

/// The one in Rust, from crates.io.
pub(crate) const BORINGTUN: WireGuard = WireGuard {
    tag: "boring",
    program: "boringtun-cli",
    arguments: &["--foreground", "--disable-drop-privileges"],
};

const WG_PORT: &str = "51820";
/// The MTU inside a WireGuard tunnel, if that outside over IPv6 is 1500.
const WG_MTU: &str = "1420";

/// One end of a WireGuard tunnel.
struct Peer {
    process: Running,
    ifname: String,
    public_key: String,
    address: Ipv6Addr,
    folder: TempDir,
}

impl WireGuard {
    fn start(self, host: &Host, address: Ipv6Addr) -> Result<Peer> {
        let ifname = interface_name("wg")?;
        let mut command = host.netns.command(self.program)?;
        command.args(self.arguments).arg(&ifname);
        let process = Running::spawn(self.program, command)
            .with_context(|| format!("`cargo xtask setup --bench` installs {}", self.program))?;
        mtd_tests::wait_until("the interface of WireGuard", PATIENCE, || {
            Ok(host.netns.command("wg")?.args(["show", &ifname]).output()?.status.success())
        })
        .with_context(|| process.log())?;

        let folder = tempfile::Builder::new().prefix("mtdt-").tempdir()?;
        let private_key = wg(host, &["genkey"], "")?;
        let file = folder.path().join("private.key");
        fs::write(&file, &private_key)?;
        let file = file.to_str().context("the temporary folder's path is no text")?;
        wg(host, &["set", &ifname, "private-key", file, "listen-port", WG_PORT], "")?;
        let public_key = wg(host, &["pubkey"], &private_key)?.trim().to_owned();
        host.netns.run(&["link", "set", &ifname, "mtu", WG_MTU, "up"])?;
        host.netns.add_address(&ifname, IpNet::V6(Ipv6Net::new(address, 64)?))?;
        Ok(Peer { process, ifname, public_key, address, folder })
    }
}

impl Peer {
    fn know(&self, other: &Self, here: &Host, there: &Host) -> Result<()> {
        let (allowed, endpoint) =
            (format!("{}/128", other.address), format!("[{}]:{WG_PORT}", there.address));
        let peer = ["peer", &other.public_key, "allowed-ips", &allowed, "endpoint", &endpoint];
        wg(here, &[&["set", &self.ifname], &peer[..]].concat(), "").map(drop)
    }
}

/// Runs `wg ARGUMENTS` on a host, with `input`. Returns its output.
fn wg(host: &Host, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = host.netns.command("wg")?;
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("could not start `wg` (Debian package wireguard-tools)")?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "wg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Handles a way that may not be possible here: prints what is missing, and leaves the case out.
pub(crate) fn or_left_out(name: &str, way: Result<Way>) -> Option<Way> {
    way.inspect_err(|error| eprintln!("left out: {name}: {error:#}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_near_on_both_sides() {
        let slots = Slots { period: 3_000_000_000, phase: 500_000_000 };
        let distance = |ms| slots.distance_to_edge(Duration::from_millis(ms)).as_millis();
        // Slots begin at 2.5 s, 5.5 s, …
        assert_eq!([2_400, 2_500, 2_600, 4_000, 5_499].map(distance), [100, 0, 100, 1_500, 1]);
    }
}
