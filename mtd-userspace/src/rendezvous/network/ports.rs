//! Messages in announced ports: slow, and for compatibility.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use futures_util::StreamExt as _;
use mainline::Id;
use mainline::async_dht::AsyncDht;
use tokio::sync::mpsc;

use super::super::{Answer, Item, Message, StoreError, Stored, Summary};
use super::{Inner, MainlineStore, refused};
use crate::proto::rendezvous::ports;

/// Number of `get_peers` rounds for a port-stuffed message (a node returns 10 random ports at a time), …
const PORT_ROUNDS: u32 = 24;
/// … and how many of them in a row may bring nothing new.
const IDLE_ROUNDS: u32 = 4;

/// Number of combinations that are tried when foreign ports make a port-stuffed message ambiguous.
const PORT_COMBINATIONS: usize = 64;

/// Number of publishers that are distinguished by address; the ports of a message all come from one.
const PORT_SOURCES: usize = 64;

impl MainlineStore {
    /// The ports announced under an info-hash, each with the address that it was announced from.
    ///
    /// # Errors
    /// [`StoreError::Dead`] and the like when nobody answers.
    pub async fn announced(&self, info_hash: [u8; 20]) -> Result<Vec<SocketAddrV4>, StoreError> {
        let mut peers = BTreeSet::new();
        let mut idle = 0;
        for _ in 0..PORT_ROUNDS {
            let before = peers.len();
            peers.extend(self.inner.peers(info_hash).await?);
            idle = if peers.len() == before { idle + 1 } else { 0 };
            if idle == IDLE_ROUNDS || peers.is_empty() {
                break;
            }
        }
        if peers.is_empty() {
            self.inner.closest(info_hash).await?;
        }
        Ok(peers.into_iter().collect())
    }
}

impl Inner {
    /// Announces the ports one after the other: concurrent announces to one info-hash overwrite each other.
    pub(super) async fn announce(self: &Arc<Self>, item: &Item) -> Result<Stored, StoreError> {
        let ports = ports::encode(&item.value).ok_or(StoreError::TooLarge(item.value.len()))?;
        let info_hash = Id::from(item.descriptor.0);
        for port in ports {
            self.call(move |dht| async move {
                dht.announce_peer(info_hash, Some(port)).await.map_err(|error| refused(error.into()))
            })
            .await?;
        }
        Ok(Stored { copies: None })
    }

    /// One round of ports. Each node returns a few random ones of those that it has.
    async fn peers(self: &Arc<Self>, info_hash: [u8; 20]) -> Result<Vec<SocketAddrV4>, StoreError> {
        self.call(move |dht| async move {
            let answers = dht.get_peers(info_hash.into());
            Ok(answers.collect::<Vec<_>>().await.concat())
        })
        .await
    }

    /// How many nodes near a target answer.
    async fn closest(self: &Arc<Self>, target: [u8; 20]) -> Result<u32, StoreError> {
        let closest = |dht: AsyncDht| async move {
            match dht.get_closest_nodes(target.into()).await.len() {
                0 => Err(StoreError::Dead),
                count => Ok(count),
            }
        };
        Ok(u32::try_from(self.call(closest).await?).unwrap_or(u32::MAX))
    }

    pub(super) async fn collect_ports(
        self: &Arc<Self>,
        info_hash: [u8; 20],
        length: usize,
        answers: mpsc::Sender<Answer>,
    ) -> Result<Summary, StoreError> {
        let mut sources: BTreeMap<Ipv4Addr, ports::Found> = BTreeMap::new();
        let (mut sent, mut idle) = (HashSet::new(), 0);
        let known =
            |sources: &BTreeMap<_, ports::Found>| sources.values().map(ports::Found::len).sum::<usize>();
        for _ in 0..PORT_ROUNDS {
            let before = known(&sources);
            for peer in self.peers(info_hash).await? {
                if sources.len() < PORT_SOURCES || sources.contains_key(peer.ip()) {
                    sources.entry(*peer.ip()).or_default().add(peer.port());
                }
            }
            for value in sources.values().flat_map(|found| found.messages(length, PORT_COMBINATIONS)) {
                if sent.insert(value.clone())
                    && answers.send(Answer::Message(Message { value, seq: None })).await.is_err()
                {
                    break;
                }
            }
            idle = if known(&sources) == before { idle + 1 } else { 0 };
            if idle == IDLE_ROUNDS || sources.is_empty() {
                break;
            }
        }
        // An empty result does not tell whether any node answered.
        Ok(Summary { responded: self.closest(info_hash).await?, invalid: 0 })
    }
}
