//! Capture and injection. The kernel of the other host decides whether the packets built here are valid.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::standard;
use crate::capture::{Capture, CaptureOptions, Frame};
use crate::inject::{Injector, Interface};
use crate::packet::{
    DESTINATION_OPTIONS, HOP_BY_HOP, Outer, Path, echo_request, fragments, neighbour_solicitation, tcp_syn,
    udp, udp_checksum_is_right, with_extension_header, with_fragment_header, with_vlan_tag,
};
use crate::topology::Topology;
use crate::xdp::{ConstantXdp, Verdict};

const SECONDS: Duration = Duration::from_secs(3);

/// The scanner, who sends to the server's link address.
struct Attacker {
    injector: Injector,
    path: Path,
}

fn attacker(topology: &Topology) -> Attacker {
    let injector = Injector::open(&topology.scanner.netns, &topology.scanner.ifname).unwrap();
    let server = Interface::resolve(&topology.server.netns, &topology.server.ifname).unwrap();
    let path =
        Path::new(injector.interface().mac, server.mac, topology.scanner.address, topology.server.address);
    Attacker { injector, path }
}

fn tap_server(topology: &Topology) -> Capture {
    Capture::start(&topology.router, &topology.server.tap_ifname, &CaptureOptions::default()).unwrap()
}

fn icmpv6_type(frame: &Frame) -> Option<u8> {
    (frame.data.len() > 54 && frame.data[20] == 58).then(|| frame.data[54])
}

#[test]
fn an_injected_frame_is_seen_once_as_it_was_sent() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let inside =
        Capture::start(&topology.server.netns, &topology.server.ifname, &CaptureOptions::default()).unwrap();
    let tap = tap_server(&topology);
    let frame = udp(&path, 1234, 9, b"just this once");
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    injector.send(&frame).unwrap();
    tap.wait_for(|seen| seen.data == frame, SECONDS).unwrap();
    inside.wait_for(|seen| seen.data == frame, SECONDS).unwrap();
    for (capture, outgoing) in [(tap, true), (inside, false)] {
        let report = capture.stop().unwrap();
        let seen: Vec<&Frame> = report.frames.iter().filter(|seen| seen.data == frame).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].outgoing, seen[0].wire_len), (outgoing, frame.len()));
        assert!(!seen[0].checksum_pending);
        let late = u128::from(seen[0].time_ns) - before.as_nanos();
        assert!(late < SECONDS.as_nanos(), "{late} ns after it was sent");
        assert_eq!((report.kernel_drops, report.over_limit), (0, 0));
        assert_eq!(report.received, report.frames.len() as u64);
    }
}

#[test]
fn pending_checksums_are_told_from_wrong_ones() {
    let topology = standard();
    let (client, server) = (&topology.client, &topology.server);
    let socket = client.netns.enter(|| UdpSocket::bind("[::]:0").unwrap()).unwrap();
    for offload in [true, false] {
        client.netns.set_offload(&client.ifname, "tx", offload).unwrap();
        let tap = tap_server(&topology);
        socket.send_to(b"from a socket", (server.address, 9)).unwrap();
        let frame = tap.wait_for(|frame| Outer::parse(&frame.data).is_some(), SECONDS).unwrap();
        assert_eq!(frame.checksum_pending, offload);
        assert_eq!(udp_checksum_is_right(&frame.data), Some(!offload));
    }
}

#[test]
fn a_vlan_tag_that_the_kernel_took_out_is_put_back() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let inside =
        Capture::start(&topology.server.netns, &topology.server.ifname, &CaptureOptions::default()).unwrap();
    let tagged = with_vlan_tag(&udp(&path, 1, 2, b"tagged"), 42);
    injector.send(&tagged).unwrap();
    let seen = inside.wait_for(|frame| frame.data.ends_with(b"tagged"), SECONDS).unwrap();
    assert_eq!(seen.data, tagged);
    assert_eq!(seen.wire_len, tagged.len());
}

#[test]
fn bounds_of_a_capture_hold() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let options = CaptureOptions { snap_len: 60, max_frames: 2, ..CaptureOptions::default() };
    let tap = Capture::start(&topology.router, &topology.server.tap_ifname, &options).unwrap();
    let frame = udp(&path, 1, 2, &[7; 100]);
    for _ in 0..5 {
        injector.send(&frame).unwrap();
    }
    let report = tap.stop().unwrap();
    assert_eq!(report.frames.len(), 2);
    assert!(report.received >= 5);
    assert_eq!(report.over_limit, report.received - 2);
    assert!(report.frames.iter().all(|kept| kept.data.len() <= 60 && kept.wire_len > 60));
}

#[test]
fn a_full_receive_buffer_is_reported() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let (go, wait) = mpsc::channel::<()>();
    let options = CaptureOptions { buffer_bytes: 4096, ..CaptureOptions::default() };
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let blocked = move |_: &Frame| {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = wait.recv();
    };
    let tap = Capture::start_with(&topology.router, &topology.server.tap_ifname, &options, blocked).unwrap();
    let frame = udp(&path, 1, 2, &[7; 1000]);
    for _ in 0..100 {
        injector.send(&frame).unwrap();
    }
    drop(go);
    let report = tap.stop().unwrap();
    assert!(report.kernel_drops > 0, "{report:?}");
    assert_eq!(report.received, seen.load(Ordering::SeqCst));
    assert!(report.received + report.kernel_drops >= 100 && report.frames.is_empty());
}

