//! Control messages (requirement MT-42): what travels with next header 254 inside an introduction or a session.
//!
//! `type (1) ‖ version (1) ‖ reserved (2) ‖ body`. Integers are big-endian. See `docs/wire-format.md`.

use std::net::{Ipv4Addr, Ipv6Addr};

use mtd_common::abi;
use mtd_common::address::{End, Network, is_prefix_length};
use mtd_common::control_record::TYPE_PATH_PROBE;
use mtd_common::packet::inner::mapped;

pub use crate::model::TunnelAddresses as Tunnel;
use crate::model::{self, MIN_INNER_MTU, PERIODS_MS};

/// Version of handshake and control messages.
pub const VERSION: u8 = 1;

/// Bytes in front of a body.
const HEAD: usize = 4;

/// Least time in seconds between the renewal of keys and their end.
const MIN_REKEY_MARGIN: u32 = model::MIN_REKEY_MARGIN.as_secs() as u32;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const TEARDOWN: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const PATH_PROBE_ANSWER: u8 = 9;
const OPENER: u8 = 5;
const PROBE_REQUEST: u8 = 6;
const PROBE: u8 = 7;
const TRANSLATED: u8 = 10;

/// Flag of an opener: answer where you hear this end.
const WHERE_HEARD: u8 = 1;
/// Flag of an opener: this end has heard you in this slot.
const HEARD: u8 = 2;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Configuration request: the first message of a handshake.
    Request(&'a [u8]),
    /// Configuration response: the second message of a handshake.
    Response(&'a [u8]),
    /// The sender has ended the session.
    Teardown(Reason),
    /// Are you there, and what time is it?
    Ping {
        /// The sender's own time, to be sent back.
        stamp: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The stamp of the ping.
        stamp: u64,
        /// Session time in ns at which it was answered.
        time: u64,
    },
    /// The server sees the client at other addresses than its own: a router translates them.
    Translated,
    /// Opens the slot that it is sent in, on the sender's side.
    Opener {
        /// The sender is to be answered only in slots in which it was heard.
        where_heard: bool,
        /// The sender has heard the receiver in this slot.
        heard: bool,
    },
    /// Send probes: in the next slot, and where this end can be answered.
    ProbeRequest {
        /// The sender's own time, to be sent back.
        stamp: u64,
    },
    /// The answer to a request for probes.
    Probe {
        /// The stamp of the request.
        stamp: u64,
    },
    /// Does the path carry a packet as long as this one? Padding follows.
    PathProbe {
        /// To be sent back.
        id: u64,
    },
    /// The answer to a probe of the path.
    PathProbeAnswer {
        /// That of the probe.
        id: u64,
    },
}

/// Why a session was torn down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The program stops.
    Stopping,
    /// The client is no longer registered.
    Removed,
    /// There was no traffic for a long time.
    Idle,
    /// The client's tunnel addresses have changed.
    Renumbered,
    /// A reason of a later version.
    Other(u8),
}

impl Reason {
    const fn number(self) -> u8 {
        match self {
            Self::Stopping => 1,
            Self::Removed => 2,
            Self::Idle => 3,
            Self::Renumbered => 4,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Stopping,
            2 => Self::Removed,
            3 => Self::Idle,
            4 => Self::Renumbered,
            other => Self::Other(other),
        }
    }
}

