//! A session: keys, ends and times, of which its addresses follow. Statically configured (requirement MT-27),
//! negotiated by a handshake (MT-42, MT-43), or the introduction that a handshake goes through (MT-22, MT-41).

use std::time::Duration;

use hkdf::Hkdf;
use mtd_common::abi::{self, DirectionKeys};
use mtd_common::address::{End, Endpoint, Network, endpoints};
use mtd_common::bytes::part;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::exchange::SECOND;
use super::noise::Secrets;
use crate::keys::SecretKey;
use crate::model::{Mode, SessionNs};

/// Domains of all keys derived here (`docs/wire-format.md`).
const STATIC: &[u8] = b"mtd v1 static session";
const NEGOTIATED: &[u8] = b"mtd v1 session";
const INTRODUCTION: &[u8] = b"mtd v1 introduction";

/// Everything about a session that does not change while it lasts. Both ends derive the same.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Session {
    /// Own end.
    #[zeroize(skip)]
    pub local: End,
    /// The peer's end.
    #[zeroize(skip)]
    pub remote: End,
    /// Keys that seal what we send.
    #[zeroize(skip)]
    pub tx: Keys,
    /// Keys that open what the peer sends.
    #[zeroize(skip)]
    pub rx: Keys,
    /// Slot length in ns.
    pub period: u64,
    /// Phase of the slots in ns, below `period`.
    pub phase: u64,
    /// [`abi::MODE_ENCRYPT`], [`abi::MODE_AUTHENTICATE`] or [`abi::MODE_INTRODUCTION`].
    pub mode: u32,
    /// Session time from which on no slot is live; [`SessionNs::NEVER`]: no end.
    #[zeroize(skip)]
    pub until: SessionNs,
    /// Whose address is derived first.
    #[zeroize(skip)]
    order: Order,
    address_key: [u8; 32],
}

/// The inputs of a statically configured session (requirement MT-27).
#[derive(Clone, Copy, Debug)]
pub struct Static<'a> {
    /// Own end.
    pub local: End,
    /// The peer's end.
    pub remote: End,
    /// The pre-shared key.
    pub key: &'a SecretKey,
    /// Slot length.
    pub period: Duration,
    /// What is done to inner packets.
    pub mode: Mode,
}

/// Which end's address gives way where both derive the same (requirement MT-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The remote end's.
    LocalFirst,
    /// The local end's.
    RemoteFirst,
    /// There is no remote end: anybody may send (the server's introduction).
    Alone,
}

/// [`DirectionKeys`] that are overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(pub DirectionKeys);

impl Drop for Keys {
    fn drop(&mut self) {
        self.0.seal.zeroize();
        self.0.mask.zeroize();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("period", &self.period).finish_non_exhaustive()
    }
}

