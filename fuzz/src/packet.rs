//! Packets: the parsers of `mtd_common::packet` against plain readings of the same bytes.

use mtd_common::abi::{Dataplane, Prefix, Session, Slot};
use mtd_common::aead::{self, Buffer, MAX_TEXT, Operation, Pass, Sums};
use mtd_common::packet::inner::{self, Inner};
use mtd_common::packet::outer::{self, MIN_INNER, Send};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, MTD, OVERHEAD, UDP, ndp};
use mtd_common::{DropReason, bytes};

use super::take;

const MTU: u32 = 1428;
const KEY: [u8; 32] = [5; 32];
const MASK: [u8; 16] = [6; 16];

/// The protected prefixes that frames are judged by: high half, low half, bits.
const PREFIXES: [(u64, u64, u32); 4] = [
    (0x2001_0db8_0001_0000, 0, 64),
    (0x2001_0db8_0002_0003, 0x0004_0000_0000_0000, 80),
    (0x2001_0db8_0002_0003, 0x0005_0006_0000_0000, 96),
    (0x2001_0db8_0002_0003, 0x0005_0007_0008_0000, 112),
];

/// The one live slot that packets are judged by.
const SLOT: Slot = Slot {
    slot: 7,
    local_low: [1; 8],
    peer_low: [9, 8, 7, 6, 5, 4, 3, 2],
    local_port: [0x12, 0x34],
    peer_port: [0xab, 0xcd],
    generation: 1,
};
/// The upper half of the peer's address in it.
const PEER_HIGH: [u8; 8] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0];

fn session(peer_high: [u8; 8]) -> Session {
    Session { peer_high, ..Session::default() }
}

fn halves(address: &[u8; 16]) -> [&[u8; 8]; 2] {
    [bytes::part::<0, 8, 16>(address), bytes::part::<8, 8, 16>(address)]
}

fn dataplane(count: u32) -> Dataplane {
    let mut value = Dataplane { prefix_count: count, inner_mtu: MTU, ..Dataplane::default() };
    for (element, (high, low, bits)) in value.prefixes.iter_mut().zip(PREFIXES) {
        let mask = u64::MAX.checked_shl(128 - bits).unwrap_or(0);
        *element = Prefix { high: high.to_be(), low: low.to_be(), mask: mask.to_be() };
    }
    value
}

/// A frame from the underlay, as the receive program takes it apart before it looks for a session.
pub fn frame(data: &[u8]) -> bool {
    let Some((ethernet, rest)) = data.split_first_chunk::<ETHERNET>() else { return false };
    let ethertype = packet::ethertype(ethernet);
    assert_eq!(ethertype.to_be_bytes(), ethernet[12..]);
    assert_eq!(packet::is_vlan(ethertype), [0x8100, 0x88a8].contains(&ethertype));
    let Some(ip) = rest.first_chunk::<IPV6>().filter(|_| ethertype == ETHERTYPE_IPV6) else { return false };
    assert_eq!(ip[8..24], *outer::source(ip));
    assert_eq!(ip[24..40], *outer::destination(ip));
    for count in 0..=4 {
        let found = packet::is_protected(&dataplane(count), outer::destination(ip));
        assert_eq!(found, is_protected(outer::destination(ip), count as usize));
    }
    let udp_follows = outer::require_udp(ip);
    assert_eq!(udp_follows.is_ok(), ip[6] == 17);
    let Some(udp) = rest[IPV6..].first_chunk::<UDP>() else { return false };
    assert_eq!(outer::require_peer(&session(PEER_HIGH), &SLOT, ip, udp), require_peer(ip, *udp));
    let length = outer::inner_length(ip, udp, rest.len(), MTU);
    assert_eq!(length, inner_length(rest, *udp));
    let (Ok(()), Ok(length)) = (udp_follows, length) else { return false };
    datagram(rest, length);
    true
}

