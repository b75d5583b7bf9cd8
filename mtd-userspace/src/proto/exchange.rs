//! What both ends of a handshake share: how it is bound to its place, and their requests to the controller.

use std::sync::Arc;

use mtd_common::address::{End, Endpoint, Network};
use sha2::{Digest, Sha256};

use super::messages::{Control, Tunnel, VERSION};
use super::packet::{self, Path};
use super::rendezvous::{Introduction, Shared};
use super::session::{Role, Session};
use crate::keys::PublicKey;
use crate::model::{BootNs, ClockOffset};

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MILLISECOND;

/// The key of the community that a session belongs to: none so far.
pub(super) const NO_COMMUNITY: [u8; 32] = [0; 32];

/// Fills its argument with unpredictable random bytes.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// A session or introduction of one state machine. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A request of a state machine. They are carried out in order: a later one may depend on an earlier one.
#[derive(Debug)]
pub enum Action {
    /// Put this session into the tables: it receives from now on.
    Install(Box<Install>),
    /// Send the peer's traffic through this session.
    Route(SessionId),
    /// Give the clock of this session another offset.
    Clock {
        /// The session.
        id: SessionId,
        /// New offset.
        offset: ClockOffset,
    },
    /// No router translates the peer of this session, although it seemed so: take only what comes from its own addresses.
    Untranslated(SessionId),
    /// End this session.
    Remove(SessionId),
    /// Send this packet, whole from the IPv6 header on. It belongs to a session that must have been installed.
    Transmit {
        /// The session that the packet belongs to. Neither is of use without the other.
        id: SessionId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// Send this control message through a session.
    Control {
        /// The session.
        id: SessionId,
        /// The session that it is about: if that could not be installed, the message is not sent.
        about: SessionId,
        /// The message.
        message: Vec<u8>,
    },
    /// Send this control message through a session in a slot that it names itself.
    ControlIn {
        /// The session.
        id: SessionId,
        /// The slot.
        slot: SendSlot,
        /// The message.
        message: Vec<u8>,
    },
    /// From now on, send in a session where its peer was heard, or in the present slot.
    Answer {
        /// The session.
        id: SessionId,
        /// Where the peer was heard.
        where_heard: bool,
    },
    /// Look for the server's message of the window that starts at this Unix time in s.
    Fetch {
        /// Start of the window.
        window: u64,
    },
    /// Publish an introduction.
    Publish(Publication),
}

/// The slot that a control message is sent in, wherever the peer was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendSlot {
    /// The present one.
    Present,
    /// The one after it.
    Next,
}

/// An introduction to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Start of its window, Unix time in s.
    pub window: u64,
    /// The introduction.
    pub introduction: Introduction,
    /// The client that it is for; `None`: all clients.
    pub client: Option<PublicKey>,
    /// Time in ns over which the work may be spread.
    pub within: u64,
    /// It is made long before its window, and goes into files only.
    pub ahead: bool,
}

/// A session to be put into the tables.
#[derive(Debug)]
pub struct Install {
    /// Its number.
    pub id: SessionId,
    /// Keys and ends.
    pub session: Arc<Session>,
    /// The offset of its clock.
    pub offset: ClockOffset,
    /// When it began.
    pub started: BootNs,
    /// The role of this end.
    pub role: Role,
    /// The peer's public key; for a server's introduction, the own one.
    pub peer: PublicKey,
    /// Own tunnel addresses.
    pub local: Tunnel,
    /// The peer's tunnel addresses.
    pub remote: Tunnel,
    /// A router translates the peer's addresses: packets come from any, and the answers go there.
    pub translated: bool,
}

/// A session that an earlier controller left.
pub struct Adopted {
    /// Keys and ends.
    pub session: Arc<Session>,
    /// The offset of its clock.
    pub offset: ClockOffset,
    /// When it began.
    pub started: BootNs,
    /// When the last valid packet came.
    pub last_valid: BootNs,
    /// See [`Install::translated`].
    pub translated: bool,
    /// The peer is answered where it was heard.
    pub where_heard: bool,
}

/// A control message as the receive program handed it over.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The session or introduction that it came through.
    pub id: SessionId,
    /// Low 32 bits of the slot that it was sent in.
    pub slot: u32,
    /// Its sender, as it was on the wire: a router may have translated it.
    pub source: Endpoint,
    /// Source address of the inner packet. Through an introduction, it is the sender's own address (requirement MT-41).
    pub inner_source: [u8; 16],
    /// The message.
    pub message: &'a [u8],
}

/// The place of a handshake, to which its prologue binds it, in addition to version and roles.
pub(super) enum Binding<'a> {
    /// An introduction: its window, key and slot.
    Introduction { window: u64, key: &'a [u8; 32], slot: u32 },
    /// A session whose keys are to be replaced: [`Session::binding`].
    Session([u8; 32]),
}

impl Binding<'_> {
    pub(super) fn prologue(&self, server: &PublicKey) -> Vec<u8> {
        self.prologue_of(VERSION, server)
    }

    /// The prologue of a handshake of any version: all are made alike, so that a server can tell an authentic request of
    /// another version from a stranger's.
    pub(super) fn prologue_of(&self, version: u8, server: &PublicKey) -> Vec<u8> {
        let mut out = b"mtd v1 handshake, client to server".to_vec();
        out.push(version);
        out.extend(server.as_bytes());
        match self {
            Self::Introduction { window, key, slot } => {
                out.push(0);
                out.extend(window.to_be_bytes());
                out.extend(slot.to_be_bytes());
                let mut hash = Sha256::new();
                hash.update(b"mtd v1 introduction id");
                hash.update(key);
                out.extend(hash.finalize());
            }
            Self::Session(binding) => {
                out.push(1);
                out.extend(binding);
            }
        }
        out
    }

    /// The pre-shared key of a handshake: that of the community, and what only the two ends know of this place. The
    /// server knows the descriptor only once it knows the client, so that it cannot be part of the prologue.
    pub(super) fn psk(
        &self,
        community: &[u8; 32],
        shared: &Shared,
        server: &PublicKey,
        client: &PublicKey,
    ) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"mtd v1 handshake psk");
        hash.update(community);
        match self {
            Self::Introduction { window, .. } => {
                hash.update(shared.rendezvous(server, client, *window).descriptor().0);
            }
            Self::Session(binding) => hash.update(binding),
        }
        hash.finalize().into()
    }
}

/// The packet that carries a control message through an introduction. `to`: where it is sent, the peer's own endpoint or the
/// one that a router has for it.
pub(super) fn introduce(
    session: &Session,
    path: &Path,
    to: Endpoint,
    message: Control<'_>,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let inner = packet::control(path.local.address, path.remote.address, &message.encode());
    packet::seal(session, &Path { remote: to, ..*path }, random_u64(random), &inner)
}

pub(crate) fn random_u64(random: &mut Random) -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_ne_bytes(bytes)
}

pub(super) fn random_bytes<const N: usize>(random: &mut Random) -> [u8; N] {
    let mut bytes = [0; N];
    random(&mut bytes);
    bytes
}

/// An end in a network with a fresh seed.
pub(super) fn fresh_end(network: Network, random: &mut Random) -> End {
    End { network, seed: random_bytes(random) }
}
