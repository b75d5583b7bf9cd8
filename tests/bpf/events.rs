//! Drop events: their contents, and their rate limit.

use std::collections::BTreeMap;

use aya::maps::PerCpuArray;
use aya::maps::PerCpuValues;
use aya::util::nr_cpus;
use aya::{TestRun as _, TestRunOptions};
use mtd_common::DropReason;
use mtd_common::abi::Local;
use mtd_common::event::DropEvent;
use mtd_tests::packet::{HOP_BY_HOP, echo_request, tcp_syn, udp, with_extension_header, with_vlan_tag};

use crate::concurrency::on_one_cpu;
use crate::harness::{Bench, SEQUENCE, TC_ACT_SHOT, XDP_DROP, boot_time};
use crate::inner::{OWN4, OWN6, PEER6, Version, framed, framed_as, ipv4, ipv6};
use crate::peering::CURRENT;

/// The interface of a test run without context: the loopback device.
const LOOPBACK: u32 = 1;
/// Events of one CPU in one burst, and ns for one more.
const BURST: u64 = 200;
const INTERVAL: u64 = 10_000_000;

/// The only event of one run, without its time.
fn event(bench: &mut Bench, frame: &[u8], reason: DropReason) -> DropEvent {
    let outcome = bench.receive(frame);
    outcome.dropped(XDP_DROP, frame, reason).unwrap_or_else(|error| panic!("{reason:?}: {error:#}"));
    let [(event, _)] = outcome.events[..] else { panic!("{reason:?}: {:?}", outcome.events) };
    DropEvent { time: 0, ..event }
}

#[test]
fn an_event_says_what_the_headers_say() {
    let (mut bench, peering) = Bench::with_session();
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 90));
    let valid = packet.frame();
    let path = packet.path();
    let base = DropEvent { version: 1, ifindex: LOOPBACK, ..DropEvent::default() };
    let addresses =
        DropEvent { source: path.source.octets(), destination: path.destination.octets(), ..base };
    let says =
        |reason: DropReason, next_header, ports: Option<(u16, u16)>, frame: &[u8], event: DropEvent| {
            let (from, to) = ports.unwrap_or_default();
            DropEvent {
                reason: reason as u8,
                next_header,
                source_port: from.to_be_bytes(),
                destination_port: to.to_be_bytes(),
                length: frame.len() as u32,
                ..event
            }
        };
    let (from, to) = (packet.from.port(), packet.to.port());
    let mut forged = valid.clone();
    forged[90] ^= 1;
    let table = [
        (DropReason::BadTag, forged, 17, Some((from, to)), addresses),
        (DropReason::WrongPort, udp(&path, 4000, 5000, b""), 17, Some((4000, 5000)), addresses),
        (DropReason::Tcp, tcp_syn(&path, 40_000, 22, 1), 6, Some((40_000, 22)), addresses),
        (DropReason::Icmpv6, echo_request(&path, 3, 4, b""), 58, None, addresses),
        (DropReason::ExtensionHeader, with_extension_header(&valid, HOP_BY_HOP), 0, None, addresses),
        // The fields of a header that could not be read, or was not looked for, are zero.
        (DropReason::Truncated, valid[..53].to_vec(), 0, None, base),
        (DropReason::Truncated, valid[..14].to_vec(), 0, None, base),
        (DropReason::Truncated, valid[..54].to_vec(), 17, None, addresses),
        (DropReason::Vlan, with_vlan_tag(&valid, 9), 0, None, base),
    ];
    for (reason, frame, next_header, ports, event_base) in table {
        let expected = says(reason, next_header, ports, &frame, event_base);
        assert_eq!(event(&mut bench, &frame, reason), expected, "{reason:?}");
    }
}

/// The event shows the outer headers even if the packet was opened in place before it was dropped.
#[test]
fn an_event_shows_no_plaintext() {
    let (mut bench, peering) = Bench::with_session();
    let stranger = "fd00:66::99".parse().expect("an address");
    let packet = peering.packet(CURRENT, SEQUENCE, ipv6(stranger, OWN6, 0, 90));
    let event = event(&mut bench, &packet.frame(), DropReason::InnerSource);
    assert_eq!(event.source, packet.from.ip().octets());
    assert_eq!(event.destination, packet.to.ip().octets());
    assert_eq!(event.source_port, packet.from.port().to_be_bytes());
    assert_eq!(event.destination_port, packet.to.port().to_be_bytes());
}