impl Session {
    /// Derives a statically configured session.
    pub fn new<'a>(parameters: impl Into<Static<'a>>) -> Self {
        let Static { local, remote, key, period, mode: chosen } = parameters.into();
        let mode = mode(chosen);
        let period = nanoseconds(period);
        let order = order(&local, &remote);
        let (first, second) = if order == Order::LocalFirst { (&local, &remote) } else { (&remote, &local) };
        let mut context = Vec::with_capacity(28);
        context.extend(first.seed);
        context.extend(second.seed);
        context.extend(period.to_be_bytes());
        context.extend(mode.to_be_bytes());
        let schedule = Schedule::new(STATIC, key.as_bytes(), context);
        let phase = schedule.phase(period);
        let labels = [b"first to second", b"second to first"];
        let [tx, rx] = schedule.directions(order == Order::LocalFirst, labels.map(<[u8; 15]>::as_slice));
        let address_key = schedule.expand(b"address");
        Self { local, remote, tx, rx, period, phase, mode, until: SessionNs::NEVER, order, address_key }
    }

    /// The session that a handshake has led to.
    pub fn negotiated(secrets: &Secrets, role: Role, ends: Ends, terms: Terms) -> Self {
        let mut context = Vec::with_capacity(44);
        context.extend(secrets.hash);
        context.extend(terms.period.to_be_bytes());
        context.extend(terms.mode.to_be_bytes());
        let schedule = Schedule::new(NEGOTIATED, &secrets.keys, context);
        let [tx, rx] = schedule.directions(role == Role::Client, DIRECTIONS);
        Self {
            tx,
            rx,
            period: terms.period,
            phase: schedule.phase(terms.period),
            mode: terms.mode,
            until: terms.until,
            order: order(&ends.local, &ends.remote),
            address_key: schedule.expand(b"address"),
            local: ends.local,
            remote: ends.remote,
        }
    }

    /// A session that another controller negotiated, from what it left.
    pub fn adopted(parts: Parts) -> Self {
        let Parts { tx, rx, address_key, ends, terms, phase } = parts;
        Self {
            tx,
            rx,
            period: terms.period,
            phase,
            mode: terms.mode,
            until: terms.until,
            order: order(&ends.local, &ends.remote),
            address_key,
            local: ends.local,
            remote: ends.remote,
        }
    }

    /// The server's introduction of the window that starts at `window` (Unix time in s), with slots of `period` ns.
    pub fn introduction(server: End, key: &[u8; 32], window: u64, period: u64) -> Self {
        let nobody = End { network: Network { prefix: [0; 16], length: 64 }, seed: [0; 8] };
        Self::introduced(Role::Server, Ends { local: server, remote: nobody }, key, window, period)
    }

    /// The client's end of an introduction.
    pub fn to_introduction(ends: Ends, key: &[u8; 32], window: u64, period: u64) -> Self {
        Self::introduced(Role::Client, ends, key, window, period)
    }

    fn introduced(role: Role, ends: Ends, key: &[u8; 32], window: u64, period: u64) -> Self {
        let schedule = Schedule::new(INTRODUCTION, key, window.to_be_bytes().to_vec());
        let [tx, rx] = schedule.directions(role == Role::Client, DIRECTIONS);
        Self {
            tx,
            rx,
            period,
            phase: 0,
            mode: abi::MODE_INTRODUCTION,
            until: SessionNs::NEVER,
            order: if role == Role::Server { Order::Alone } else { Order::RemoteFirst },
            address_key: *key,
            local: ends.local,
            remote: ends.remote,
        }
    }

    /// A session of given parts, encrypting.
    #[cfg(test)]
    pub(crate) fn for_test(local: End, remote: End, tx: Keys, rx: Keys, period: u64, phase: u64) -> Self {
        let (order, mode, until) = (order(&local, &remote), abi::MODE_ENCRYPT, SessionNs::NEVER);
        Self { local, remote, tx, rx, period, phase, mode, until, order, address_key: [3; 32] }
    }

    /// Own and the peer's endpoint in a slot. Where anybody may send, the peer's is all zeros.
    pub fn endpoints(&self, slot: u64) -> (Endpoint, Endpoint) {
        match self.order {
            Order::LocalFirst => endpoints(&self.local, &self.remote, &self.address_key, slot),
            Order::RemoteFirst => {
                let (remote, local) = endpoints(&self.remote, &self.local, &self.address_key, slot);
                (local, remote)
            }
            Order::Alone => {
                // The first end's endpoint does not depend on the second end.
                let (local, _) = endpoints(&self.local, &self.local, &self.address_key, slot);
                (local, Endpoint { address: [0; 16], port: 0 })
            }
        }
    }

    /// The endpoint of a client that comes through this introduction, in a slot.
    pub fn introduced_client(&self, client: &End, slot: u64) -> Endpoint {
        endpoints(&self.local, client, &self.address_key, slot).1
    }

    /// How long the sessions that this one replaces are received through for, once something valid has come through it, in ns.
    pub const fn overlap(&self) -> u64 {
        self.period + SECOND
    }

    /// Whether this end is the first one.
    pub fn is_first(&self) -> bool {
        self.order != Order::RemoteFirst
    }

    /// The key of the addresses, for the next controller.
    pub const fn address_key(&self) -> &[u8; 32] {
        &self.address_key
    }

    /// Inner addresses of control messages, the client's and the server's, or where nothing was negotiated those of the first
    /// and the second end: in `fd6d:7464::/32`, the rest from the key of the addresses.
    pub fn control_addresses(&self) -> [[u8; 16]; 2] {
        DIRECTIONS.map(|from| {
            let mut hash = Sha256::new();
            hash.update(b"mtd v1 control address");
            hash.update(self.address_key);
            hash.update(from);
            let mut address: [u8; 16] = [0; 16];
            address[..4].copy_from_slice(&[0xfd, 0x6d, 0x74, 0x64]);
            address[4..].copy_from_slice(&hash.finalize()[..12]);
            address
        })
    }

    /// The element for the session table, of a peer with these inner addresses ([`abi::Session::peer_tunnel`]) and this
    /// number.
    pub fn element(
        &self,
        generation: u32,
        clock_offset: u64,
        peer: u32,
        peer_tunnel: [[u8; 16]; 2],
    ) -> abi::Session {
        abi::Session {
            generation,
            mode: self.mode,
            clock_offset,
            period: self.period,
            phase: self.phase,
            rx: self.rx.0,
            tx: self.tx.0,
            until: self.until.0,
            local_high: *part::<0, 8, 16>(&self.local.network.prefix),
            peer_high: *part::<0, 8, 16>(&self.remote.network.prefix),
            peer_tunnel,
            peer,
            flags: if self.order == Order::Alone { abi::FLAG_ANYBODY } else { 0 },
        }
    }

    /// The data to which a handshake for new keys is bound: it is the same at both ends, and reveals nothing about the keys.
    pub fn binding(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"mtd v1 rekey");
        hash.update(self.address_key);
        hash.finalize().into()
    }

    /// A name for the session that says nothing of its keys: what its state is stored under.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"mtd v1 session fingerprint");
        hash.update(self.rx.0.seal);
        hex::encode(&hash.finalize()[..16])
    }
}