impl<'a> Control<'a> {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let head = |kind| vec![kind, VERSION, 0, 0];
        match self {
            Self::Request(body) => [&head(REQUEST), *body].concat(),
            Self::Response(body) => [&head(RESPONSE), *body].concat(),
            Self::Teardown(reason) => [head(TEARDOWN), vec![reason.number(), 0, 0, 0]].concat(),
            Self::Ping { stamp } => [head(PING), stamp.to_be_bytes().to_vec()].concat(),
            Self::PathProbe { id } => [head(TYPE_PATH_PROBE), id.to_be_bytes().to_vec()].concat(),
            Self::PathProbeAnswer { id } => [head(PATH_PROBE_ANSWER), id.to_be_bytes().to_vec()].concat(),
            Self::Pong { stamp, time } => {
                [head(PONG), stamp.to_be_bytes().to_vec(), time.to_be_bytes().to_vec()].concat()
            }
            Self::Translated => head(TRANSLATED),
            Self::Opener { where_heard, heard } => {
                let flags = [(*where_heard, WHERE_HEARD), (*heard, HEARD)];
                let flags = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
                // As long as a ping and a probe.
                [head(OPENER), vec![flags, 0, 0, 0, 0, 0, 0, 0]].concat()
            }
            Self::ProbeRequest { stamp } => [head(PROBE_REQUEST), stamp.to_be_bytes().to_vec()].concat(),
            Self::Probe { stamp } => [head(PROBE), stamp.to_be_bytes().to_vec()].concat(),
        }
    }

    /// Reads a message. `None`: not one of this version.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        if head[1..] != [VERSION, 0, 0] {
            return None;
        }
        let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
        match (head[0], body.len()) {
            (REQUEST, _) => Some(Self::Request(body)),
            (RESPONSE, _) => Some(Self::Response(body)),
            (TEARDOWN, 4) if body[1..] == [0, 0, 0] => Some(Self::Teardown(Reason::from_number(body[0]))),
            (PING, 8) => Some(Self::Ping { stamp: number(0)? }),
            (PONG, 16) => Some(Self::Pong { stamp: number(0)?, time: number(8)? }),
            (TRANSLATED, 0) => Some(Self::Translated),
            // Other flags are of later versions.
            (OPENER, 8) => {
                Some(Self::Opener { where_heard: body[0] & WHERE_HEARD != 0, heard: body[0] & HEARD != 0 })
            }
            (PROBE_REQUEST, 8) => Some(Self::ProbeRequest { stamp: number(0)? }),
            (PROBE, 8) => Some(Self::Probe { stamp: number(0)? }),
            (TYPE_PATH_PROBE, _) => Some(Self::PathProbe { id: number(0)? }),
            (PATH_PROBE_ANSWER, 8) => Some(Self::PathProbeAnswer { id: number(0)? }),
            _ => None,
        }
    }

    /// A probe of `length` bytes.
    pub fn path_probe(id: u64, length: usize) -> Vec<u8> {
        let mut message = Self::PathProbe { id }.encode();
        message.resize(length.max(message.len()), 0);
        message
    }
}

/// Payload of the first handshake message: the client's request (36 bytes in the source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's end: its prefix, and a fresh seed for this session.
    pub end: End,
    /// The IPv6 tunnel address that the client had before; zero: none.
    pub tunnel: [u8; 16],
    /// The slot length that the client wishes, in ms; 0: none. Three bytes on the wire, which servers that know of no wishes
    /// accept only as zeros.
    pub period_ms: u32,
}

/// Payload of the second handshake message: the server's configuration for the client (36 bytes in the source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// [`abi::MODE_ENCRYPT`] or [`abi::MODE_AUTHENTICATE`].
    pub mode: u8,
    /// The server's end: its prefix, and a fresh seed for this session.
    pub end: End,
    /// Slot length in ms.
    pub period_ms: u32,
    /// Seconds after which the client asks for new keys.
    pub rekey_after: u32,
    /// Seconds after which these keys end to be valid.
    pub expire_after: u32,
    /// Longest inner packet of the server, in bytes.
    pub inner_mtu: u16,
    /// Session time in ns at which the answer was made.
    pub time: u64,
    /// The client's tunnel addresses.
    pub client: Tunnel,
    /// The server's tunnel addresses.
    pub server: Tunnel,
}

impl Tunnel {
    /// As the maps have it: IPv6, then IPv4 as `::ffff:a.b.c.d`, zeros for none.
    pub fn to_map(&self) -> [[u8; 16]; 2] {
        let v4 = self.v4.map_or([0; 16], |address| mapped(address.octets()));
        [self.v6.map_or([0; 16], |address| address.octets()), v4]
    }

