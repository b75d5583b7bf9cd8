//! `mtd attach`, `mtd detach`, and a controller that comes and goes in between.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv6Net};
use mtd::status::Status;
use serde_json::Value;

use super::bench::{Bench, assert_error, assert_success};

/// Number of echo requests of one check of the prefix.
const PINGS: u32 = 3;

#[test]
fn an_attached_prefix_is_dark_with_and_without_a_controller_until_it_is_detached() -> Result<()> {
    let bench = Bench::new()?;
    let ifname = bench.ifname();
    // A host in the prefix that answers every request that reaches it.
    let host = Ipv6Addr::from(u128::from(bench.topology.server.prefix.network()) | 1);
    bench.netns().add_address("lo", IpNet::V6(Ipv6Net::new_assert(host, 128)))?;
    let before = bench.inventory()?;
    assert!(answers(&bench, host)?, "nothing keeps it dark yet");

    assert_success(&bench.mtd_with_config(&["attach", ifname])?);
    assert!(!answers(&bench, host)?, "attached");
    let objects = bench.objects()?;
    without_a_controller(&bench, u64::from(PINGS))?;

    assert_success(&bench.mtd_with_config(&["attach", ifname])?);
    assert!(!answers(&bench, host)?, "attached twice");
    without_a_controller(&bench, u64::from(2 * PINGS))?;

    with_a_controller(&bench, host)?;
    assert!(!answers(&bench, host)?, "the controller has gone, the programs have not");
    without_a_controller(&bench, u64::from(4 * PINGS))?;

    assert_success(&bench.mtd(&["detach", ifname])?);
    assert!(answers(&bench, host)?, "detached");
    bench.assert_nothing_remains(&before, &objects)?;
    assert_error(&bench.mtd(&["detach", ifname])?, &["nothing of mtd is attached", ifname]);
    Ok(())
}

#[test]
fn the_interface_must_be_that_of_the_configuration() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    assert_error(&bench.mtd_with_config(&["attach", "lo"])?, &["lo", bench.ifname(), "-c"]);
    assert_error(&bench.mtd(&["detach", "nosuch0"])?, &["nosuch0"]);
    before.assert_same(&bench.inventory()?);
    Ok(())
}

fn with_a_controller(bench: &Bench, host: Ipv6Addr) -> Result<()> {
    let mut controller = bench.start()?;
    let status = controller.status(bench.netns())?;
    assert_eq!(status.pid, Some(controller.process.pid()));
    assert_eq!(status.peers.len(), 1);
    assert!(!answers(bench, host)?, "with a controller");
    let running = bench.inventory()?;
    for command in [&["attach", bench.ifname()][..], &["run"]] {
        assert_error(&bench.mtd_with_config(command)?, &["already runs", "stop it first"]);
    }
    assert_error(&bench.mtd(&["detach", bench.ifname()])?, &["already runs", "stop it first"]);
    running.assert_same(&bench.inventory()?);
    assert!(controller.process.try_wait()?.is_none(), "the controller does not mind");
    controller.stop().map(drop)
}

/// Checks that `mtd status` and `mtd drops` work without a controller, by reading the maps themselves.
fn without_a_controller(bench: &Bench, pings: u64) -> Result<()> {
    let output = bench.mtd(&["status", "--json"])?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let status: Status = serde_json::from_value(instance(&output.stdout)?)?;
    assert_eq!(status.pid, None);
    assert_eq!(status.interface, bench.ifname());
    assert_eq!(status.prefixes, [IpNet::V6(bench.topology.server.prefix)]);
    assert_eq!(
        (status.xdp.as_str(), status.link.as_str(), status.device.as_str()),
        ("native", "routed", "mtd0")
    );
    assert_eq!(status.drops.get("icmpv6"), Some(&pings), "{:?}", status.drops);

    let output = bench.mtd(&["drops", "--json", "-i", bench.ifname()])?;
    assert_success(&output);
    assert_eq!(instance(&output.stdout)?["drops"]["icmpv6"], pings);

    let output = bench.mtd(&["status"])?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("no controller is running") && text.contains("mtd run -c"), "{text}");
    let output = bench.mtd(&["drops"])?;
    assert_success(&output);
    assert!(String::from_utf8(output.stdout)?.contains("icmpv6"));
    Ok(())
}

fn instance(stdout: &[u8]) -> Result<Value> {
    let mut document: Value = serde_json::from_slice(stdout)?;
    assert_eq!(document["instances"].as_array().map(Vec::len), Some(1), "{document}");
    Ok(document["instances"].get_mut(0).context("no instance")?.take())
}

/// Whether the scanner gets answers from the host: either to all of its requests, or to none.
fn answers(bench: &Bench, host: Ipv6Addr) -> Result<bool> {
    let report = bench.topology.scanner.netns.ping(IpAddr::V6(host), PINGS)?;
    assert!(report.received == 0 || report.received == PINGS, "{report:?}");
    Ok(report.received > 0)
}