#[test]
fn an_event_of_the_send_program_has_the_inner_addresses() {
    let (mut bench, _) = Bench::with_session();
    let stranger4 = [192, 0, 2, 7].into();
    let table = [
        (
            framed(&ipv4(OWN4, stranger4, 0, 60)),
            DropReason::SendNoPeer,
            OWN4.to_ipv6_mapped().octets(),
            stranger4.to_ipv6_mapped().octets(),
        ),
        (framed(&ipv6(OWN6, PEER6, 0, 60)), DropReason::SendNoPeer, OWN6.octets(), PEER6.octets()),
        (framed_as([8, 6], &[0; 28]), DropReason::SendMalformed, [0; 16], [0; 16]),
    ];
    for (frame, reason, source, destination) in table {
        let outcome = bench.send(&frame);
        outcome.dropped(TC_ACT_SHOT, &frame, reason).unwrap_or_else(|error| panic!("{reason:?}: {error:#}"));
        let expected = DropEvent {
            version: 1,
            reason: reason as u8,
            ifindex: LOOPBACK,
            source,
            destination,
            length: frame.len() as u32,
            ..DropEvent::default()
        };
        assert_eq!(DropEvent { time: 0, ..outcome.events[0].0 }, expected, "{reason:?}");
    }
}

#[test]
fn a_flood_makes_few_events_and_loses_no_count() {
    const FLOOD: u32 = 10_000;
    let (mut bench, peering) = Bench::with_session();
    let frame = tcp_syn(&peering.packet(CURRENT, SEQUENCE, Vec::new()).path(), 1, 2, 3);
    let began = boot_time();
    on_one_cpu(|| {
        let options = TestRunOptions { data_in: Some(&frame), repeat: FLOOD, ..TestRunOptions::new() };
        let program = bench.plane.receive_program().expect("a program");
        assert_eq!(program.test_run(options).expect("a test run").return_value, XDP_DROP);
    });
    let elapsed = boot_time() - began;
    let events = bench.events();
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.drops, BTreeMap::from([(DropReason::Tcp, u64::from(FLOOD))]));
    assert_eq!(counts.frames.events_suppressed + events.len() as u64, u64::from(FLOOD));
    let most = BURST + elapsed / INTERVAL + 1;
    assert!((BURST..=most).contains(&(events.len() as u64)), "{} events, {most} allowed", events.len());
    assert!(events.iter().all(|(_, reason)| *reason == DropReason::Tcp));
    assert!(events.is_sorted_by_key(|(event, _)| event.time), "in the order of the drops");
}

/// The rate limit recovers, and while a reader is away for long, events are lost but counts are not.
#[test]
fn a_full_ring_buffer_costs_events_only() {
    /// Bytes of the ring buffer, and of an event with its header there.
    const CAPACITY: u64 = 256 * 1024 / 64;
    let (mut bench, peering) = Bench::with_session();
    let frame = tcp_syn(&peering.packet(CURRENT, SEQUENCE, Vec::new()).path(), 1, 2, 3);
    let mut drops = 0;
    on_one_cpu(|| {
        while drops < 2 * CAPACITY {
            // Set the limit as if it had had time to recover.
            let local = bench.plane.ebpf_mut().map_mut("LOCAL").expect("a map");
            let mut local = PerCpuArray::<_, Local>::try_from(local).expect("with the limit");
            let empty = PerCpuValues::try_from(vec![Local::default(); nr_cpus().expect("CPUs")]);
            local.set(0, empty.expect("one for each CPU"), 0).expect("an element");
            let program = bench.plane.receive_program().expect("a program");
            let options =
                TestRunOptions { data_in: Some(&frame), repeat: BURST as u32, ..TestRunOptions::new() };
            program.test_run(options).expect("a test run");
            drops += BURST;
        }
    });
    let events = bench.events().len() as u64;
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.drops, BTreeMap::from([(DropReason::Tcp, drops)]));
    assert_eq!(counts.frames.events_suppressed + events, drops);
    assert!((CAPACITY - 1..=CAPACITY).contains(&events), "{events} events in a buffer for {CAPACITY}");
}
