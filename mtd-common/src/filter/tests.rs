//! Reading of packets, as far as rules need it. Decisions are tested with the compiler of rules.

use super::flow::{Flow, Opens, Packet, Part};
use crate::aead::BLOCK;
use crate::packet::inner::mapped;

const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Bytes in front of the packet.
const AT: usize = 3;

struct Bytes(Vec<u8>);

impl Packet for Bytes {
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        assert!((1..BLOCK).contains(&length), "{length}");
        buffer[..length].copy_from_slice(self.0.get(offset..offset + length)?);
        Some(())
    }
}

fn read(packet: &[u8]) -> Option<Flow> {
    // Whatever was there before.
    let mut flow = Flow {
        has_ports: true,
        is_error: true,
        opens: Opens::Something,
        part: Part::Later,
        ..Flow::default()
    };
    flow.read(&Bytes([&[0; AT], packet].concat()), AT, false).then_some(flow)
}

fn read_quoted(packet: &[u8]) -> Option<Flow> {
    let mut flow = read(packet)?;
    flow.read_quoted(&Bytes([&[0; AT], packet].concat())).then_some(flow)
}

fn ipv4(protocol: u8, place: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20 + options];
    header[0] = 0x45 + options as u8 / 4;
    header[4..6].copy_from_slice(&[0x12, 0x34]);
    header[6..8].copy_from_slice(&place.to_be_bytes());
    header[9] = protocol;
    header[12..16].copy_from_slice(&A4);
    header[16..20].copy_from_slice(&B4);
    [&header, payload].concat()
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next;
    header[8..24].copy_from_slice(&A6);
    header[24..].copy_from_slice(&B6);
    [&header, payload].concat()
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..4].copy_from_slice(&[0x30, 0, 0, 22]);
    header[13] = flags;
    header
}

fn fragment(next: u8, place: u16) -> Vec<u8> {
    [&[next, 0], place.to_be_bytes().as_slice(), &[1, 2, 3, 4]].concat()
}

#[test]
fn ports_and_what_is_opened_are_read_in_both_versions() {
    for (flags, opens) in [
        (2, Opens::Something),
        (2 | 64, Opens::Something),
        (18, Opens::Nothing),
        (16, Opens::Nothing),
        (4, Opens::Nothing),
    ] {
        for packet in [ipv4(6, 0x4000, 0, &tcp(flags)), ipv4(6, 0, 40, &tcp(flags)), ipv6(6, &tcp(flags))] {
            let flow = read(&packet).expect("a packet");
            assert_eq!((flow.opens, flow.part, flow.protocol), (opens, Part::Whole, 6));
            assert!(flow.has_ports && !flow.is_error);
            assert_eq!((flow.source_port, flow.destination_port), ([0x30, 0], [0, 22]));
            let ends = if flow.version == 4 { (mapped(A4), mapped(B4)) } else { (A6, B6) };
            assert_eq!((flow.source, flow.destination), ends);
        }
    }
    let udp = read(&ipv6(17, &[0, 1, 0, 53])).expect("a datagram");
    assert!(udp.has_ports && udp.destination_port == [0, 53] && udp.opens == Opens::Unknown);
    let esp = read(&ipv6(50, &[])).expect("a packet without ports");
    assert!(!esp.has_ports && esp.opens == Opens::Unknown && esp.protocol == 50);
}

