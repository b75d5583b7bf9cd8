//! Blind rendezvous (requirements MT-20 … MT-25): what a server and a registered client derive from each other's
//! public keys, and the introduction that the server seals for the client. `docs/wire-format.md` has the layouts.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use mtd_common::address::{Network, PREFIX_LENGTHS, SINGLE_ADDRESS, is_prefix_length};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::keys::{KEY_BYTES, PublicKey, SecretKey};

pub mod carried;
pub mod ports;

/// Default window length in s (MT-20).
pub const DEFAULT_WINDOW: u64 = 900;

/// Window lengths in s that can be configured.
pub const WINDOWS: RangeInclusive<u64> = 60..=86_400;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;

/// Bytes of a sealed introduction: nonce, tag, ciphertext.
pub const SEALED_BYTES: usize = NONCE_BYTES + TAG_BYTES + PLAIN_BYTES;

const TAG_BYTES: usize = 16;
/// Bytes of an introduction before it is sealed.
pub const PLAIN_BYTES: usize = 76;

/// Version of the introduction's layout.
const VERSION: u8 = 1;

/// Domain of the check in a seed that says which versions of the handshake a server takes.
const VERSIONS: &[u8] = b"mtd introduction versions";

/// Domain of the keys derived here.
const SALT: &[u8] = b"mtd v1 rendezvous";

/// Slot lengths in ms that an introduction may offer (MT-04).
const SLOTS: RangeInclusive<u32> = crate::model::PERIODS_MS;

/// The start of the window that Unix time `t` lies in, both in s, for windows of `length` s.
pub const fn window_start(t: u64, length: u64) -> u64 {
    match t.checked_rem(length) {
        Some(elapsed) => t - elapsed,
        None => t,
    }
}

/// The windows that a reader tries at Unix time `t` (s), by their starts: the present one, and at a boundary, where
/// the clocks of both ends may be in different windows, its neighbours (MT-23). The likeliest one comes first.
pub const fn windows_around(t: u64, length: u64) -> [u64; 3] {
    let start = window_start(t, length);
    let (previous, next) = (start.saturating_sub(length), start.saturating_add(length));
    if t - start < length / 2 { [start, previous, next] } else { [start, next, previous] }
}

/// The secret that a server and a client share from public keys alone: `X25519(own private, peer public)`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Shared([u8; KEY_BYTES]);

impl Shared {
    /// The secret shared with the holder of a public key. `None` when the result is all zero: such a key (a point of
    /// small order, RFC 7748 section 6.1) makes the "secret" known to everybody.
    pub fn new(own: &SecretKey, peer: &PublicKey) -> Option<Self> {
        let secret = x25519_dalek::StaticSecret::from(*own.as_bytes());
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*peer.as_bytes()));
        shared.was_contributory().then(|| Self(*shared.as_bytes()))
    }

    /// The secret itself.
    pub(super) const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Seed identifier of the client's end of an introduction (MT-41): the first 8 bytes of
    /// `SHA-256(s || introduction key)`.
    pub fn client_seed(&self, introduction: &Introduction) -> [u8; 8] {
        let digest = Sha256::new().chain_update(self.0).chain_update(introduction.key.as_bytes()).finalize();
        first(&digest)
    }

    /// Descriptor and keys of the window that starts at `window` (Unix time in s).
    pub fn rendezvous(&self, server: &PublicKey, client: &PublicKey, window: u64) -> Rendezvous {
        let t = window.to_be_bytes();
        let hkdf = Hkdf::<Sha256>::new(Some(SALT), &self.0);
        let expand = |label: &[u8]| {
            let mut key = [0; 32];
            if hkdf.expand_multi_info(&[label, &t, server.as_bytes(), client.as_bytes()], &mut key).is_err() {
                unreachable!("HKDF-SHA-256 yields up to 8,160 bytes");
            }
            key
        };
        Rendezvous {
            window,
            descriptor: Descriptor(first(&Sha256::new().chain_update(self.0).chain_update(t).finalize())),
            seal: expand(b"server to client seal"),
            item: expand(b"server to client item"),
        }
    }
}

/// Says only that there is a secret.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared(..)")
    }
}

fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    let Some(bytes) = digest.first_chunk() else { unreachable!("a SHA-256 digest has 32 bytes") };
    *bytes
}

/// Where in the DHT to look. Reveals nothing to anybody who does not know the shared secret. Displays as 40
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Descriptor(pub [u8; 20]);

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({self})")
    }
}

