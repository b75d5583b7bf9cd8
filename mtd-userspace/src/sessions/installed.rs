//! A session in the data plane, whatever its origin.

use std::sync::Arc;

use ipnet::IpNet;
use mtd_common::abi::{self, Route, SessionState};
use mtd_common::address::{End, Network};
use mtd_common::packet::inner::mapped;
use mtd_common::session_note::{ROLE_CLIENT, ROLE_SERVER, SessionNote};

use super::origin::OriginId;
use super::table::{Destination, Whose};
use crate::keys::PublicKey;
use crate::model::{BootNs, ClockOffset, PeerNumber, SessionIndex, SessionNs, TunnelAddresses};
use crate::proto::clock::Reading;
use crate::proto::exchange::SessionId;
use crate::proto::session::{Ends, Keys, Parts, Role, Session, Terms};
use crate::proto::slots::{Loader, Place};

/// The key of a session: its origin, and its number there.
pub type Key = (OriginId, SessionId);

/// Up to two inner addresses, as the maps have them (IPv4 as `::ffff:a.b.c.d`, zero: none).
pub type Inner = [[u8; 16]; 2];

/// The other end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A peer of the configuration, with its number. Nothing is negotiated with it.
    Configured(PeerNumber),
    /// The owner of this public key; and whether this host was client or server in the handshake.
    Negotiated(Role, PublicKey),
}

/// A session that is to be installed.
pub struct NewSession {
    /// Its number within its origin.
    pub id: SessionId,
    /// Keys and ends.
    pub session: Arc<Session>,
    /// The offset of its clock.
    pub offset: ClockOffset,
    /// When it began.
    pub started: BootNs,
    /// The other end.
    pub peer: Peer,
    /// Own inner addresses.
    pub local: Inner,
    /// The peer's inner addresses.
    pub remote: Inner,
    /// Networks behind the peer, beside its own inner addresses.
    pub networks: Option<Arc<[IpNet]>>,
    /// Sequence numbers, window and counters to go on with; `None`: a new session.
    pub state: Option<Box<SessionState>>,
    /// A router translates the peer's addresses: packets come from any, and the answers go there.
    pub translated: bool,
    /// It neither sends nor receives until it is resumed.
    pub resting: bool,
}

impl NewSession {
    /// The public key of the other end; `None`: a session that was not negotiated, or an introduction, which has no single
    /// owner.
    pub(super) fn negotiated_with(&self) -> Option<PublicKey> {
        match self.peer {
            Peer::Negotiated(_, key) if self.session.mode != abi::MODE_INTRODUCTION => Some(key),
            _ => None,
        }
    }
}

/// A session in the data plane.
pub(super) struct Installed {
    pub(super) key: Key,
    pub(super) session: Arc<Session>,
    /// The loaded slots, and their places in the maps.
    pub(super) loader: Loader,
    pub(super) offset: ClockOffset,
    pub(super) started: BootNs,
    pub(super) peer: PeerNumber,
    /// `None`: the session was not negotiated.
    pub(super) role: Option<Role>,
    pub(super) local: Inner,
    pub(super) remote: Inner,
    pub(super) networks: Option<Arc<[IpNet]>>,
    /// Out of use for a while: no packet passes.
    pub(super) resting: bool,
    /// See [`NewSession::translated`].
    pub(super) translated: bool,
    /// The peer is answered where it was heard.
    pub(super) where_heard: bool,
    /// The number of the policy of its filter; `None`: it has no filter.
    pub(super) policy: Option<u32>,
    /// Whose filter is its own.
    pub(super) whose: Whose,
}

impl Installed {
    pub(super) const fn place(&self) -> Place {
        self.loader.place()
    }

    pub(super) const fn index(&self) -> SessionIndex {
        self.place().index
    }

    pub(super) fn is_introduction(&self) -> bool {
        self.session.mode == abi::MODE_INTRODUCTION
    }

    /// The element of the session table.
    pub(super) fn element(&self) -> abi::Session {
        let generation = if self.resting { 0 } else { self.place().generation };
        let mut element = self.session.element(generation, self.offset.0, self.peer.0, self.remote);
        if self.translated {
            element.flags |= abi::FLAG_ANYBODY;
        }
        if self.where_heard || self.translated {
            element.flags |= abi::FLAG_HEARD;
        }
        if self.policy.is_some() {
            element.flags |= abi::FLAG_FILTER;
        }
        element
    }

    /// The inner addresses of control messages, own and the peer's. They belong to this session alone, so that a message
    /// takes this session, whichever one carries the traffic.
    pub(super) fn control_addresses(&self) -> [[u8; 16]; 2] {
        let [first, second] = self.session.control_addresses();
        let is_first = self.role.map_or_else(|| self.session.is_first(), |role| role == Role::Client);
        if is_first { [first, second] } else { [second, first] }
    }

    pub(super) const fn route(&self) -> Route {
        let Place { index, generation } = self.place();
        Route { session: index.0, generation, peer: self.peer.0, reserved: 0 }
    }

    /// The route of control messages.
    pub(super) fn control_route(&self) -> Destination {
        let [_, remote] = self.control_addresses();
        (abi::ROUTE_KEY_FAMILY_BITS + 128, abi::route_key(6, &remote))
    }

