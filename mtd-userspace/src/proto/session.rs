//! A session with a statically configured peer (requirement MT-27): keys, ends and times that follow from the
//! pre-shared key and the two seeds.

use std::time::Duration;

use hkdf::Hkdf;
use mtd_common::abi::{self, DirectionKeys};
use mtd_common::address::{End, Endpoint, Network, endpoints};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::config::{Mode, Peer};

/// Domain of all keys derived here (`docs/wire-format.md`).
const SALT: &[u8] = b"mtd v1 static session";

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
    /// [`abi::MODE_ENCRYPT`] or [`abi::MODE_AUTHENTICATE`].
    pub mode: u32,
    address_key: [u8; 32],
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
    /// Derives the session with a peer of the configuration.
    pub fn new(peer: &Peer) -> Self {
        let local = End { network: network(peer.local_prefix), seed: peer.seed };
        let remote = End { network: network(peer.prefix), seed: peer.peer_seed };
        let mode = match peer.mode {
            Mode::Encrypt => abi::MODE_ENCRYPT,
            Mode::Authenticate => abi::MODE_AUTHENTICATE,
        };
        let period = nanoseconds(peer.period);
        let schedule = Schedule::new(peer.key.as_bytes(), &local, &remote, period, mode);
        let phase = u64::from_be_bytes(schedule.expand(b"phase")) % period.max(1);
        let (tx, rx) = if local_is_first(&local, &remote) {
            (schedule.direction(b"first to second"), schedule.direction(b"second to first"))
        } else {
            (schedule.direction(b"second to first"), schedule.direction(b"first to second"))
        };
        Self { local, remote, tx, rx, period, phase, mode, address_key: schedule.expand(b"address") }
    }

    /// A session of given parts, encrypting.
    #[cfg(test)]
    pub(super) const fn for_test(
        local: End,
        remote: End,
        tx: Keys,
        rx: Keys,
        period: u64,
        phase: u64,
    ) -> Self {
        Self { local, remote, tx, rx, period, phase, mode: abi::MODE_ENCRYPT, address_key: [3; 32] }
    }

    /// Own and the peer's endpoint in a slot.
    pub fn endpoints(&self, slot: u64) -> (Endpoint, Endpoint) {
        if local_is_first(&self.local, &self.remote) {
            endpoints(&self.local, &self.remote, &self.address_key, slot)
        } else {
            let (remote, local) = endpoints(&self.remote, &self.local, &self.address_key, slot);
            (local, remote)
        }
    }

    /// A name for the session that says nothing of its keys: what its state is stored under.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"mtd v1 session fingerprint");
        hash.update(self.rx.0.seal);
        hex::encode(&hash.finalize()[..16])
    }
}

/// The end with the lower seed is the first one, whichever of the two computes it.
fn local_is_first(local: &End, remote: &End) -> bool {
    local.seed < remote.seed
}

fn network(prefix: ipnet::Ipv6Net) -> Network {
    Network { prefix: prefix.network().octets(), length: prefix.prefix_len() }
}

/// A duration in ns; configured durations fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// HKDF-SHA-256 (RFC 5869) over the pre-shared key. Everything that both ends must agree on is part of `info`, so
/// that a difference in any of it makes every key another one.
struct Schedule {
    hkdf: Hkdf<Sha256>,
    context: Vec<u8>,
}

impl Schedule {
    fn new(key: &[u8; 32], local: &End, remote: &End, period: u64, mode: u32) -> Self {
        let (first, second) = if local_is_first(local, remote) { (local, remote) } else { (remote, local) };
        let mut context = Vec::with_capacity(28);
        context.extend(first.seed);
        context.extend(second.seed);
        context.extend(period.to_be_bytes());
        context.extend(mode.to_be_bytes());
        Self { hkdf: Hkdf::new(Some(SALT), key), context }
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
