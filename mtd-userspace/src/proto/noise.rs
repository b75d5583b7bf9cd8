//! The key exchange: Noise `IKpsk2` with X25519, ChaCha20-Poly1305 and SHA-256, through `snow`.
//!
//! The client initiates and knows the server's static key; its own travels encrypted to it. Both ends bring a fresh
//! ephemeral key, so that keys stolen later open nothing that was recorded (requirement MT-42). Randomness comes in as
//! an argument. Results of X25519 that are all zero are refused: they come from keys that somebody chose to be weak.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::rendezvous::Shared;
use crate::keys::{PublicKey, SecretKey};

/// Bytes that the exchange adds to the payload of the first message: ephemeral key, sealed static key, tag.
pub const REQUEST_OVERHEAD: usize = 32 + 48 + 16;
/// Bytes that it adds to the payload of the second message: ephemeral key, tag.
pub const RESPONSE_OVERHEAD: usize = 32 + 16;

/// Longest payload that a handshake message carries, in bytes.
pub const MAX_PAYLOAD: usize = 716;

const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";
/// Where the pre-shared key is mixed in: at the end of the second message, when the server knows its client.
const PSK: usize = 2;

/// A handshake message that was refused. There is no reason given: the sender gets no answer, and the receiver treats
/// all reasons alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message is not authentic")]
pub struct NoiseError;

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// A private key for one handshake, drawn at random by the caller.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Ephemeral(pub [u8; 32]);

/// What both ends share after the handshake.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secrets {
    /// Both halves of Noise's `Split()`.
    pub keys: [u8; 64],
    /// The handshake hash: the same at both ends, and different for every handshake.
    #[zeroize(skip)]
    pub hash: [u8; 32],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// An own static key, with what need not be computed for each handshake anew: its public key, and the secrets shared
/// with the static keys of others. Clones share the latter.
#[derive(Clone)]
pub struct Identity {
    key: SecretKey,
    public: PublicKey,
    shared: Arc<RwLock<HashMap<PublicKey, Shared>>>,
}

impl Identity {
    /// Has no shared secrets yet.
    pub fn new(key: SecretKey) -> Self {
        Self { public: key.public(), key, shared: Arc::default() }
    }

    /// Computes and keeps the secret shared with a peer that is expected to connect.
    pub fn remember(&self, peer: PublicKey, shared: Shared) {
        self.shared.write().unwrap_or_else(PoisonError::into_inner).insert(peer, shared);
    }

    /// Forgets the secret shared with a peer. Handshakes with that peer then only take longer.
    pub fn forget(&self, peer: &PublicKey) {
        self.shared.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    /// The secret shared with an expected peer.
    fn shared(&self, peer: &[u8; 32]) -> Option<Shared> {
        let known = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&PublicKey::from_bytes(*peer)).cloned()
    }
}

/// The client's side, waiting for the answer.
pub struct Initiator(Box<HandshakeState>);

impl Initiator {
    /// Begins; returns the first message too.
    ///
    /// # Errors
    /// When the server's key is a weak one, or the payload longer than [`MAX_PAYLOAD`].
    pub fn start(
        identity: &SecretKey,
        server: &PublicKey,
        prologue: &[u8],
        ephemeral: Ephemeral,
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(&Identity::new(identity.clone()), prologue, ephemeral)?
            .remote_public_key(server.as_bytes())?
            .build_initiator()
            .map(Box::new)?;
        let mut message = vec![0; REQUEST_OVERHEAD + payload.len().min(MAX_PAYLOAD)];
        let length = state.write_message(payload, &mut message)?;
        message.truncate(length);
        Ok((Self(state), message))
    }

    /// Reads the answer; returns its payload and the secrets. A message that is not authentic changes nothing: the
    /// right one may still come.
    ///
    /// # Errors
    /// When the message is not the answer of this server to this request, or was made with another `psk`.
    pub fn finish(
        &mut self,
        message: &[u8],
        psk: &[u8; 32],
    ) -> Result<(Zeroizing<Vec<u8>>, Secrets), NoiseError> {
        self.0.set_psk(PSK, psk)?;
        let payload = read(&mut self.0, message)?;
        Ok((payload, secrets(&mut self.0)))
    }
}

/// The server's side, having read the first message.
pub struct Responder(Box<HandshakeState>);

