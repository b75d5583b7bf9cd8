//! The payloads of both handshake messages: a fixed part, options, and zeros up to one size, so that no request and no answer
//! stands out by its length.

use std::net::{Ipv4Addr, Ipv6Addr};

use mtd_common::abi;
use mtd_common::address::{End, Network, is_prefix_length};
use mtd_common::control_record::MAX_CONTROL;
use mtd_common::packet::inner::mapped;

use super::options::{self, Capabilities, Instance, Options, Token};
use super::{HEAD, Reason, Text, Tunnel};
use crate::model::{self, MIN_INNER_MTU, PERIODS_MS};
use crate::proto::noise::{MAX_PAYLOAD, REQUEST_OVERHEAD, RESPONSE_OVERHEAD};

/// Bytes of the payload of a first message: with it, the control message is as long as one may be.
pub const REQUEST_BYTES: usize = MAX_CONTROL - HEAD - REQUEST_OVERHEAD;
/// Bytes of the payload of a second message, likewise.
pub const RESPONSE_BYTES: usize = MAX_CONTROL - HEAD - RESPONSE_OVERHEAD;

/// Bytes of the fixed part of a first message …
const REQUEST_FIXED: usize = 44;
/// … and of a second one.
const RESPONSE_FIXED: usize = 92;

/// Least time in seconds between the renewal of keys and their end.
const MIN_REKEY_MARGIN: u32 = model::MIN_REKEY_MARGIN.as_secs() as u32;

const _: () = {
    assert!(REQUEST_BYTES == 668 && RESPONSE_BYTES == 716);
    assert!(REQUEST_BYTES <= MAX_PAYLOAD && RESPONSE_BYTES <= MAX_PAYLOAD);
    // Room for what communities will need in a request: 64 tokens of 6 bytes and a credential of 80.
    let communities = 4 + 64 * 6 + 4 + 80;
    let present = 3 * 4 + 8 + 16 + 16;
    assert!(REQUEST_FIXED + present + communities <= REQUEST_BYTES);
};

/// Payload of the first handshake message: the client's request (36 bytes in the source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's end: its prefix, and a fresh seed for this session.
    pub end: End,
    /// The IPv6 tunnel address that the client had before; zero: none.
    pub tunnel: [u8; 16],
    /// The slot length that the client wishes, in ms; 0: none. Three bytes on the wire.
    pub period_ms: u32,
    /// What the client can do; `None`: it does not say.
    pub capabilities: Option<Capabilities>,
    /// The number of the client's controller.
    pub instance: Option<Instance>,
    /// What the last refusal gave to the client.
    pub token: Option<Token>,
    /// The type of an option that the server must know, and does not. Never written.
    pub unknown: Option<u16>,
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
    /// What the server can do; `None`: it does not say.
    pub capabilities: Option<Capabilities>,
    /// The type of an option that the client must know, and does not. Never written.
    pub unknown: Option<u16>,
}

/// Payload of the second handshake message of a server that gives no session, although it knows the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// To be sent back with the next request.
    pub token: Token,
    /// The reason in words, for people.
    pub text: Text,
}

/// Payload of the second handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The terms of a session.
    Session(Response),
    /// There is no session.
    Denied(Denial),
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
}

