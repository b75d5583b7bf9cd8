use std::net::{IpAddr, Ipv4Addr};
use std::thread::sleep;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::standard;
use crate::capture::{Capture, CaptureOptions};
use crate::inject::{Injector, Interface};
use crate::link::{Veth, Via};
use crate::netns::Netns;
use crate::packet::{Outer, Path, udp};
use crate::topology::Topology;
use crate::traffic::{BLOCK, Flows, TcpFlow, TcpOptions, UdpOptions, UdpStream, contains_marker};
use crate::{require_root, wait_until};

const SECONDS: Duration = Duration::from_secs(5);

fn udp_over(topology: &Topology, rate: u32) -> UdpStream {
    let options = UdpOptions { rate, ..UdpOptions::to(IpAddr::V6(topology.server.address)) };
    UdpStream::start(&topology.client.netns, &topology.server.netns, &options).unwrap()
}

fn tcp_over(topology: &Topology) -> TcpFlow {
    let options = TcpOptions::to(IpAddr::V6(topology.server.address));
    TcpFlow::start(&topology.client.netns, &topology.server.netns, &options).unwrap()
}

#[test]
fn a_udp_stream_over_the_topology_loses_nothing() {
    let topology = standard();
    let tap =
        Capture::start(&topology.router, &topology.server.tap_ifname, &CaptureOptions::default()).unwrap();
    let stream = udp_over(&topology, 1000);
    sleep(Duration::from_secs(2));
    let report = stream.stop().unwrap();
    assert!((1800..=2100).contains(&report.sent), "{report:?}");
    assert_eq!(
        (report.lost, report.duplicated, report.reordered, report.foreign),
        (0, 0, 0, 0),
        "{report:?}"
    );
    assert_eq!((report.received, report.send_errors), (report.sent, 0));
    assert!(report.longest_gap < Duration::from_secs(1), "{report:?}");
    let capture = tap.stop().unwrap();
    assert_eq!(capture.kernel_drops, 0);
    let marked = capture.frames.iter().filter(|frame| contains_marker(&frame.data)).count();
    assert_eq!(marked as u64, report.sent, "each packet passes the tap once and in the clear");
}

#[test]
fn a_tcp_flow_over_the_topology_stays_whole() {
    let topology = standard();
    let tap =
        Capture::start(&topology.router, &topology.server.tap_ifname, &CaptureOptions::default()).unwrap();
    let flow = tcp_over(&topology);
    let counters = flow.counters();
    wait_until("bytes in both directions", SECONDS, || {
        Ok(counters.received_by_server() > 0 && counters.received_by_client() > 0)
    })
    .unwrap();
    sleep(Duration::from_secs(2));
    let report = flow.stop();
    assert_eq!(report.broken, None);
    assert!(report.is_complete(), "{report:?}");
    let per_direction = 2 * (256 << 10);
    for bytes in [report.received_by_server, report.received_by_client] {
        assert!((per_direction * 8 / 10..per_direction * 2).contains(&bytes), "{report:?}");
    }
    assert!(report.longest_stall < Duration::from_secs(1), "{report:?}");
    let marked = |outgoing| {
        let capture = tap.snapshot();
        capture.iter().filter(|frame| frame.outgoing == outgoing && contains_marker(&frame.data)).count()
    };
    assert!(marked(true) > 0 && marked(false) > 0);
}

#[test]
fn ipv4_is_carried_as_well() {
    require_root();
    let (one, two) = (Netns::new("four1").unwrap(), Netns::new("four2").unwrap());
    let veth = Veth::connect((&one, "va"), (&two, "vb"), 1500).unwrap();
    let [near, far] = [1, 2].map(|host| Ipv4Addr::new(198, 51, 100, host));
    for (netns, ifname, address) in [(&one, &veth.left, near), (&two, &veth.right, far)] {
        netns.set_up(ifname).unwrap();
        netns.add_address(ifname, IpNet::V4(Ipv4Net::new(address, 24).unwrap())).unwrap();
    }
    one.add_route("203.0.113.0/24".parse().unwrap(), Via::Gateway(IpAddr::V4(far))).unwrap();
    for (netns, ifname) in [(&one, &veth.left), (&two, &veth.right)] {
        netns.wait_usable(ifname, SECONDS).unwrap();
    }
    one.wait_reachable(IpAddr::V4(far), SECONDS).unwrap();
    let flow = TcpFlow::start(&one, &two, &TcpOptions::to(IpAddr::V4(far))).unwrap();
    let stream = UdpStream::start(&one, &two, &UdpOptions::to(IpAddr::V4(far))).unwrap();
    sleep(Duration::from_millis(500));
    let (tcp, udp) = (flow.stop(), stream.stop().unwrap());
    assert!(tcp.broken.is_none() && tcp.is_complete() && tcp.bytes() > 0, "{tcp:?}");
    assert!(udp.lost == 0 && udp.received > 300, "{udp:?}");
}