/// Descriptor and keys of one server, one client and one window. Both ends derive the same.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Rendezvous {
    #[zeroize(skip)]
    window: u64,
    #[zeroize(skip)]
    descriptor: Descriptor,
    seal: [u8; 32],
    item: [u8; 32],
}

impl Rendezvous {
    /// Start of the window, Unix time in s.
    pub const fn window(&self) -> u64 {
        self.window
    }

    /// The descriptor: info-hash of the port-stuffed form, name of the window for everybody else.
    pub const fn descriptor(&self) -> Descriptor {
        self.descriptor
    }

    /// Seed of the ed25519 key that signs the mutable item (BEP 44, without salt).
    pub const fn item_seed(&self) -> &[u8; 32] {
        &self.item
    }

    fn associated_data(&self) -> [u8; 39] {
        let mut data = *b"mtd v1 introduction\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        data[19..].copy_from_slice(&self.descriptor.0);
        data
    }
}

/// Without the keys.
impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendezvous")
            .field("window", &self.window)
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

/// The content that a server publishes for one window: how its introduction address is derived. The same for all clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Routing prefix of the server.
    pub network: Network,
    /// Seed identifier of the server's end.
    pub seed: [u8; 8],
    /// Introduction key K: addresses, ports and packet keys of the introduction.
    pub key: SecretKey,
    /// Slot length that the server offers for sessions (`Rot`), in whole ms: 1 s to 1 h.
    pub rot: Duration,
    /// Slot length of the introduction itself, in whole ms: 1 s to 1 h.
    pub slot: Duration,
    /// When it was published, Unix time in ms; the sequence number of the mutable item.
    pub published_ms: u64,
}

impl Introduction {
    /// The seed of a server's end that takes handshakes of these versions: the lowest one and the highest one, and a check over
    /// them and the introduction's key. To a reader of the first version, it is a seed like any other.
    pub fn seed_for(versions: &RangeInclusive<u8>, key: &SecretKey) -> [u8; 8] {
        let (lowest, highest) = (*versions.start(), *versions.end());
        let digest = Sha256::new()
            .chain_update(VERSIONS)
            .chain_update(key.as_bytes())
            .chain_update([lowest, highest])
            .finalize();
        let check: [u8; 6] = first(&digest);
        let mut seed = [lowest, highest, 0, 0, 0, 0, 0, 0];
        seed[2..].copy_from_slice(&check);
        seed
    }

    /// The versions of the handshake that the server takes, as its seed says; a seed that says nothing is that of a server
    /// which knows the first version only.
    pub fn versions(&self) -> RangeInclusive<u8> {
        let [lowest, highest, ..] = self.seed;
        let said = lowest..=highest;
        if Self::seed_for(&said, &self.key) == self.seed { said } else { 1..=1 }
    }

