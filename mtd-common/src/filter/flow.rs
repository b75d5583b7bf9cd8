//! What a filter has to know of an inner packet. Extension headers and fragments do not hide it; what cannot be read is no
//! flow, and does not pass.

use crate::aead::BLOCK;
use crate::bytes::{be16, part};
use crate::opaque;
use crate::packet::inner::{self, mapped};
use crate::packet::{IPV6, NEXT_ICMPV6, NEXT_TCP, NEXT_UDP};

/// IPv4 protocol: ICMP.
pub const ICMP: u8 = 1;
/// Other protocols with two ports in front: DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 3] = [33, 132, 136];

/// Extension headers that are gone through; what has more is not read.
const MAX_HEADERS: u32 = 8;

/// Bytes of a TCP header up to its flags, and of any header up to its ports.
const TCP_FLAGS: usize = 14;
const PORTS: usize = 4;

/// Flags of TCP.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Bytes of an ICMP error in front of the packet that it is about.
const ERROR: usize = 8;

/// A packet in memory.
pub trait Packet {
    /// Copies the `length` (1–63) bytes from `offset` to the front of `buffer`; `None` where the packet ends before.
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()>;
}

/// What a packet opens.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opens {
    /// Its protocol does not tell: every packet may be the first one.
    #[default]
    Unknown = 0,
    /// A connection (TCP with SYN and without ACK), or an exchange (echo request).
    Something = 1,
    /// Nothing: it belongs to what was opened before, or there is nobody who would take it.
    Nothing = 2,
}

/// Which part of a packet it is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole = 0,
    /// The first part, with all headers.
    First = 1,
    /// A later part, without ports.
    Later = 2,
}

/// What is known of an inner packet. All bytes zero is a valid value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Source; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination; IPv4 as `::ffff:a.b.c.d`.
    pub destination: [u8; 16],
    /// Port of the source, network order.
    pub source_port: [u8; 2],
    /// Port of the destination, network order.
    pub destination_port: [u8; 2],
    /// Identification of a packet in parts.
    pub id: u32,
    /// Offset of the header behind those of IP, in bytes.
    pub payload: u32,
    /// IP version, 4 or 6.
    pub version: u8,
    /// Protocol: the next header behind all extension headers.
    pub protocol: u8,
    /// Whether it has ports.
    pub has_ports: bool,
    /// Whether it is an ICMP error, which is about another packet.
    pub is_error: bool,
    /// What it opens.
    pub opens: Opens,
    /// Which part it is.
    pub part: Part,
    /// Padding.
    pub reserved: [u8; 2],
}

impl Flow {
    /// Reads the packet that begins at `at`. False: it cannot be read. `quoted`: the packet is quoted in an ICMP error, of
    /// which only the ports need be there.
    #[inline(always)]
    pub fn read(&mut self, packet: &impl Packet, at: usize, quoted: bool) -> bool {
        let mut buffer = [0; BLOCK];
        self.has_ports = false;
        self.is_error = false;
        self.opens = Opens::Unknown;
        self.part = Part::Whole;
        if packet.load(at, inner::IPV4, &mut buffer).is_none() {
            return false;
        }
        self.version = inner::version(buffer[0]);
        let next = match self.version {
            4 => self.read_ipv4(at, &buffer),
            6 => self.read_ipv6(packet, at, &mut buffer),
            _ => None,
        };
        let Some(next) = next else { return false };
        self.payload = next as u32;
        self.read_payload(packet, next, quoted, &mut buffer)
    }

    /// Reads the packet that an ICMP error is about, in place of the error. Its sender is the one that the error goes to, so
    /// that it is read as its answer would be: it opens nothing. False: it cannot be read, or is of somebody else.
    #[inline(always)]
    pub fn read_quoted(&mut self, packet: &impl Packet) -> bool {
        let told = self.destination;
        let at = opaque::value(self.payload as usize) + ERROR;
        if !self.read(packet, at, true) || self.source != told {
            return false;
        }
        self.source = self.destination;
        self.destination = told;
        core::mem::swap(&mut self.source_port, &mut self.destination_port);
        self.opens = Opens::Nothing;
        self.is_error = false;
        true
    }