impl Responder {
    /// Reads the first message; returns who sent it and its payload.
    ///
    /// # Errors
    /// When the message is not authentic, or for another server or prologue.
    pub fn read(
        identity: &Identity,
        prologue: &[u8],
        ephemeral: Ephemeral,
        message: &[u8],
    ) -> Result<(Self, PublicKey, Zeroizing<Vec<u8>>), NoiseError> {
        let mut state = Box::new(builder(identity, prologue, ephemeral)?.build_responder()?);
        let payload = read(&mut state, message)?;
        let client = state.get_remote_static().and_then(|key| <[u8; 32]>::try_from(key).ok());
        Ok((Self(state), PublicKey::from_bytes(client.ok_or(NoiseError)?), payload))
    }

    /// Answers; returns the second message and the secrets.
    ///
    /// # Errors
    /// When the payload is longer than [`MAX_PAYLOAD`].
    pub fn answer(mut self, psk: &[u8; 32], payload: &[u8]) -> Result<(Vec<u8>, Secrets), NoiseError> {
        self.0.set_psk(PSK, psk)?;
        let mut message = vec![0; RESPONSE_OVERHEAD + payload.len().min(MAX_PAYLOAD)];
        let length = self.0.write_message(payload, &mut message)?;
        message.truncate(length);
        Ok((message, secrets(&mut self.0)))
    }
}

fn builder<'a>(
    identity: &'a Identity,
    prologue: &'a [u8],
    ephemeral: Ephemeral,
) -> Result<Builder<'a>, NoiseError> {
    let Ok(parameters) = PROTOCOL.parse::<NoiseParams>() else {
        unreachable!("the protocol's name is a constant")
    };
    let resolver = Box::new(Resolver { identity: identity.clone(), ephemeral, others: DefaultResolver });
    Ok(Builder::with_resolver(parameters, resolver)
        .local_private_key(identity.key.as_bytes())?
        .prologue(prologue)?)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
    let mut payload = Zeroizing::new(vec![0; MAX_PAYLOAD]);
    if message.len() > MAX_PAYLOAD + REQUEST_OVERHEAD {
        return Err(NoiseError);
    }
    let length = state.read_message(message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

fn secrets(state: &mut HandshakeState) -> Secrets {
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let mut secrets = Secrets { keys: [0; 64], hash: [0; 32] };
    secrets.keys[..32].copy_from_slice(&first);
    secrets.keys[32..].copy_from_slice(&second);
    secrets.hash.copy_from_slice(&state.get_handshake_hash()[..32]);
    first.zeroize();
    second.zeroize();
    secrets
}

/// Gives `snow` our X25519 and the caller's random numbers; the rest is its own.
struct Resolver {
    identity: Identity,
    ephemeral: Ephemeral,
    others: DefaultResolver,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| {
            let private = Zeroizing::new([0; 32]);
            Box::new(X25519 { identity: self.identity.clone(), private, public: [0; 32] }) as Box<dyn Dh>
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.others.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.others.resolve_cipher(choice)
    }
}

/// Random numbers for one ephemeral key, and no more.
struct Once(Option<Ephemeral>);

impl Random for Once {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.take().filter(|key| key.0.len() == out.len()).ok_or(snow::Error::Rng)?;
        out.copy_from_slice(&key.0);
        Ok(())
    }
}