#[test]
fn extension_headers_do_not_hide_what_is_behind_them() {
    // Hop-by-hop options of 16 bytes, routing, authentication of 24 bytes, destination options, mobility.
    let mut chain = vec![43, 1];
    chain.resize(16, 0);
    chain.extend([51, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([60, 4]);
    chain.resize(16 + 8 + 24, 0);
    chain.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([6, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend(tcp(2));
    let flow = read(&ipv6(0, &chain)).expect("a packet");
    assert_eq!((flow.protocol, flow.opens, flow.destination_port), (6, Opens::Something, [0, 22]));
    for (headers, readable) in [(8, true), (9, false), (30, false)] {
        let mut chain = vec![];
        for n in 1..=headers {
            chain.extend([if n == headers { 6 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        chain.extend(tcp(2));
        assert_eq!(read(&ipv6(60, &chain)).is_some(), readable, "{headers} headers");
    }
}

#[test]
fn what_ends_before_its_headers_is_not_read() {
    for packet in [
        ipv4(6, 0, 0, &tcp(2)),
        ipv6(6, &tcp(2)),
        ipv6(60, &[&[6, 0, 0, 0, 0, 0, 0, 0], tcp(2).as_slice()].concat()),
    ] {
        let needed = packet.len() - 20 + 14;
        for length in 0..packet.len() {
            assert_eq!(read(&packet[..length]).is_some(), length >= needed, "{length} of {}", packet.len());
        }
    }
    assert!(read(&ipv6(17, &[0, 1, 0])).is_none() && read(&ipv6(58, &[128, 0, 0])).is_none());
    let mut short = ipv4(6, 0, 0, &tcp(2));
    short[0] = 0x44;
    assert!(read(&short).is_none(), "a header of 16 bytes");
    short[0] = 0x55;
    assert!(read(&short).is_none(), "version 5");
}

#[test]
fn first_parts_have_ports_and_later_ones_none() {
    let first = read(&ipv6(44, &[fragment(6, 1), tcp(2)].concat())).expect("a first part");
    assert_eq!(
        (first.part, first.has_ports, first.opens, first.id),
        (Part::First, true, Opens::Something, 0x0102_0304)
    );
    let later = read(&ipv6(44, &[fragment(6, 8 << 3), tcp(2)].concat())).expect("a later part");
    assert_eq!(
        (later.part, later.has_ports, later.opens, later.protocol),
        (Part::Later, false, Opens::Nothing, 6)
    );
    let hidden = read(&ipv6(44, &[fragment(60, 8 << 3), tcp(2)].concat())).expect("a later part");
    assert_eq!((hidden.part, hidden.protocol), (Part::Later, 60), "its protocol is in the first part only");
    let only = read(&ipv6(44, &[fragment(6, 0), tcp(2)].concat())).expect("a packet of one part");
    assert_eq!((only.part, only.has_ports), (Part::Whole, true));
    assert!(
        read(&ipv6(44, &[fragment(6, 1), vec![0; 8]].concat())).is_none(),
        "a first part without the flags"
    );
    for (place, part) in
        [(0x2000, Part::First), (0x2010, Part::Later), (0x0010, Part::Later), (0x4000, Part::Whole)]
    {
        let flow = read(&ipv4(6, place, 0, &tcp(2))).expect("a packet");
        assert_eq!((flow.part, flow.has_ports), (part, part != Part::Later), "{place:x}");
        assert_eq!(flow.id, 0x1234);
    }
    assert!(read(&ipv4(6, 1, 0, &tcp(2))).is_none(), "would replace the flags");
    assert!(read(&ipv4(17, 1, 0, &[])).is_some());
}

#[test]
fn requests_open_and_answers_and_errors_do_not() {
    for (packet, opens, is_error) in [
        (ipv4(1, 0, 0, &[8, 0, 0, 0, 0, 0, 0, 0]), Opens::Something, false),
        (ipv4(1, 0, 0, &[0; 8]), Opens::Nothing, false),
        (ipv4(1, 0, 0, &[3, 1, 0, 0, 0, 0, 0, 0]), Opens::Nothing, true),
        (ipv4(1, 0, 0, &[13, 0, 0, 0, 0, 0, 0, 0]), Opens::Unknown, false),
        (ipv6(58, &[128, 0, 0, 0, 0, 0, 0, 0]), Opens::Something, false),
        (ipv6(58, &[129, 0, 0, 0, 0, 0, 0, 0]), Opens::Nothing, false),
        (ipv6(58, &[2, 0, 0, 0, 0, 0, 5, 0]), Opens::Nothing, true),
        (ipv6(1, &[8, 0, 0, 0, 0, 0, 0, 0]), Opens::Unknown, false),
    ] {
        let flow = read(&packet).expect("a packet");
        assert_eq!((flow.opens, flow.is_error, flow.has_ports), (opens, is_error, false), "{packet:x?}");
    }
}

#[test]
fn an_error_is_read_as_an_answer_in_the_flow_that_it_is_about() {
    // B had sent a SYN to A; A's error goes to B.
    let mut quoted = ipv6(6, &tcp(2)[..8]);
    quoted[8..24].copy_from_slice(&B6);
    quoted[24..40].copy_from_slice(&A6);
    let error = ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0], quoted.as_slice()].concat());
    let flow = read_quoted(&error).expect("about a packet");
    assert_eq!((flow.source, flow.destination, flow.opens), (A6, B6, Opens::Nothing));
    assert_eq!((flow.source_port, flow.destination_port, flow.protocol), ([0, 22], [0x30, 0], 6));
    // About a packet that somebody else has sent.
    let error = ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0], ipv6(6, &tcp(2)).as_slice()].concat());
    assert!(read_quoted(&error).is_none());
    let error = ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0], &quoted[..43]].concat());
    assert!(read_quoted(&error).is_none(), "without ports");
    let mut quoted = ipv4(17, 0, 0, &[0, 53, 0x30, 0, 0, 0, 0, 0]);
    quoted[12..16].copy_from_slice(&B4);
    quoted[16..20].copy_from_slice(&A4);
    let error = ipv4(1, 0, 0, &[&[3, 3, 0, 0, 0, 0, 0, 0], quoted.as_slice()].concat());
    let flow = read_quoted(&error).expect("about a datagram");
    assert_eq!((flow.source, flow.source_port), (mapped(A4), [0x30, 0]));
}