    #[inline(always)]
    fn read_ipv4(&mut self, at: usize, header: &[u8; BLOCK]) -> Option<usize> {
        let words = (header[0] & 0x0f) as usize;
        if words < 5 {
            return None;
        }
        self.source = mapped(*part::<12, 4, BLOCK>(header));
        self.destination = mapped(*part::<16, 4, BLOCK>(header));
        self.protocol = header[9];
        self.id = be16::<4, BLOCK>(header) as u32;
        let place = be16::<6, BLOCK>(header);
        let (offset, more) = (place & 0x1fff, place & 0x2000 != 0);
        self.set_part(offset != 0, more);
        // The second eight bytes of a TCP header would replace its flags (RFC 3128).
        if offset == 1 && self.protocol == NEXT_TCP { None } else { Some(at + words * 4) }
    }

    #[inline(always)]
    fn read_ipv6(&mut self, packet: &impl Packet, at: usize, buffer: &mut [u8; BLOCK]) -> Option<usize> {
        packet.load(at, IPV6, buffer)?;
        self.source = *part::<8, 16, BLOCK>(buffer);
        self.destination = *part::<24, 16, BLOCK>(buffer);
        self.protocol = buffer[6];
        let (mut next, mut headers) = (at + IPV6, 0);
        while self.is_extension() {
            if headers == MAX_HEADERS {
                return None;
            }
            headers += 1;
            packet.load(next, 8, buffer)?;
            let (this, length) = (self.protocol, buffer[1] as usize);
            self.protocol = buffer[0];
            next += match this {
                44 => 8,
                51 => (length + 2) * 4,
                _ => (length + 1) * 8,
            };
            if this == 44 {
                let place = be16::<2, BLOCK>(buffer);
                self.id = u32::from_be_bytes(*part::<4, 4, BLOCK>(buffer));
                self.set_part(place & !7 != 0, place & 1 != 0);
                if matches!(self.part, Part::Later) {
                    break;
                }
            }
        }
        Some(next)
    }

    /// Whether the next header is one of those in front of the payload: hop-by-hop options, routing, fragment,
    /// authentication, destination options, mobility, HIP, Shim6.
    #[inline(always)]
    const fn is_extension(&self) -> bool {
        matches!(self.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
    }

    #[inline(always)]
    const fn set_part(&mut self, later: bool, more: bool) {
        self.part = if later {
            Part::Later
        } else if more {
            Part::First
        } else {
            Part::Whole
        };
    }

    #[inline(always)]
    fn read_payload(
        &mut self,
        packet: &impl Packet,
        next: usize,
        quoted: bool,
        buffer: &mut [u8; BLOCK],
    ) -> bool {
        let is_icmp = self.is_icmp();
        if is_icmp || self.protocol == NEXT_TCP {
            self.opens = Opens::Nothing;
        }
        if matches!(self.part, Part::Later) || is_icmp && quoted {
            return true;
        }
        let length = match self.protocol {
            NEXT_TCP if !quoted => TCP_FLAGS,
            NEXT_TCP | NEXT_UDP => PORTS,
            _ if is_icmp => ERROR,
            other if WITH_PORTS[0] == other || WITH_PORTS[1] == other || WITH_PORTS[2] == other => PORTS,
            _ => return true,
        };
        if packet.load(next, length, buffer).is_none() {
            return false;
        }
        if is_icmp {
            self.read_icmp(buffer[0]);
            return true;
        }
        self.source_port = *part::<0, 2, BLOCK>(buffer);
        self.destination_port = *part::<2, 2, BLOCK>(buffer);
        self.has_ports = true;
        if length == TCP_FLAGS && buffer[13] & (SYN | ACK) == SYN {
            self.opens = Opens::Something;
        }
        true
    }

    /// Whether its protocol is ICMP for its IP version.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.version == 4 && self.protocol == ICMP || self.version == 6 && self.protocol == NEXT_ICMPV6
    }

    #[inline(always)]
    const fn read_icmp(&mut self, kind: u8) {
        let (request, answer) = if self.version == 4 { (8, 0) } else { (128, 129) };
        self.is_error = if self.version == 4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
        self.opens = if kind == request {
            Opens::Something
        } else if kind == answer || self.is_error {
            Opens::Nothing
        } else {
            Opens::Unknown
        };
    }
}

const _: () = assert!(size_of::<Flow>() == 52);