/// X25519 that wipes its private key and refuses weak public keys. The key is the identity's, or an ephemeral one.
struct X25519 {
    identity: Identity,
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl X25519 {
    fn is_identity(&self) -> bool {
        self.public == *self.identity.public.as_bytes()
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    /// The only key that is set, and not generated, is the identity's.
    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = *self.identity.public.as_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        random.try_fill_bytes(&mut *self.private)?;
        self.public = x25519_dalek::PublicKey::from(&StaticSecret::from(*self.private)).to_bytes();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public: [u8; 32] = public.get(..32).and_then(|key| key.try_into().ok()).ok_or(snow::Error::Dh)?;
        let out = out.get_mut(..32).ok_or(snow::Error::Dh)?;
        if self.is_identity()
            && let Some(shared) = self.identity.shared(&public)
        {
            out.copy_from_slice(shared.as_bytes());
            return Ok(());
        }
        let shared = StaticSecret::from(*self.private).diffie_hellman(&public.into());
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes([byte; 32])
    }

    fn identity(key: &SecretKey) -> Identity {
        Identity::new(key.clone())
    }

    fn ephemeral(byte: u8) -> Ephemeral {
        Ephemeral([byte; 32])
    }

    #[test]
    fn both_ends_agree() {
        let (client, server) = (key(1), key(2));
        let (mut initiator, request) =
            Initiator::start(&client, &server.public(), b"prologue", ephemeral(3), b"hello").unwrap();
        assert_eq!(request.len(), REQUEST_OVERHEAD + 5);
        let (responder, who, payload) =
            Responder::read(&identity(&server), b"prologue", ephemeral(4), &request).unwrap();
        assert_eq!((who, payload.as_slice()), (client.public(), b"hello".as_slice()));
        let (response, theirs) = responder.answer(&[9; 32], b"world").unwrap();
        assert_eq!(response.len(), RESPONSE_OVERHEAD + 5);

        // A message that is not the answer does not prevent the answer from being accepted.
        assert!(initiator.finish(&response[1..], &[9; 32]).is_err());
        let mut forged = response.clone();
        forged[40] ^= 1;
        assert!(initiator.finish(&forged, &[9; 32]).is_err());
        assert!(initiator.finish(&response, &[8; 32]).is_err(), "another pre-shared key");
        let (payload, ours) = initiator.finish(&response, &[9; 32]).unwrap();
        assert_eq!(payload.as_slice(), b"world");
        assert_eq!((ours.keys, ours.hash), (theirs.keys, theirs.hash));
        assert_ne!(ours.keys[..32], ours.keys[32..]);
    }

    #[test]
    fn a_message_for_another_server_or_prologue_or_with_a_bit_flipped_is_refused() {
        let (client, server) = (key(1), key(2));
        let (_, request) =
            Initiator::start(&client, &server.public(), b"prologue", ephemeral(3), b"hello").unwrap();
        assert!(Responder::read(&identity(&key(5)), b"prologue", ephemeral(4), &request).is_err());
        assert!(Responder::read(&identity(&server), b"Prologue", ephemeral(4), &request).is_err());
        for bit in 0..request.len() * 8 {
            let mut flipped = request.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The highest bit of an X25519 key is not used (RFC 7748), but hashed.
            assert!(
                Responder::read(&identity(&server), b"prologue", ephemeral(4), &flipped).is_err(),
                "bit {bit}"
            );
        }
        for length in 0..request.len() {
            assert!(
                Responder::read(&identity(&server), b"prologue", ephemeral(4), &request[..length]).is_err()
            );
        }
        assert!(Responder::read(&identity(&server), b"prologue", ephemeral(4), &[0; 1000]).is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        // The identity element, and a point of order 8.
        let order8 = hex::decode("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800").unwrap();
        for weak in [[0; 32], order8.try_into().unwrap()] {
            let server = PublicKey::from_bytes(weak);
            assert!(Initiator::start(&key(1), &server, b"", ephemeral(3), b"").is_err());
        }
    }

    #[test]
    fn a_client_that_is_remembered_gets_the_same_answer() {
        let (client, server) = (key(1), identity(&key(2)));
        let (_, request) = Initiator::start(&client, &server.public, b"", ephemeral(3), b"x").unwrap();
        let answer = || {
            let (responder, who, _) = Responder::read(&server, b"", ephemeral(4), &request).unwrap();
            let (response, secrets) = responder.answer(&[9; 32], b"y").unwrap();
            (who, response, secrets.keys)
        };
        let unknown = answer();
        server.remember(client.public(), Shared::new(&key(2), &client.public()).unwrap());
        assert_eq!(answer(), unknown);
        // A remembered secret is used, even a wrong one.
        server.remember(client.public(), Shared::new(&key(5), &client.public()).unwrap());
        assert!(Responder::read(&server, b"", ephemeral(4), &request).is_err());
        server.forget(&client.public());
        assert_eq!(answer(), unknown);
    }

    #[test]
    fn two_handshakes_have_nothing_in_common() {
        let (client, server) = (key(1), key(2));
        let run = |a, b| {
            let (_, request) = Initiator::start(&client, &server.public(), b"", ephemeral(a), b"x").unwrap();
            let (responder, ..) = Responder::read(&identity(&server), b"", ephemeral(b), &request).unwrap();
            let (response, secrets) = responder.answer(&[0; 32], b"x").unwrap();
            (request, response, secrets)
        };
        let ((request1, response1, secrets1), (request2, response2, secrets2)) = (run(3, 4), run(5, 6));
        assert_ne!(request1[..32], request2[..32]);
        assert_ne!(request1[32..], request2[32..]);
        assert_ne!(response1, response2);
        assert_ne!(secrets1.keys, secrets2.keys);
    }
}
