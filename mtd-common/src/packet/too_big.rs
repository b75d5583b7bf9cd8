//! ICMPv6 Packet Too Big (RFC 4443, section 3.2): reports of routers on the outer path to a live address. They are not
//! authenticated: whoever has seen one of the tunnel's packets can forge one. Others cannot, since the message has to quote
//! the addresses and ports of a live slot (RFC 8201, section 4).

use super::{IPV6, NEXT_ICMPV6, NEXT_UDP, UDP};
use crate::abi::{FLAG_ANYBODY, MODE_INTRODUCTION, Session, Slot};
use crate::bytes::{be16, part};
use crate::drop_reason::DropReason;
use crate::packet::outer;

/// ICMPv6 type of the message.
const TOO_BIG: u8 = 2;

/// Bytes of the message's own header: type, code, checksum, MTU.
pub const HEADER: usize = 8;

/// Bytes of the message that are examined: its header, and IPv6 and UDP headers of the packet that was too big.
pub const QUOTE: usize = HEADER + IPV6 + UDP;

/// Longest message in bytes: it must not make its packet longer than IPv6's least MTU (RFC 4443, section 2.4).
pub const LONGEST: usize = MIN_MTU - IPV6;

/// The least MTU of any path (RFC 8200, section 5), in bytes: messages that report less are not believed (RFC 8201,
/// section 4).
pub const MIN_MTU: usize = 1280;

/// Whether an IPv6 header and the start of its payload are such a message.
#[inline(always)]
pub const fn is_too_big(ipv6: &[u8; IPV6], icmp: &[u8; HEADER]) -> bool {
    outer::next_header(ipv6) == NEXT_ICMPV6 && icmp[0] == TOO_BIG
}

/// The MTU that the message reports, in bytes of the outer packet.
#[inline(always)]
pub const fn mtu(message: &[u8; QUOTE]) -> u32 {
    u32::from_be_bytes(*part::<4, 4, QUOTE>(message))
}

/// The length of the message in bytes, once it agrees with the frame's. `frame` is the length of the packet from the
/// IPv6 header on, in bytes.
///
/// # Errors
/// [`DropReason::TooBigInvalid`].
#[inline(always)]
pub const fn length(ipv6: &[u8; IPV6], frame: usize) -> Result<usize, DropReason> {
    let length = be16::<4, IPV6>(ipv6) as usize;
    let agrees = ipv6[0] >> 4 == 6 && length + IPV6 == frame && length >= QUOTE && length <= LONGEST;
    if agrees { Ok(length) } else { Err(DropReason::TooBigInvalid) }
}