    /// Seals for one client and one window. The nonce must be random: never two messages with one nonce.
    ///
    /// # Errors
    /// [`FieldError`] when a reader would refuse a field.
    pub fn seal(
        &self,
        rendezvous: &Rendezvous,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<[u8; SEALED_BYTES], FieldError> {
        let mut sealed = [0; SEALED_BYTES];
        let (head, text) = sealed.split_at_mut(NONCE_BYTES + TAG_BYTES);
        text.copy_from_slice(self.encode()?.as_slice());
        let cipher = XChaCha20Poly1305::new(&rendezvous.seal.into());
        let Ok(tag) =
            cipher.encrypt_inout_detached(&XNonce::from(nonce), &rendezvous.associated_data(), text.into())
        else {
            unreachable!("the cipher takes 76 bytes")
        };
        head[..NONCE_BYTES].copy_from_slice(&nonce);
        head[NONCE_BYTES..].copy_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens and checks a message that was found for this client and window.
    ///
    /// # Errors
    /// [`OpenError`] for everything that the server did not seal for exactly this.
    pub fn open(rendezvous: &Rendezvous, sealed: &[u8]) -> Result<Self, OpenError> {
        let Ok(sealed) = <&[u8; SEALED_BYTES]>::try_from(sealed) else {
            return Err(OpenError::Length(sealed.len()));
        };
        let (nonce, rest) = sealed.split_at(NONCE_BYTES);
        let (tag, text) = rest.split_at(TAG_BYTES);
        let mut plain = Zeroizing::new([0; PLAIN_BYTES]);
        plain.copy_from_slice(text);
        let cipher = XChaCha20Poly1305::new(&rendezvous.seal.into());
        let (nonce, tag) = (XNonce::from(first::<NONCE_BYTES>(nonce)), Tag::from(first::<TAG_BYTES>(tag)));
        cipher
            .decrypt_inout_detached(&nonce, &rendezvous.associated_data(), plain.as_mut_slice().into(), &tag)
            .map_err(|_| OpenError::Sealed)?;
        Self::decode(&plain)
    }

    /// The introduction as it is before it is sealed.
    ///
    /// # Errors
    /// [`FieldError`] when a reader would refuse a field.
    pub fn encode(&self) -> Result<Zeroizing<[u8; PLAIN_BYTES]>, FieldError> {
        let slot = |duration: Duration| {
            let ms = u32::try_from(duration.as_millis()).map_err(|_| FieldError::Slot)?;
            SLOTS.contains(&ms).then_some(ms).ok_or(FieldError::Slot)
        };
        check_network(self.network)?;
        check_published(self.published_ms)?;
        let mut text = Zeroizing::new([0; PLAIN_BYTES]);
        text[0] = VERSION;
        text[1] = self.network.length;
        text[4..20].copy_from_slice(&self.network.prefix);
        text[20..28].copy_from_slice(&self.seed);
        text[28..60].copy_from_slice(self.key.as_bytes());
        text[60..64].copy_from_slice(&slot(self.rot)?.to_be_bytes());
        text[64..68].copy_from_slice(&slot(self.slot)?.to_be_bytes());
        text[68..76].copy_from_slice(&self.published_ms.to_be_bytes());
        Ok(text)
    }

    /// Reads what [`Self::encode`] writes, and nothing else.
    ///
    /// # Errors
    /// [`OpenError::Version`] or [`OpenError::Field`].
    pub fn decode(text: &[u8; PLAIN_BYTES]) -> Result<Self, OpenError> {
        let slot = |at: usize| {
            let ms = u32::from_be_bytes(first(&text[at..]));
            SLOTS.contains(&ms).then(|| Duration::from_millis(ms.into())).ok_or(FieldError::Slot)
        };
        if text[0] != VERSION {
            return Err(OpenError::Version(text[0]));
        }
        if text[2..4] != [0, 0] {
            return Err(FieldError::Reserved.into());
        }
        let network = Network { prefix: first(&text[4..]), length: text[1] };
        check_network(network)?;
        let published_ms = u64::from_be_bytes(first(&text[68..]));
        check_published(published_ms)?;
        Ok(Self {
            network,
            seed: first(&text[20..]),
            key: SecretKey::from_bytes(first(&text[28..])),
            rot: slot(60)?,
            slot: slot(64)?,
            published_ms,
        })
    }
}

fn check_network(network: Network) -> Result<(), FieldError> {
    if !is_prefix_length(network.length) {
        return Err(FieldError::PrefixLength(network.length));
    }
    let host = u128::from_be_bytes(network.prefix).checked_shl(network.length.into()).unwrap_or(0);
    if host == 0 { Ok(()) } else { Err(FieldError::HostBits) }
}

/// The sequence number of a mutable item is signed.
fn check_published(ms: u64) -> Result<(), FieldError> {
    i64::try_from(ms).map(drop).map_err(|_| FieldError::Published)
}

/// Reasons why a message in the DHT is not an introduction for this client and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has this many bytes and not [`SEALED_BYTES`].
    #[error("it has {0} bytes, an introduction has {SEALED_BYTES}")]
    Length(usize),
    /// The server did not seal it for this client and window: forged, garbled, or meant for another one.
    #[error("it was not sealed by this server for this client and window")]
    Sealed,
    /// The server sealed it in a layout of another version.
    #[error("the server sealed it in version {0} of the layout, this program knows version {VERSION}")]
    Version(u8),
    /// The server sealed it with a field that makes no sense.
    #[error("the server sealed a message with an unusable field: {0}")]
    Field(#[from] FieldError),
}

/// A field of an introduction that a reader refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No end has a prefix of this length: see [`is_prefix_length`].
    #[error(
        "the prefix length {0} is neither within {low} to {high} nor {SINGLE_ADDRESS}",
        low = PREFIX_LENGTHS.start(), high = PREFIX_LENGTHS.end()
    )]
    PrefixLength(u8),
    /// The prefix has bits behind its length.
    #[error("the prefix has bits behind its length")]
    HostBits,
    /// Reserved bytes are not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A slot length is not within 1 s to 1 h.
    #[error("a slot length is not within 1 s to 1 h")]
    Slot,
    /// The time of publication is beyond 2^63 ms.
    #[error("the time of publication is beyond all dates")]
    Published,
}

#[cfg(test)]
mod tests;