/// The generators must notice when something goes wrong.
#[test]
fn an_outage_shows_as_loss_and_stall_but_breaks_no_connection() {
    let topology = standard();
    let (stream, flow) = (udp_over(&topology, 500), tcp_over(&topology));
    let tap = &topology.server.tap_ifname;
    sleep(Duration::from_millis(300));
    topology.router.run(&["link", "set", tap, "down"]).unwrap();
    sleep(Duration::from_secs(1));
    topology.router.run(&["link", "set", tap, "up"]).unwrap();
    let before = flow.counters().received_by_server();
    wait_until("the flow to go on", Duration::from_secs(15), || {
        Ok(flow.counters().received_by_server() > before + 4 * BLOCK as u64)
    })
    .unwrap();
    let (tcp, udp) = (flow.stop(), stream.stop().unwrap());
    assert!(tcp.broken.is_none() && tcp.is_complete(), "{tcp:?}");
    assert!(tcp.longest_stall >= Duration::from_millis(900), "{tcp:?}");
    assert!(udp.lost >= 300 && udp.longest_gap >= Duration::from_millis(900), "{udp:?}");
    assert_eq!(udp.sent, udp.received + udp.lost);
}

#[test]
fn replayed_and_changed_packets_are_told_apart() {
    let topology = standard();
    let tap =
        Capture::start(&topology.router, &topology.server.tap_ifname, &CaptureOptions::default()).unwrap();
    let stream = udp_over(&topology, 100);
    let frame = tap.wait_for(|frame| contains_marker(&frame.data), SECONDS).unwrap();
    let original = Outer::parse(&frame.data).unwrap();
    let injector = Injector::open(&topology.scanner.netns, &topology.scanner.ifname).unwrap();
    let server = Interface::resolve(&topology.server.netns, &topology.server.ifname).unwrap();
    let path =
        Path::new(injector.interface().mac, server.mac, topology.scanner.address, topology.server.address);
    let again = |payload: &[u8]| injector.send(&udp(&path, 9, original.destination_port, payload)).unwrap();
    // The stream has continued, so that the copies are late.
    wait_until("a later packet", SECONDS, || Ok(stream.counters().received() > 3)).unwrap();
    again(original.payload);
    again(original.payload);
    let mut changed = original.payload.to_vec();
    changed[100] ^= 1;
    again(&changed);
    again(b"short");
    let sent = stream.counters().sent();
    wait_until("later packets", SECONDS, || Ok(stream.counters().received() > sent)).unwrap();
    let report = stream.stop().unwrap();
    assert_eq!(
        (report.lost, report.duplicated, report.foreign, report.reordered),
        (0, 2, 2, 0),
        "{report:?}"
    );
}

#[test]
fn a_generator_ends_by_itself_and_refuses_nonsense() {
    let topology = standard();
    let server = IpAddr::V6(topology.server.address);
    let (client, host) = (&topology.client.netns, &topology.server.netns);
    let longest = Duration::from_millis(200);
    let stream = UdpStream::start(client, host, &UdpOptions { longest, ..UdpOptions::to(server) }).unwrap();
    sleep(Duration::from_millis(500));
    let report = stream.stop().unwrap();
    assert!((1..=210).contains(&report.sent) && report.lost == 0, "{report:?}");

    assert!(UdpStream::start(client, host, &UdpOptions { rate: 0, ..UdpOptions::to(server) }).is_err());
    assert!(
        UdpStream::start(client, host, &UdpOptions { payload_len: 39, ..UdpOptions::to(server) }).is_err()
    );
    assert!(
        TcpFlow::start(client, host, &TcpOptions { bytes_per_second: 0, ..TcpOptions::to(server) }).is_err()
    );
    // Sends to an address that the receiver does not have.
    let elsewhere = IpAddr::V6(topology.client.address);
    assert!(UdpStream::start(client, host, &UdpOptions::to(elsewhere)).is_err());
    assert!(TcpFlow::start(client, host, &TcpOptions::to(elsewhere)).is_err());
}

/// Twelve connections, half of them from each end.
fn flows_over(topology: &Topology, patience: Duration) -> Flows {
    let (client, server) = (&topology.client, &topology.server);
    let up = (&client.netns, &server.netns, IpAddr::V6(server.address));
    let down = (&server.netns, &client.netns, IpAddr::V6(client.address));
    Flows::start(&[up, down].repeat(6), patience).unwrap()
}

#[test]
fn many_connections_live_through_an_outage_that_shows() {
    let topology = standard();
    let flows = flows_over(&topology, Duration::from_secs(15));
    flows.wait_all().unwrap();
    let tap = &topology.server.tap_ifname;
    topology.router.run(&["link", "set", tap, "down"]).unwrap();
    sleep(Duration::from_secs(1));
    topology.router.run(&["link", "set", tap, "up"]).unwrap();
    let waited = flows.wait_all().unwrap();
    assert!(waited >= Duration::from_millis(800), "{waited:?}");
    let report = flows.stop().unwrap();
    report.require_unbroken().unwrap();
    assert_eq!(report.connections, 12);
    assert!(report.answers >= 12 * 4, "{report}");
}

#[test]
fn connections_without_an_answer_in_time_are_broken() {
    let topology = standard();
    let flows = flows_over(&topology, Duration::from_millis(500));
    flows.wait_all().unwrap();
    topology.router.run(&["link", "set", &topology.server.tap_ifname, "down"]).unwrap();
    let error = flows.wait_all().unwrap_err();
    assert!(error.to_string().contains("no answer to question"), "{error:#}");
    sleep(Duration::from_secs(1));
    let report = flows.stop().unwrap();
    assert_eq!(report.broken.len(), 12, "{report}");
    assert!(report.require_unbroken().is_err());
}