#[test]
fn the_kernel_answers_what_was_built() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let tap = tap_server(&topology);
    let answers =
        |kind: u8| tap.wait_for(|frame| !frame.outgoing && icmpv6_type(frame) == Some(kind), SECONDS);

    injector.send(&echo_request(&path, 0xabc, 1, b"ping")).unwrap();
    answers(129).unwrap();

    injector.send(&tcp_syn(&path, 40_000, 81, 1)).unwrap();
    let reset = |frame: &Frame| !frame.outgoing && frame.data.get(20) == Some(&6) && frame.data[67] & 4 != 0;
    tap.wait_for(reset, SECONDS).unwrap();

    for to in [None, Some(path.destination_mac)] {
        let fresh = tap_server(&topology);
        let solicitation = neighbour_solicitation(path.source_mac, path.source, topology.server.address, to);
        injector.send(&solicitation).unwrap();
        let advertises = |frame: &Frame| {
            !frame.outgoing
                && icmpv6_type(frame) == Some(136)
                && frame.data[62..78] == topology.server.address.octets()
        };
        fresh.wait_for(advertises, SECONDS).unwrap();
    }
}

#[test]
fn the_kernel_delivers_every_form_of_a_packet() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    let address = IpAddr::V6(topology.server.address);
    let socket = topology.server.netns.enter(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(SECONDS)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let plain = |text: &str| udp(&path, 7, port, text.as_bytes());
    let long = "long ".repeat(60);
    let forms: [(&str, Vec<Vec<u8>>); 5] = [
        ("plain", vec![plain("plain")]),
        ("hop by hop", vec![with_extension_header(&plain("hop by hop"), HOP_BY_HOP)]),
        ("destination", vec![with_extension_header(&plain("destination"), DESTINATION_OPTIONS)]),
        ("atomic", vec![with_fragment_header(&plain("atomic"), 1)]),
        (&long, fragments(&plain(&long), 2, 64)),
    ];
    let mut buffer = [0; 2048];
    for (text, frames) in forms {
        for frame in frames {
            injector.send(&frame).unwrap();
        }
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], text.as_bytes());
        assert_eq!(from.ip(), IpAddr::V6(path.source));
    }
    let mut wrong = plain("wrong checksum");
    wrong[60] ^= 1;
    injector.send(&wrong).unwrap();
    injector.send(&plain("next")).unwrap();
    let count = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"next");
}

/// The topology itself does not help: its cables have no XDP program at their far ends.
#[test]
fn a_frame_that_a_host_sends_back_in_xdp_arrives_if_the_far_end_has_a_program() {
    let topology = standard();
    for host in topology.hosts() {
        let tap = Capture::start(&topology.router, &host.tap_ifname, &CaptureOptions::default()).unwrap();
        let injector = Injector::open(&topology.router, &host.tap_ifname).unwrap();
        let own = Interface::resolve(&host.netns, &host.ifname).unwrap().mac;
        let path = Path::new(injector.interface().mac, own, topology.server.gateway, host.address);
        let returned = |frame: &Frame, sent: &[u8]| !frame.outgoing && frame.data == sent;

        let _listens = ConstantXdp::attach(&topology.router, &host.tap_ifname, Verdict::Pass).unwrap();
        let attached = ConstantXdp::attach(&host.netns, &host.ifname, Verdict::Transmit).unwrap();
        assert!(ConstantXdp::attach(&host.netns, &host.ifname, Verdict::Pass).is_err(), "only one");
        let sent = udp(&path, 1, 2, b"there and back");
        injector.send(&sent).unwrap();
        tap.wait_for(|frame| returned(frame, &sent), SECONDS).unwrap();
        drop(attached);

        let attached = ConstantXdp::attach(&host.netns, &host.ifname, Verdict::Drop).unwrap();
        let inside = Capture::start(&host.netns, &host.ifname, &CaptureOptions::default()).unwrap();
        let dropped = udp(&path, 1, 2, b"never seen");
        injector.send(&dropped).unwrap();
        tap.wait_for(|frame| frame.outgoing && frame.data == dropped, SECONDS).unwrap();
        drop(attached);
        let passed = udp(&path, 1, 2, b"seen again");
        injector.send(&passed).unwrap();
        inside.wait_for(|frame| frame.data == passed, SECONDS).unwrap();
        assert!(inside.snapshot().iter().all(|frame| frame.data != dropped));
        assert!(tap.snapshot().iter().all(|frame| !returned(frame, &dropped)));
    }
}

#[test]
fn frames_that_no_link_takes_are_errors() {
    let topology = standard();
    let Attacker { injector, path } = attacker(&topology);
    assert!(injector.send(&[0; 13]).is_err());
    assert!(injector.send(&udp(&path, 1, 2, &[0; 1500])).is_err());
    assert!(Injector::open(&topology.client.netns, "nonesuch").is_err());
    let nobody = Ipv6Addr::LOCALHOST;
    assert!(Interface::resolve(&topology.client.netns, &nobody.to_string()).is_err());
}