fn encode_tunnel(tunnel: &Tunnel, out: &mut Vec<u8>) {
    out.extend(tunnel.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    out.extend(tunnel.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
}

fn decode_tunnel(reader: &mut Reader<'_>) -> Option<Tunnel> {
    let (v6, v4) = (Ipv6Addr::from(reader.take::<16>()?), Ipv4Addr::from(reader.take::<4>()?));
    let unfit = v6.is_multicast() || v6.is_loopback() || v4.is_multicast() || v4.is_loopback();
    (!unfit && v6.to_ipv4_mapped().is_none() && !v4.is_broadcast()).then(|| Tunnel {
        v6: Some(v6).filter(|address| !address.is_unspecified()),
        v4: Some(v4).filter(|address| !address.is_unspecified()),
    })
}

impl Request {
    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST_BYTES);
        let [_, wish @ ..] = self.period_ms.to_be_bytes();
        out.push(self.end.network.length);
        out.extend(wish);
        encode_end(&self.end, &mut out);
        out.extend(self.tunnel);
        put_capabilities(&mut out, self.capabilities);
        if let Some(instance) = &self.instance {
            options::put(&mut out, options::INSTANCE, instance);
        }
        if let Some(token) = &self.token {
            options::put(&mut out, options::TOKEN, token);
        }
        out.resize(REQUEST_BYTES, 0);
        out
    }

    /// Reads a payload. `None`: it is not sound.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        let (fixed, options) = bytes.split_first_chunk::<REQUEST_FIXED>()?;
        let mut reader = Reader(fixed);
        let [length, wish @ ..] = reader.take::<4>()?;
        let end = decode_end(length, &mut reader)?;
        let tunnel = reader.take()?;
        let period_ms = u32::from_be_bytes([0, wish[0], wish[1], wish[2]]);
        let possible = period_ms == 0 || PERIODS_MS.contains(&period_ms);
        let Options { capabilities, instance, token, unknown, .. } = Options::read(options).ok()?;
        possible.then_some(Self { end, tunnel, period_ms, capabilities, instance, token, unknown })
    }
}

impl Response {
    fn decode(fixed: &[u8; RESPONSE_FIXED], options: &Options<'_>) -> Option<Self> {
        let mut reader = Reader(fixed);
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
            client: decode_tunnel(&mut reader)?,
            server: decode_tunnel(&mut reader)?,
            capabilities: options.capabilities,
            unknown: options.unknown,
        };
        let known_mode = matches!(u32::from(mode), abi::MODE_ENCRYPT | abi::MODE_AUTHENTICATE);
        let sound = reserved == [0; 2]
            && known_mode
            && PERIODS_MS.contains(&response.period_ms)
            && response.rekey_after >= 1
            && response.expire_after.saturating_sub(response.rekey_after) >= MIN_REKEY_MARGIN
            && response.inner_mtu >= MIN_INNER_MTU
            && (response.client.v6.is_some() || response.client.v4.is_some());
        sound.then_some(response)
    }
}

impl Denial {
    /// `reason (1) ‖ reserved (1) = 0 ‖ token (16) ‖ text`.
    fn decode(value: &[u8]) -> Option<Self> {
        let (&[reason, 0], rest) = value.split_first_chunk::<2>()? else { return None };
        let (token, text) = rest.split_first_chunk()?;
        Some(Self { reason: Reason::from_number(reason), token: *token, text: Text::decode(text)? })
    }
}

impl Reply {
    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RESPONSE_BYTES);
        match self {
            Self::Session(response) => {
                out.extend([response.end.network.length, response.mode, 0, 0]);
                encode_end(&response.end, &mut out);
                out.extend(response.period_ms.to_be_bytes());
                out.extend(response.rekey_after.to_be_bytes());
                out.extend(response.expire_after.to_be_bytes());
                out.extend(response.inner_mtu.to_be_bytes());
                out.extend([0; 2]);
                out.extend(response.time.to_be_bytes());
                encode_tunnel(&response.client, &mut out);
                encode_tunnel(&response.server, &mut out);
                put_capabilities(&mut out, response.capabilities);
            }
            Self::Denied(denial) => {
                out.resize(RESPONSE_FIXED, 0);
                let text = denial.text.as_str().as_bytes();
                let value = [&[denial.reason.number(), 0], &denial.token[..], text].concat();
                options::put(&mut out, options::DENIAL | options::CRITICAL, &value);
            }
        }
        out.resize(RESPONSE_BYTES, 0);
        out
    }

    /// Reads a payload. `None`: it is not sound.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RESPONSE_BYTES] = bytes.try_into().ok()?;
        let (fixed, options) = bytes.split_first_chunk::<RESPONSE_FIXED>()?;
        let options = Options::read(options).ok()?;
        match options.denial {
            Some(denial) if *fixed == [0; RESPONSE_FIXED] => Denial::decode(denial).map(Self::Denied),
            Some(_) => None,
            None => Response::decode(fixed, &options).map(Self::Session),
        }
    }
}

fn put_capabilities(out: &mut Vec<u8>, capabilities: Option<Capabilities>) {
    if let Some(Capabilities(bits)) = capabilities {
        options::put(out, options::CAPABILITIES, &bits.to_be_bytes());
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