/// A whole datagram with an inner packet of `length` bytes: all of it is there, and the one-pass checksum agrees with
/// the plain one, sealed or authenticated.
fn datagram(packet: &[u8], length: usize) {
    let (headers, text) = packet.split_first_chunk::<OVERHEAD>().expect("an inner length implies headers");
    assert_eq!(text.len(), length);
    let (ip, udp, mtd) = parts(headers);
    let sound = udp[6..] != [0, 0] && plain_sum(packet, 17) == 0xffff;
    let mut opened = text.to_vec();
    let nonce = aead::nonce(SLOT.slot as u32, outer::sequence(mtd, &MASK));
    for operation in [Operation::Authenticate, Operation::Open] {
        let sums = run(operation, nonce, &mut opened).expect("not over the maximum");
        assert_eq!(outer::checksum_valid(ip, udp, mtd, sums.checksum), sound, "{operation:?}");
    }
    let sums = run(Operation::Seal, nonce, &mut opened).expect("not over the maximum");
    assert_eq!(opened, text, "sealing undoes opening");
    assert_eq!(outer::checksum_valid(ip, udp, mtd, sums.checksum), sound);
}

/// What is sealed and written is read back; with one bit flipped it is refused, where the bit is not the network's to
/// change. Bytes: addresses (32), ports (4), sequence (8), ECN (1), bit (2), then the inner packet.
pub fn tunnel(mut data: &[u8]) -> bool {
    let Some(local_address) = take(&mut data) else { return false };
    let Some(peer_address) = take(&mut data) else { return false };
    let (Some(local_port), Some(peer_port)) = (take(&mut data), take(&mut data)) else { return false };
    let Some(sequence) = take(&mut data).map(u64::from_le_bytes) else { return false };
    let (Some([ecn]), Some(bit)) = (take(&mut data), take(&mut data)) else { return false };
    let inner = data;
    let nonce = aead::nonce(SLOT.slot as u32, sequence);
    let mut sealed = inner.to_vec();
    let Some(Sums { tag, checksum }) = run(Operation::Seal, nonce, &mut sealed) else {
        assert!(inner.len() > MAX_TEXT);
        return false;
    };
    let mut packet = vec![0; OVERHEAD];
    let headers = packet.first_chunk_mut().expect("room for the headers");
    let (local, peer) = (halves(&local_address), halves(&peer_address));
    let (inner_length, ecn) = (inner.len() as u16, ecn & 3);
    let sent = Send {
        local,
        peer,
        local_port,
        peer_port,
        mask: &MASK,
        sequence,
        tag,
        checksum,
        inner: inner_length,
        ecn,
    };
    sent.write(headers);
    packet.append(&mut sealed);
    assert_eq!(plain_sum(&packet, 17), 0xffff);
    if inner.len() < MIN_INNER {
        assert_eq!(receive(&sent, &packet), Err(DropReason::TooShort));
        return false;
    }
    assert_eq!(receive(&sent, &packet).as_deref(), Ok(inner));
    assert_eq!(packet[1], ecn << 4);
    let bit = usize::from(u16::from_le_bytes(bit)) % (packet.len() * 8);
    packet[bit / 8] ^= 0x80 >> (bit % 8);
    // Traffic class and hop limit.
    let of_the_network = (4..12).contains(&bit) || (56..64).contains(&bit);
    assert_eq!(receive(&sent, &packet).is_ok(), of_the_network, "bit {bit}");
    true
}

/// What the receive program does with a packet to the peer of `sent`, in the same order.
fn receive(sent: &Send<'_>, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let (headers, text) = packet.split_first_chunk::<OVERHEAD>().ok_or(DropReason::Truncated)?;
    let (ip, udp, mtd) = parts(headers);
    if halves(outer::destination(ip)) != sent.peer {
        return Err(DropReason::UnknownAddress);
    }
    outer::require_udp(ip)?;
    let slot =
        Slot { local_port: sent.peer_port, peer_port: sent.local_port, peer_low: *sent.local[1], ..SLOT };
    outer::require_peer(&session(*sent.local[0]), &slot, ip, udp)?;
    assert_eq!(outer::inner_length(ip, udp, packet.len(), MTU)?, text.len());
    let mut text = text.to_vec();
    let nonce = aead::nonce(slot.slot as u32, outer::sequence(mtd, &MASK));
    let sums = run(Operation::Open, nonce, &mut text).ok_or(DropReason::Oversized)?;
    if !aead::verify(sums.tag, outer::tag(mtd)) {
        return Err(DropReason::BadTag);
    }
    if outer::checksum_valid(ip, udp, mtd, sums.checksum) { Ok(text) } else { Err(DropReason::BadChecksum) }
}

