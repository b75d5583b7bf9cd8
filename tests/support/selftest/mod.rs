//! Tests of the support library itself. They need root and fail without it.

mod dht;
mod interrupts;
mod namespaces;
mod packets;
mod processes;
mod remains;
mod traffic;
mod wire;

use crate::netns::Netns;
use crate::topology::{Topology, TopologyOptions};

fn standard() -> Topology {
    crate::require_root();
    Topology::standard(&TopologyOptions::default()).unwrap()
}

/// Whether `ip netns` lists the name.
fn exists(name: &str) -> bool {
    let mut list = std::process::Command::new("ip");
    list.args(["netns", "list"]);
    crate::run_to_end(list).unwrap().lines().any(|line| line.split(' ').next() == Some(name))
}

fn names(topology: &Topology) -> Vec<String> {
    let hosts = topology.hosts().map(|host| &host.netns);
    hosts.chain([&topology.router, &topology.scanner.netns]).map(Netns::name).map(str::to_owned).collect()
}
