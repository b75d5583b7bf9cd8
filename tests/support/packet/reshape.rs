//! Other forms of a frame: with a VLAN tag, with extension headers, in fragments. Upper-layer checksums stay correct,
//! because the pseudo-header does not cover what is added.
//!
//! All functions take an Ethernet frame with a plain IPv6 packet, as the builders make it. They panic if it is shorter than
//! its headers.

use super::{ETHERNET_LEN, IPV6_LEN};

/// Next-header value of hop-by-hop options (RFC 8200).
pub const HOP_BY_HOP: u8 = 0;
/// Next-header value of destination options (RFC 8200).
pub const DESTINATION_OPTIONS: u8 = 60;

const FRAGMENT: u8 = 44;
const PAYLOAD_LENGTH_AT: usize = ETHERNET_LEN + 4;
const NEXT_HEADER_AT: usize = ETHERNET_LEN + 6;
const HEADERS_LEN: usize = ETHERNET_LEN + IPV6_LEN;

/// The frame with an 802.1Q tag (priority 0) of VLAN `vlan`, 12 bits.
pub fn with_vlan_tag(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [v0, v1] = (vlan & 0xfff).to_be_bytes();
    [&frame[..12], &[0x81, 0x00, v0, v1], &frame[12..]].concat()
}

/// The frame with an options header ([`HOP_BY_HOP`] or [`DESTINATION_OPTIONS`]) of 8 bytes, all padding, directly after the
/// IPv6 header.
pub fn with_extension_header(frame: &[u8], kind: u8) -> Vec<u8> {
    // Next header, length 0 (8 bytes), then a PadN option of 6 bytes.
    insert_header(frame, kind, [frame[NEXT_HEADER_AT], 0, 1, 4, 0, 0, 0, 0])
}

/// The whole packet as one "atomic" fragment (RFC 6946): fragment header with offset 0 and no more fragments.
pub fn with_fragment_header(frame: &[u8], identification: u32) -> Vec<u8> {
    insert_header(frame, FRAGMENT, fragment_header(frame[NEXT_HEADER_AT], 0, false, identification))
}

/// The packet in fragments whose parts have at most `part_len` bytes, rounded down to a multiple of 8 (at least 8).
pub fn fragments(frame: &[u8], identification: u32, part_len: usize) -> Vec<Vec<u8>> {
    let part_len = (part_len / 8).max(1) * 8;
    let (headers, payload) = frame.split_at(HEADERS_LEN);
    let count = payload.len().div_ceil(part_len);
    let fragment = |(nth, part): (usize, &[u8])| {
        let more = nth + 1 < count;
        let header = fragment_header(frame[NEXT_HEADER_AT], nth * part_len, more, identification);
        insert_header(&with_payload(headers, part), FRAGMENT, header)
    };
    payload.chunks(part_len).enumerate().map(fragment).collect()
}

fn fragment_header(next: u8, offset: usize, more: bool, identification: u32) -> [u8; 8] {
    let [o0, o1] = (offset as u16 | u16::from(more)).to_be_bytes();
    let [i0, i1, i2, i3] = identification.to_be_bytes();
    [next, 0, o0, o1, i0, i1, i2, i3]
}

fn insert_header(frame: &[u8], kind: u8, header: [u8; 8]) -> Vec<u8> {
    let (headers, payload) = frame.split_at(HEADERS_LEN);
    let mut changed = with_payload(headers, &[&header, payload].concat());
    changed[NEXT_HEADER_AT] = kind;
    changed
}

fn with_payload(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = [headers, payload].concat();
    frame[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 2].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    frame
}
