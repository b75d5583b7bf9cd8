//! TCP through the tunnel, compared with the same veth cable without a tunnel and with other tunnels in user space.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::process::Running;
use mtd_tests::topology::Host;
use serde_json::{Map, Value};

use crate::measure::{Case, Section, in_turn};
use crate::openvpn;
use crate::ways::{BORINGTUN, WIREGUARD_GO, Way, or_left_out};

pub(crate) const ABOUT: &str = "\
iperf3, one TCP connection and four (`_4`), between two network namespaces on a veth cable with an MTU of 1500, for 3 s
after one that does not count. `veth_gso` is the bare cable; `veth_nogso` is the same without segmentation offload at both
ends, so that packets are handled one by one, as in a tunnel. `mtd_encrypt` and `mtd_authenticate` go through two controllers
with slots of 3 s; `mtd_filtered` is `mtd_encrypt` with a filter of 64 rules at both ends; the others are tunnels in user space, with one process at each end. Both ends, and iperf3 itself, share
the machine's CPUs. Ratios are to `veth_nogso` with the same number of connections.";

/// Seconds of one measurement, and seconds before it that do not count.
const SECONDS: &str = "3";
const WARM_UP: &str = "1";

const PORT: &str = "5201";
const PATIENCE: Duration = Duration::from_secs(10);

/// The names of a way's two cases: with one flow and with four.
type Names = (&'static str, &'static str);

/// The cases with which the others are compared.
const BASE: Names = ("veth_nogso", "veth_nogso_4");

/// The section `tunnel` of the results.
///
/// # Errors
/// When something cannot be set up, or iperf3 fails. A tunnel in user space that cannot run here is left out.
pub(crate) fn run(rounds: u32) -> Result<Section> {
    let mut ways: Vec<(Names, Way)> = vec![
        (("veth_gso", "veth_gso_4"), Way::bare("gso")?),
        (BASE, Way::bare_without_offload("nogso")?),
        (("mtd_encrypt", "mtd_encrypt_4"), Way::mtd("encrypt")?),
        (("mtd_authenticate", "mtd_authenticate_4"), Way::mtd("authenticate")?),
        (("mtd_filtered", "mtd_filtered_4"), Way::mtd_filtered()?),
    ];
    for (names, program) in
        [(("wireguard_go", "wireguard_go_4"), WIREGUARD_GO), (("boringtun", "boringtun_4"), BORINGTUN)]
    {
        ways.extend(or_left_out(names.0, Way::wireguard(program)).map(|way| (names, way)));
    }
    ways.extend(or_left_out("openvpn", openvpn::way()).map(|way| (("openvpn", "openvpn_4"), way)));
    let servers: Vec<Server> = ways.iter().map(|(_, way)| Server::start(way)).collect::<Result<_>>()?;
    let mut cases: Vec<Case<'_>> = Vec::new();
    for ((names, way), server) in ways.iter().zip(&servers) {
        cases.push((names.0, Box::new(|| server.transfer(&way.left, "1"))));
        cases.push((names.1, Box::new(|| server.transfer(&way.left, "4"))));
    }
    let all = in_turn(&mut cases, rounds, "Gbit/s")?;
    drop(cases);
    let median = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|(_, found)| found.median());
    let section = all.iter().map(|(name, samples)| {
        let base = median(if name.ends_with("_4") { BASE.1 } else { BASE.0 });
        let ratio = base.map(|base| samples.median() / base);
        let mut values = Map::new();
        values.insert("gbps".to_owned(), samples.median().into());
        values.insert("ratio_to_veth_nogso".to_owned(), ratio.into());
        values.insert("spread".to_owned(), samples.spread().into());
        (*name, values)
    });
    Ok(section.collect())
}

/// A running iperf3 server.
struct Server {
    _process: Running,
    address: Ipv6Addr,
}

impl Server {
    fn start(way: &Way) -> Result<Self> {
        let mut command = way.right.netns.command("iperf3")?;
        command.args(["--server", "--forceflush", "--bind", &way.address.to_string(), "--port", PORT]);
        let mut process = Running::spawn("iperf3", command)?;
        process.wait_for_line("Server listening", PATIENCE)?;
        Ok(Self { _process: process, address: way.address })
    }

    /// Gbit/s that arrive over all `flows` TCP connections from `client` together.
    fn transfer(&self, client: &Host, flows: &str) -> Result<f64> {
        let mut command = client.netns.command("iperf3")?;
        command.args(["--client", &self.address.to_string(), "--port", PORT, "--json"]);
        command.args(["--parallel", flows, "--time", SECONDS, "--omit", WARM_UP]);
        let output = command.output().context("could not start iperf3: `cargo xtask setup` installs it")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
        ensure!(output.status.success(), "iperf3 failed: {}", report["error"]);
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 says nothing of what was received")? / 1e9)
    }
}
