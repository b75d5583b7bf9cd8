//! Log lines of the BPF programs, which debug builds of them write.

use std::net::Ipv6Addr;

use anyhow::Result;
use mtd_common::DropReason;
use mtd_tests::controller::Controller;
use mtd_tests::runner::provided;

use super::bench::{Bench, PATIENCE};

/// An Ethernet and an IPv6 header, and an echo request with 56 bytes of data.
const ECHO_REQUEST: usize = 14 + 40 + 8 + 56;

/// The programs with log lines.
const LOG_OBJECT: &str = "MTD_EBPF_LOG_OBJECT";

#[test]
fn what_the_programs_say_of_a_stranger_is_in_the_controllers_log() -> Result<()> {
    let object = provided(LOG_OBJECT)?;
    let bench = Bench::new()?;
    let config = bench.setup.write()?;
    let arguments = ["-v".as_ref(), "--object".as_ref(), object.as_os_str()];
    let mut controller = Controller::spawn(bench.netns(), bench.ifname(), &config, &arguments)?;
    controller.wait_ready()?;
    let dark = Ipv6Addr::from(u128::from(bench.topology.server.prefix.network()) | 0xdead);
    assert_eq!(bench.topology.scanner.netns.ping(dark.into(), 1)?.received, 0);
    let said = format!("receive: drop reason {} length {ECHO_REQUEST}", DropReason::Icmpv6 as u8);
    let line = controller.process.wait_for_line(&said, PATIENCE)?;
    assert!(line.contains("DEBUG"), "{line}");
    controller.stop().map(drop)
}