    /// From the form of the maps.
    pub fn from_map([v6, v4]: [[u8; 16]; 2]) -> Self {
        let v6 = Ipv6Addr::from(v6);
        let v4 = Ipv6Addr::from(v4).to_ipv4_mapped();
        Self { v6: Some(v6).filter(|address| !address.is_unspecified()), v4 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        out.extend(self.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (v6, v4) = (Ipv6Addr::from(reader.take::<16>()?), Ipv4Addr::from(reader.take::<4>()?));
        let unfit = v6.is_multicast() || v6.is_loopback() || v4.is_multicast() || v4.is_loopback();
        (!unfit && v6.to_ipv4_mapped().is_none() && !v4.is_broadcast()).then(|| Self {
            v6: Some(v6).filter(|address| !address.is_unspecified()),
            v4: Some(v4).filter(|address| !address.is_unspecified()),
        })
    }
}

impl Request {
    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let [_, wish @ ..] = self.period_ms.to_be_bytes();
        let mut out = vec![self.end.network.length];
        out.extend(wish);
        encode_end(&self.end, &mut out);
        out.extend(self.tunnel);
        out
    }

    /// Reads a payload. `None`: it is not sound.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [length, wish @ ..] = reader.take::<4>()?;
        let end = decode_end(length, &mut reader)?;
        let period_ms = u32::from_be_bytes([0, wish[0], wish[1], wish[2]]);
        let request = Self { end, tunnel: reader.take()?, period_ms };
        let possible = period_ms == 0 || PERIODS_MS.contains(&period_ms);
        (reader.0.is_empty() && possible).then_some(request)
    }
}

impl Response {
    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.end.network.length, self.mode, 0, 0];
        encode_end(&self.end, &mut out);
        out.extend(self.period_ms.to_be_bytes());
        out.extend(self.rekey_after.to_be_bytes());
        out.extend(self.expire_after.to_be_bytes());
        out.extend(self.inner_mtu.to_be_bytes());
        out.extend([0; 2]);
        out.extend(self.time.to_be_bytes());
        self.client.encode(&mut out);
        self.server.encode(&mut out);
        out
    }

    /// Reads a payload. `None`: it is not sound.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [length, mode, reserved @ ..] = reader.take::<4>()?;
        let response = Self {
            mode,
            end: decode_end(length, &mut reader)?,
            period_ms: u32::from_be_bytes(reader.take()?),
            rekey_after: u32::from_be_bytes(reader.take()?),
            expire_after: u32::from_be_bytes(reader.take()?),
            inner_mtu: u16::from_be_bytes(reader.take()?),
            time: {
                let [0, 0] = reader.take::<2>()? else { return None };
                u64::from_be_bytes(reader.take()?)
            },
            client: Tunnel::decode(&mut reader)?,
            server: Tunnel::decode(&mut reader)?,
        };
        let known_mode = matches!(u32::from(mode), abi::MODE_ENCRYPT | abi::MODE_AUTHENTICATE);
        let sound = reader.0.is_empty()
            && reserved == [0; 2]
            && known_mode
            && PERIODS_MS.contains(&response.period_ms)
            && response.rekey_after >= 1
            && response.expire_after.saturating_sub(response.rekey_after) >= MIN_REKEY_MARGIN
            && response.inner_mtu >= MIN_INNER_MTU
            && (response.client.v6.is_some() || response.client.v4.is_some());
        sound.then_some(response)
    }
}

fn encode_end(end: &End, out: &mut Vec<u8>) {
    out.extend(end.network.prefix);
    out.extend(end.seed);
}