/// An opened inner packet: its facts are those of its header, and a congestion mark changes nothing else.
pub fn inner(data: &[u8]) -> bool {
    let Some(&first) = data.first() else { return false };
    assert_eq!(inner::version(first), first >> 4);
    let mut accepted = false;
    if let Some(header) = data.first_chunk::<{ inner::IPV4 }>() {
        let read = inner::ipv4(header, data.len());
        let words = usize::from(first & 15);
        let total = usize::from(u16::from_be_bytes([data[2], data[3]]));
        let sound = first >> 4 == 4 && words >= 5 && words * 4 <= data.len() && total == data.len();
        assert_eq!(read.is_ok(), sound);
        if let Ok(facts) = read {
            assert_eq!((facts.version, facts.ethertype, facts.ecn), (4, 0x0800, header[1] & 3));
            assert_eq!([facts.source, facts.destination], [mapped(&header[12..16]), mapped(&header[16..20])]);
            mark_ipv4(header, data.len(), facts);
            accepted = true;
        }
    }
    if let Some(header) = data.first_chunk::<IPV6>() {
        let read = inner::ipv6(header, data.len());
        let payload = usize::from(u16::from_be_bytes([data[4], data[5]]));
        let [source, destination] = [&header[8..24], &header[24..40]];
        let no_mapped = [source, destination].iter().all(|address| **address != mapped(&address[12..]));
        assert_eq!(read.is_ok(), first >> 4 == 6 && payload + IPV6 == data.len() && no_mapped);
        if let Ok(facts) = read {
            assert_eq!((facts.version, facts.ethertype, facts.ecn), (6, 0x86dd, header[1] >> 4 & 3));
            assert_eq!([&facts.source[..], &facts.destination], [source, destination]);
            mark_ipv6(header, data.len(), facts);
            accepted = true;
        }
    }
    accepted
}

fn mark_ipv4(header: &[u8; inner::IPV4], length: usize, facts: Inner) {
    for ecn in marks(facts.ecn) {
        let mut marked = *header;
        inner::set_ipv4_ecn(&mut marked, ecn);
        assert_eq!(inner::ipv4(&marked, length), Ok(Inner { ecn, ..facts }));
        let without_options = header[0] & 15 == 5;
        if without_options && fold(header) == 0xffff {
            assert_eq!(fold(&marked), 0xffff, "a right header checksum stays right");
        }
        marked[1] ^= ecn ^ facts.ecn;
        marked[10..12].copy_from_slice(&header[10..12]);
        assert_eq!(marked, *header, "only the mark and the checksum change");
    }
}

fn mark_ipv6(header: &[u8; IPV6], length: usize, facts: Inner) {
    for ecn in marks(facts.ecn) {
        let mut marked = *header;
        inner::set_ipv6_ecn(&mut marked, ecn);
        assert_eq!(inner::ipv6(&marked, length), Ok(Inner { ecn, ..facts }));
        marked[1] ^= (ecn ^ facts.ecn) << 4;
        assert_eq!(marked, *header, "only the mark changes");
    }
}

/// The codepoints that a packet with this one can leave the tunnel with. Congestion is never hidden.
fn marks(inner_ecn: u8) -> impl Iterator<Item = u8> {
    (0..4).filter_map(move |outer_ecn| match inner::decapsulated_ecn(inner_ecn, outer_ecn) {
        Ok(ecn) => {
            assert!(ecn == 3 || (inner_ecn != 3 && outer_ecn != 3));
            Some(ecn)
        }
        Err(reason) => {
            assert_eq!((reason, inner_ecn, outer_ecn), (DropReason::Ecn, 0, 3));
            None
        }
    })
}