/// Which end of a handshake this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connects.
    Client,
    /// It listens.
    Server,
}

/// Both ends of a session.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Own end.
    pub local: End,
    /// The peer's end.
    pub remote: End,
}

/// The results of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Slot length in ns.
    pub period: u64,
    /// See [`Session::mode`].
    pub mode: u32,
    /// See [`Session::until`].
    pub until: SessionNs,
}

/// The parts of a session that another controller negotiated.
pub struct Parts {
    /// Keys that seal what we send.
    pub tx: Keys,
    /// Keys that open what the peer sends.
    pub rx: Keys,
    /// The key of the addresses.
    pub address_key: [u8; 32],
    /// Both ends.
    pub ends: Ends,
    /// What was agreed on.
    pub terms: Terms,
    /// Phase of the slots in ns.
    pub phase: u64,
}

/// Labels of the two directions, the client's first.
const DIRECTIONS: [&[u8]; 2] = [b"client to server", b"server to client"];

/// The end with the lower seed is the first one, whichever of the two computes it.
fn order(local: &End, remote: &End) -> Order {
    if local.seed < remote.seed { Order::LocalFirst } else { Order::RemoteFirst }
}

/// The end of a session that has addresses in `prefix`, with its seed IID in network order.
pub fn end(prefix: ipnet::Ipv6Net, seed: [u8; 8]) -> End {
    End { network: network(prefix), seed }
}

/// A prefix as addresses are derived from it.
pub fn network(prefix: ipnet::Ipv6Net) -> Network {
    Network { prefix: prefix.network().octets(), length: prefix.prefix_len() }
}

/// A configured mode as the programs know it.
pub const fn mode(mode: Mode) -> u32 {
    match mode {
        Mode::Encrypt => abi::MODE_ENCRYPT,
        Mode::Authenticate => abi::MODE_AUTHENTICATE,
    }
}

/// A duration in ns; configured durations fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// HKDF-SHA-256 (RFC 5869). Everything that both ends must agree on is part of `info`, so that a difference in any of
/// it makes every key another one.
struct Schedule {
    hkdf: Hkdf<Sha256>,
    context: Vec<u8>,
}

impl Schedule {
    fn new(salt: &[u8], key: &[u8], context: Vec<u8>) -> Self {
        Self { hkdf: Hkdf::new(Some(salt), key), context }
    }

    fn phase(&self, period: u64) -> u64 {
        u64::from_be_bytes(self.expand(b"phase")) % period.max(1)
    }

    /// Keys that seal what we send, and that open what the peer sends; we send in the first direction or in the other.
    fn directions(&self, first: bool, [one, two]: [&[u8]; 2]) -> [Keys; 2] {
        let keys = [self.direction(one), self.direction(two)];
        if first {
            keys
        } else {
            let [one, two] = keys;
            [two, one]
        }
    }

    fn expand<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        if self.hkdf.expand_multi_info(&[&self.context, label], &mut out).is_err() {
            unreachable!("HKDF-SHA-256 yields up to 8,160 bytes");
        }
        out
    }

    fn direction(&self, label: &[u8]) -> Keys {
        Keys(DirectionKeys {
            seal: self.expand(&[label, b" seal"].concat()),
            mask: self.expand(&[label, b" mask"].concat()),
        })
    }
}

#[cfg(test)]
mod tests;