fn decode_end(length: u8, reader: &mut Reader<'_>) -> Option<End> {
    let end = End { network: Network { prefix: reader.take()?, length }, seed: reader.take()? };
    let prefix = ipnet::Ipv6Net::new(end.network.prefix.into(), length).ok()?;
    let sound = is_prefix_length(length)
        && prefix.network() == prefix.addr()
        && !prefix.addr().is_unspecified()
        && !prefix.addr().is_multicast();
    sound.then_some(end)
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use mtd_common::control_record::PROBE_HEAD;
    use proptest::prelude::*;

    use super::*;

    fn end() -> End {
        let prefix = "2001:db8:1:2::".parse::<Ipv6Addr>().unwrap().octets();
        End { network: Network { prefix, length: 64 }, seed: [7; 8] }
    }

    fn response() -> Response {
        Response {
            mode: 1,
            end: end(),
            period_ms: 3000,
            rekey_after: 120,
            expire_after: 180,
            inner_mtu: 1428,
            time: 1_800_000_000_000_000_000,
            client: Tunnel { v6: Some("fd00::2".parse().unwrap()), v4: Some(Ipv4Addr::new(10, 0, 0, 2)) },
            server: Tunnel { v6: Some("fd00::1".parse().unwrap()), v4: None },
        }
    }

    #[test]
    fn messages_round_trip() {
        for message in [
            Control::Request(b"abc"),
            Control::Response(b""),
            Control::Teardown(Reason::Idle),
            Control::Teardown(Reason::Other(77)),
            Control::Ping { stamp: 5 },
            Control::Pong { stamp: 5, time: u64::MAX },
            Control::Translated,
            Control::Opener { where_heard: true, heard: false },
            Control::Opener { where_heard: false, heard: true },
            Control::ProbeRequest { stamp: 6 },
            Control::Probe { stamp: 7 },
            Control::PathProbe { id: 6 },
            Control::PathProbeAnswer { id: u64::MAX },
        ] {
            assert_eq!(Control::decode(&message.encode()), Some(message));
        }
        let long = Control::path_probe(7, 1388);
        assert_eq!((long.len(), Control::decode(&long)), (1388, Some(Control::PathProbe { id: 7 })));
        assert_eq!(
            Control::decode(&long[..PROBE_HEAD]),
            Some(Control::PathProbe { id: 7 }),
            "its head is enough"
        );
        for period_ms in [0, 1_000, 30_000, 3_600_000] {
            let request = Request { end: end(), tunnel: [3; 16], period_ms };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Response::decode(&response().encode()), Some(response()));
        let tunnel = response().client;
        assert_eq!(Tunnel::from_map(tunnel.to_map()), tunnel);
        assert_eq!(Tunnel::from_map(Tunnel::default().to_map()), Tunnel::default());
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        for bad in [
            Response { period_ms: 999, ..response() },
            Response { rekey_after: 0, ..response() },
            Response { rekey_after: 180, ..response() },
            Response { rekey_after: u32::MAX, expire_after: u32::MAX, ..response() },
            Response { mode: 3, ..response() },
            Response { inner_mtu: 1279, ..response() },
            Response { client: Tunnel::default(), ..response() },
            Response { end: End { network: Network { length: 63, ..end().network }, ..end() }, ..response() },
            Response { client: Tunnel { v4: Some(Ipv4Addr::BROADCAST), v6: None }, ..response() },
        ] {
            assert_eq!(Response::decode(&bad.encode()), None, "{bad:?}");
        }
        let mut host_bits = end();
        host_bits.network.prefix[15] = 1;
        for (end, period_ms) in [(host_bits, 0), (end(), 999), (end(), 3_600_001)] {
            assert_eq!(Request::decode(&Request { end, tunnel: [0; 16], period_ms }.encode()), None);
        }
        assert_eq!(Control::decode(&[9, 1, 0, 0]), None);
        let opener = Control::decode(&[5, 1, 0, 0, 0xff, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(
            opener,
            Some(Control::Opener { where_heard: true, heard: true }),
            "with what a later version may add"
        );
        assert_eq!(Control::decode(&[5, 1, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(Control::decode(&[3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = Control::decode(&bytes);
            if let Some(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Some(response) = Response::decode(&bytes) {
                prop_assert_eq!(response.encode(), bytes);
            }
        }
    }
}
