use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{exists, names, standard};
use crate::capture::{Capture, CaptureOptions};
use crate::inject::{Injector, Interface};
use crate::link::interface_name;
use crate::netns::Netns;
use crate::packet::{self, Path};
use crate::topology::{Delivery, Topology, TopologyOptions};
use crate::{require_root, run_to_end};

#[test]
fn a_namespace_goes_with_its_owner_even_in_a_panic() {
    require_root();
    let mut name = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let netns = Netns::new("panic").unwrap();
        netns.name().clone_into(&mut name);
        assert!(exists(&name));
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(name.starts_with("mtdt-") && name.ends_with("-panic"), "{name}");
    assert!(!exists(&name));
}

#[test]
fn dropping_a_namespace_ends_what_runs_in_it_and_nothing_else() {
    require_root();
    let (netns, other) = (Netns::new("ends").unwrap(), Netns::new("stays").unwrap());
    let mut inside = netns.command("sleep").unwrap().arg("60").spawn().unwrap();
    let mut outside = other.command("sleep").unwrap().arg("60").spawn().unwrap();
    drop(netns);
    assert!(!inside.wait().unwrap().success());
    assert!(outside.try_wait().unwrap().is_none());
    outside.kill().unwrap();
    outside.wait().unwrap();
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_with_its_namespace() {
    require_root();
    let netns = Netns::new("stubborn").unwrap();
    let mut shell = netns.command("sh").unwrap();
    let mut inside = shell.args(["-c", "trap '' TERM; while :; do sleep 0.1; done"]).spawn().unwrap();
    // As soon as the shell has a child, its trap is set.
    crate::wait_until("the shell's loop", Duration::from_secs(5), || Ok(netns_pids(&netns).len() == 2))
        .unwrap();
    drop(netns);
    assert!(!inside.wait().unwrap().success());
}

fn netns_pids(netns: &Netns) -> Vec<String> {
    let mut list = Command::new("ip");
    list.args(["netns", "pids", netns.name()]);
    run_to_end(list).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_command_enters_the_network_namespace_and_no_other() {
    require_root();
    let netns = Netns::new("enter").unwrap();
    let link = |kind: &str| {
        let mut readlink = netns.command("readlink").unwrap();
        readlink.arg(format!("/proc/self/ns/{kind}"));
        run_to_end(readlink).unwrap().trim().to_owned()
    };
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    assert_eq!(own("mnt").to_str(), Some(link("mnt").as_str()));
    assert_ne!(own("net").to_str(), Some(link("net").as_str()));
    let inside = netns.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(inside.to_str(), Some(link("net").as_str()));
    assert_eq!(own("net"), fs::read_link("/proc/thread-self/ns/net").unwrap(), "this thread has not moved");
}

#[test]
fn sysctls_are_those_of_the_namespace() {
    const KEY: &str = "net/ipv6/conf/all/hop_limit";
    require_root();
    let (one, other) = (Netns::new("one").unwrap(), Netns::new("other").unwrap());
    let host = fs::read_to_string(format!("/proc/sys/{KEY}")).unwrap();
    one.set_sysctl(KEY, "77").unwrap();
    assert_eq!(one.sysctl(KEY).unwrap(), "77");
    assert_eq!(other.sysctl(KEY).unwrap(), "64");
    assert_eq!(fs::read_to_string(format!("/proc/sys/{KEY}")).unwrap(), host);
    // Sysctls of an interface that exists in this namespace only.
    one.run(&["link", "add", "only-here", "type", "bridge"]).unwrap();
    one.set_sysctl("net/ipv6/conf/only-here/accept_ra", "0").unwrap();
    assert!(other.sysctl("net/ipv6/conf/only-here/accept_ra").is_err());
    for bad in ["kernel/hostname", "net/../kernel/hostname", "/net/ipv6", "net//ipv6"] {
        assert!(one.set_sysctl(bad, "1").is_err(), "{bad}");
    }
}

#[test]
fn names_are_unique_and_short_enough() {
    let (one, two) = (interface_name("abcd").unwrap(), interface_name("abcd").unwrap());
    assert_ne!(one, two);
    assert!(one.len() <= 15, "{one}");
    for bad in ["", "abcde", "a b", "a/b"] {
        assert!(interface_name(bad).is_err(), "{bad:?}");
    }
    assert!(Netns::new("../evil").is_err());
}

#[test]
fn the_topology_connects_and_vanishes() {
    let topology = standard();
    let names = names(&topology);
    assert_eq!(names.len(), 4);
    let (client, server) = (&topology.client, &topology.server);
    let report = client.netns.ping(IpAddr::V6(server.address), 3).unwrap();
    assert_eq!((report.sent, report.received), (3, 3));
    let report = server.netns.ping(IpAddr::V6(client.address), 1).unwrap();
    assert_eq!(report.received, 1);
    let report = topology.scanner.netns.ping(IpAddr::V6(client.address), 1).unwrap();
    assert_eq!(report.received, 1);
    let nobody = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0xdead);
    assert_eq!(client.netns.ping(IpAddr::V6(nobody), 1).unwrap().received, 0);
    assert!(names.iter().all(|name| exists(name)));
    drop(topology);
    assert!(!names.iter().any(|name| exists(name)));
}

#[test]
fn bad_prefix_lengths_are_refused() {
    require_root();
    for len in [0, 48, 63, 121, 128, 255] {
        let options = TopologyOptions { server_prefix_len: len, ..TopologyOptions::default() };
        assert!(Topology::standard(&options).is_err(), "{len}");
    }
}

#[test]
fn offloads_are_read_and_switched() {
    let topology = standard();
    let (netns, ifname) = (&topology.server.netns, &topology.server.ifname);
    for (feature, listed) in [("gro", "generic-receive-offload"), ("tx", "tx-checksumming")] {
        for on in [true, false, true] {
            netns.set_offload(ifname, feature, on).unwrap();
            assert_eq!(netns.offload(ifname, listed).unwrap(), on, "{feature}");
        }
    }
    assert!(netns.set_offload(ifname, "nonesuch", true).is_err());
    assert!(netns.offload(ifname, "nonesuch").is_err());
}

/// Packets for every host's protected prefix reach its cable, by a route or by neighbour discovery, as the mode says.
#[test]
fn protected_prefixes_are_delivered_in_both_modes() {
    require_root();
    for (delivery, len) in [
        (Delivery::Routed, 64),
        (Delivery::Routed, 96),
        (Delivery::OnLink, 64),
        (Delivery::OnLink, 80),
        (Delivery::OnLink, 96),
    ] {
        let options = TopologyOptions {
            delivery,
            client_prefix_len: len,
            server_prefix_len: len,
            second_client: true,
            ..TopologyOptions::default()
        };
        let topology = Topology::standard(&options).unwrap();
        assert_eq!(topology.hosts().count(), 3);
        for host in topology.hosts() {
            assert_eq!(host.prefix.prefix_len(), len);
            check_delivery(&topology, delivery, host);
        }
    }
}

fn check_delivery(topology: &Topology, delivery: Delivery, host: &crate::topology::Host) {
    let target = Ipv6Addr::from(u128::from(host.prefix.network()) | 0x1234_5678);
    assert!(host.prefix.contains(&target));
    let tap = Capture::start(&topology.router, &host.tap_ifname, &CaptureOptions::default()).unwrap();
    // The clients' prefixes are reached through the router, the server's from the server's own segment.
    let (scanner, server) = (&topology.scanner, &topology.server);
    let host_mac = Interface::resolve(&host.netns, &host.ifname).unwrap().mac;
    let router = Interface::resolve(&topology.router, &server.gateway_ifname).unwrap();
    let injector = Injector::open(&scanner.netns, &scanner.ifname).unwrap();
    let path = Path::new(injector.interface().mac, router.mac, scanner.address, target);
    injector.send(&packet::udp(&path, 4000, 4001, b"for the protected prefix")).unwrap();
    let second = Duration::from_secs(3);
    let frame = match delivery {
        Delivery::Routed => tap.wait_for(|frame| is_udp_to(&frame.data, target), second).unwrap(),
        Delivery::OnLink => tap.wait_for(|frame| is_solicitation_of(&frame.data, target), second).unwrap(),
    };
    assert!(frame.outgoing);
    let report = tap.stop().unwrap();
    let solicited = report.frames.iter().any(|frame| is_solicitation_of(&frame.data, target));
    assert_eq!(solicited, delivery == Delivery::OnLink);
    if delivery == Delivery::Routed {
        assert_eq!(frame.data[..6], host_mac, "sent to the host's link address");
        let hop_limit = packet::Outer::parse(&frame.data).unwrap().hop_limit;
        assert_eq!(hop_limit, 63, "forwarded once");
    }
}

fn is_udp_to(frame: &[u8], target: Ipv6Addr) -> bool {
    packet::Outer::parse(frame).is_some_and(|outer| outer.destination == target)
}

fn is_solicitation_of(frame: &[u8], target: Ipv6Addr) -> bool {
    frame.len() >= 78 && frame[20] == 58 && frame[54] == 135 && frame[62..78] == target.octets()
}

#[test]
fn waiting_for_a_link_that_stays_down_says_why() {
    let topology = standard();
    let (netns, ifname) = (&topology.client.netns, &topology.client.ifname);
    netns.run(&["link", "set", ifname, "down"]).unwrap();
    let start = Instant::now();
    let error = netns.wait_usable(ifname, Duration::from_millis(100)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(format!("{error:#}").contains("DOWN"), "{error:#}");
}