/// A frame as a neighbour solicitation: only a sound one is answered, and the answer is sound itself.
pub fn neighbour(data: &[u8]) -> bool {
    let Some(packet) = data.get(ETHERNET..) else { return false };
    let Some((ip, icmp)) = packet.split_first_chunk::<IPV6>() else { return false };
    let Some(start) = icmp.first_chunk::<{ ndp::SOLICITATION_LENGTH }>() else { return false };
    let solicitation = ndp::is_solicitation(ip, start);
    assert_eq!(solicitation, ip[6] == 58 && icmp[0] == 135);
    assert_eq!(icmp[8..24], *ndp::target(start));
    let Some(whole) = icmp.first_chunk::<{ ndp::WITH_OPTION }>() else { return false };
    let answerable = ndp::require_answerable(ip, whole, packet.len());
    if !solicitation || answerable.is_err() {
        return false;
    }
    assert_eq!((ip[0] >> 4, ip[7], u16::from_be_bytes([ip[4], ip[5]])), (6, 255, 32));
    assert_eq!((icmp.len(), icmp[1], plain_sum(packet, 58)), (32, 0, 0xffff));
    let mut frame: [u8; ndp::FRAME] = data.try_into().expect("an answerable frame has one length");
    let (asker, asker_mac) = (*outer::source(ip), &data[6..12]);
    ndp::advertise(&mut frame, [2, 0, 0, 0, 0, 1]);
    assert_eq!([&frame[..6], &frame[6..12]], [asker_mac, &[2, 0, 0, 0, 0, 1]]);
    assert_eq!([&frame[22..38], &frame[38..54]], [&icmp[8..24], &asker]);
    assert_eq!((frame[20], frame[21], frame[54], frame[55]), (58, 255, 136, 0));
    assert_eq!(frame[62..78], icmp[8..24]);
    assert_eq!(plain_sum(&frame[ETHERNET..], 58), 0xffff);
    true
}

fn run(operation: Operation, nonce: [u32; 3], text: &mut [u8]) -> Option<Sums> {
    let length = text.len();
    aead::pass(operation, &KEY, nonce, &mut Buffer(text), length, &mut Pass::default())
}

fn parts(headers: &[u8; OVERHEAD]) -> (&[u8; IPV6], &[u8; UDP], &[u8; MTD]) {
    (
        bytes::part::<0, IPV6, OVERHEAD>(headers),
        bytes::part::<IPV6, UDP, OVERHEAD>(headers),
        bytes::part::<{ IPV6 + UDP }, MTD, OVERHEAD>(headers),
    )
}

fn is_protected(address: &[u8; 16], count: usize) -> bool {
    let address = u128::from_be_bytes(*address);
    let inside = |(high, low, bits): &(u64, u64, u32)| {
        address >> (128 - bits) == (u128::from(*high) << 64 | u128::from(*low)) >> (128 - bits)
    };
    PREFIXES[..count].iter().any(inside)
}

fn require_peer(ip: &[u8; IPV6], udp: [u8; UDP]) -> Result<(), DropReason> {
    match (
        udp[2..4] == SLOT.local_port,
        udp[..2] == SLOT.peer_port && ip[8..16] == PEER_HIGH && ip[16..24] == SLOT.peer_low,
    ) {
        (false, _) => Err(DropReason::WrongPort),
        (true, false) => Err(DropReason::WrongPeer),
        (true, true) => Ok(()),
    }
}

fn inner_length(packet: &[u8], udp: [u8; UDP]) -> Result<usize, DropReason> {
    let first = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
    let lengths = [[packet[4], packet[5]], [udp[4], udp[5]]].map(u16::from_be_bytes).map(usize::from);
    if first >> 28 != 6 {
        Err(DropReason::LengthMismatch)
    } else if first & 0xf_ffff != 0 {
        Err(DropReason::FlowLabel)
    } else if lengths != [packet.len() - IPV6; 2] {
        Err(DropReason::LengthMismatch)
    } else if packet.len() < OVERHEAD + MIN_INNER {
        Err(DropReason::TooShort)
    } else if packet.len() > OVERHEAD + MTU as usize {
        Err(DropReason::Oversized)
    } else {
        Ok(packet.len() - OVERHEAD)
    }
}

fn mapped(ipv4: &[u8]) -> [u8; 16] {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(ipv4);
    address
}

/// RFC 1071, over an IPv6 packet with its pseudo-header (RFC 8200, section 8.1).
fn plain_sum(packet: &[u8], next_header: u8) -> u16 {
    let (ip, payload) = packet.split_at(IPV6);
    let length = (payload.len() as u32).to_be_bytes();
    fold(&[&ip[8..], &length, &[0, 0, 0, next_header], payload].concat())
}

/// The one's complement sum of big-endian words.
fn fold(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}