    /// The inner networks of the peer: traffic to them goes to it.
    pub(super) fn inner_networks(&self) -> Vec<IpNet> {
        let behind = self.networks.as_deref().unwrap_or_default();
        let mut networks: Vec<_> = TunnelAddresses::from_map(self.remote).iter().map(IpNet::from).collect();
        if self.role.is_none() {
            // A configured peer's addresses are among its networks.
            networks.clear();
        }
        networks.extend(behind);
        networks
    }

    /// The same networks in the form of the routing map.
    pub(super) fn destinations(&self) -> Vec<Destination> {
        self.inner_networks().into_iter().map(route_key).collect()
    }

    /// What the next controller needs to go on with it; `peer` is the owner of this key.
    pub(super) fn note(&self, role: Role, peer: &PublicKey) -> SessionNote {
        let session = &self.session;
        SessionNote {
            generation: self.place().generation,
            role: if role == Role::Client { ROLE_CLIENT } else { ROLE_SERVER },
            address_key: *session.address_key(),
            peer_key: *peer.as_bytes(),
            local_prefix: session.local.network.prefix,
            remote_prefix: session.remote.network.prefix,
            local_seed: session.local.seed,
            remote_seed: session.remote.seed,
            local_length: session.local.network.length,
            remote_length: session.remote.network.length,
            reserved: [0; 6],
            started: self.started.0,
            expires: session.until.0,
            local_tunnel: self.local,
            remote_tunnel: self.remote,
        }
    }
}

/// What an earlier controller left in the maps of a session.
pub(super) struct Left {
    pub(super) index: SessionIndex,
    pub(super) element: abi::Session,
    pub(super) state: SessionState,
    pub(super) note: SessionNote,
}

/// How an origin goes on with a session that an earlier controller left.
pub(super) struct Adoption {
    pub(super) id: SessionId,
    pub(super) session: Arc<Session>,
    pub(super) peer: Peer,
    pub(super) started: BootNs,
    pub(super) local: Inner,
    pub(super) remote: Inner,
    pub(super) networks: Option<Arc<[IpNet]>>,
}

impl Left {
    /// Whether a router translates the addresses of the peer of a negotiated session.
    pub(super) const fn is_translated(&self) -> bool {
        self.element.mode != abi::MODE_INTRODUCTION && self.element.flags & abi::FLAG_ANYBODY != 0
    }

    /// The session as it was negotiated, and the public key of the other end; `None` if it was not negotiated in this role,
    /// or is over.
    pub(super) fn negotiated(&self, role: Role, now: Reading) -> Option<(PublicKey, Session)> {
        let (element, note) = (&self.element, &self.note);
        let noted_role = if role == Role::Client { ROLE_CLIENT } else { ROLE_SERVER };
        let known = note.generation == element.generation
            && note.role == noted_role
            && element.mode != abi::MODE_INTRODUCTION;
        let time = ClockOffset(element.clock_offset).session(now.boot);
        if !known || time.0 >= note.expires {
            return None;
        }
        let end = |prefix, length, seed| End { network: Network { prefix, length }, seed };
        let session = Session::adopted(Parts {
            tx: Keys(element.tx),
            rx: Keys(element.rx),
            address_key: note.address_key,
            ends: Ends {
                local: end(note.local_prefix, note.local_length, note.local_seed),
                remote: end(note.remote_prefix, note.remote_length, note.remote_seed),
            },
            terms: Terms { period: element.period, mode: element.mode, until: SessionNs(note.expires) },
            phase: element.phase,
        });
        Some((PublicKey::from_bytes(note.peer_key), session))
    }

    /// Own and the peer's inner addresses.
    pub(super) fn tunnel(&self) -> (TunnelAddresses, TunnelAddresses) {
        (
            TunnelAddresses::from_map(self.note.local_tunnel),
            TunnelAddresses::from_map(self.note.remote_tunnel),
        )
    }
}

/// A single address as the maps have it.
pub(super) fn inner_address(net: IpNet) -> [u8; 16] {
    match net {
        IpNet::V4(net) => mapped(net.network().octets()),
        IpNet::V6(net) => net.network().octets(),
    }
}

/// Prefix length in bits of the key, and key, of an inner prefix.
pub(super) fn route_key(net: IpNet) -> Destination {
    let (version, skipped) = if matches!(net, IpNet::V4(_)) { (4, 96) } else { (6, 0) };
    (
        abi::ROUTE_KEY_FAMILY_BITS + skipped + u32::from(net.prefix_len()),
        abi::route_key(version, &inner_address(net)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_both_families_have_keys_of_their_own() {
        let (length, key) = route_key("::/0".parse().unwrap());
        assert_eq!((length, key[0]), (32, 6));
        let (length, key) = route_key("10.1.2.0/24".parse().unwrap());
        assert_eq!((length, key[0]), (32 + 96 + 24, 4));
        assert_eq!(key[14..], [0xff, 0xff, 10, 1, 2, 0]);
        let (length, _) = route_key("fd00::1/128".parse().unwrap());
        assert_eq!(length, 160);
    }
}