/// Checks that the message is about a packet that this session has sent from this slot's address, to which the message goes,
/// and which was longer than the reported MTU.
///
/// # Errors
/// [`DropReason::TooBigInvalid`].
#[inline(always)]
pub fn require_sent(
    session: &Session,
    slot: &Slot,
    ipv6: &[u8; IPV6],
    message: &[u8; QUOTE],
) -> Result<(), DropReason> {
    let quoted = part::<HEADER, IPV6, QUOTE>(message);
    let udp = part::<{ HEADER + IPV6 }, UDP, QUOTE>(message);
    let was = be16::<4, IPV6>(quoted) as usize + IPV6;
    let mtu = mtu(message) as usize;
    // Where a router translates the peer, the packet quoted went to an address that only the router knows.
    let to_peer = session.flags & FLAG_ANYBODY != 0
        || *part::<24, 8, IPV6>(quoted) == session.peer_high
            && *part::<32, 8, IPV6>(quoted) == slot.peer_low
            && *part::<2, 2, UDP>(udp) == slot.peer_port;
    // Introductions are shorter than any path's MTU.
    let sent = session.mode != MODE_INTRODUCTION
        && quoted[0] >> 4 == 6
        && outer::next_header(quoted) == NEXT_UDP
        && *outer::source(quoted) == *outer::destination(ipv6)
        && *part::<0, 2, UDP>(udp) == slot.local_port
        && to_peer;
    if sent && mtu >= MIN_MTU && mtu < was { Ok(()) } else { Err(DropReason::TooBigInvalid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::MODE_ENCRYPT;

    const ROUTER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const LOCAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const PEER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];

    fn header(source: [u8; 16], destination: [u8; 16], next: u8, length: u16) -> [u8; IPV6] {
        let mut header = [0; IPV6];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[6] = next;
        header[8..24].copy_from_slice(&source);
        header[24..].copy_from_slice(&destination);
        header
    }

    fn message(mtu: u32) -> [u8; QUOTE] {
        let mut message = [0; QUOTE];
        message[0] = TOO_BIG;
        message[4..8].copy_from_slice(&mtu.to_be_bytes());
        message[HEADER..HEADER + IPV6].copy_from_slice(&header(LOCAL, PEER, NEXT_UDP, 1460));
        message[HEADER + IPV6..HEADER + IPV6 + 4].copy_from_slice(&[0x10, 1, 0x20, 2]);
        message
    }

    fn session() -> (Session, Slot) {
        let half = |address: &[u8; 16], at: usize| address[at..at + 8].try_into().unwrap();
        let session = Session {
            mode: MODE_ENCRYPT,
            local_high: half(&LOCAL, 0),
            peer_high: half(&PEER, 0),
            ..Session::default()
        };
        let slot = Slot {
            local_low: half(&LOCAL, 8),
            peer_low: half(&PEER, 8),
            local_port: [0x10, 1],
            peer_port: [0x20, 2],
            ..Slot::default()
        };
        (session, slot)
    }

    #[test]
    fn only_what_quotes_a_packet_of_the_slot_is_believed() {
        let (session, slot) = session();
        let ipv6 = header(ROUTER, LOCAL, NEXT_ICMPV6, QUOTE as u16);
        assert!(is_too_big(&ipv6, part::<0, HEADER, QUOTE>(&message(1400))));
        assert_eq!(mtu(&message(1400)), 1400);
        for (mtu, expected) in
            [(0, false), (1279, false), (1280, true), (1499, true), (1500, false), (u32::MAX, false)]
        {
            assert_eq!(require_sent(&session, &slot, &ipv6, &message(mtu)).is_ok(), expected, "MTU {mtu}");
        }
        // Every byte that identifies the packet, each bit of it.
        let identity =
            (HEADER + 8..HEADER + IPV6).chain(HEADER + IPV6..HEADER + IPV6 + 4).chain([HEADER, HEADER + 6]);
        for at in identity {
            for bit in if at == HEADER { 4..8 } else { 0..8 } {
                let mut other = message(1400);
                other[at] ^= 1 << bit;
                assert!(require_sent(&session, &slot, &ipv6, &other).is_err(), "byte {at}, bit {bit}");
            }
        }
        let elsewhere = header(ROUTER, PEER, NEXT_ICMPV6, QUOTE as u16);
        assert!(require_sent(&session, &slot, &elsewhere, &message(1400)).is_err());
        let translated = Session { flags: FLAG_ANYBODY, ..session };
        let mut other = message(1400);
        other[HEADER + 24..HEADER + IPV6].copy_from_slice(&ROUTER);
        other[HEADER + IPV6 + 2] ^= 1;
        assert!(require_sent(&translated, &slot, &ipv6, &other).is_ok(), "to where a router has it");
        other[HEADER + IPV6] ^= 1;
        assert!(require_sent(&translated, &slot, &ipv6, &other).is_err(), "not from here");
        let introduction = Session { mode: MODE_INTRODUCTION, ..session };
        assert!(require_sent(&introduction, &slot, &ipv6, &message(1400)).is_err());
    }

    #[test]
    fn lengths_have_to_agree() {
        for (length_field, frame, expected) in [
            (QUOTE, QUOTE + IPV6, Ok(QUOTE)),
            (LONGEST, LONGEST + IPV6, Ok(LONGEST)),
            (QUOTE - 1, QUOTE - 1 + IPV6, Err(DropReason::TooBigInvalid)),
            (LONGEST + 1, LONGEST + 1 + IPV6, Err(DropReason::TooBigInvalid)),
            (QUOTE, QUOTE + IPV6 + 1, Err(DropReason::TooBigInvalid)),
        ] {
            let ipv6 = header(ROUTER, LOCAL, NEXT_ICMPV6, length_field as u16);
            assert_eq!(length(&ipv6, frame), expected, "{length_field} of {frame}");
        }
        let mut ipv4 = header(ROUTER, LOCAL, NEXT_ICMPV6, QUOTE as u16);
        ipv4[0] = 0x45;
        assert!(length(&ipv4, QUOTE + IPV6).is_err());
    }
}
