//! The end of all sessions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tracing::warn;

use super::store::{Note, Store};
use super::table::GRACE;
use super::{Maps, OriginId, Sessions};
use crate::model::SessionIndex;
use crate::proto::exchange::SessionId;

/// How long the programs are left alone before keys leave the maps.
pub(super) const REST: Duration = Duration::from_nanos(GRACE + 1_000_000);

/// Sessions that were ended, and whose final state is to be saved: fingerprint, number and place.
struct Closed(Vec<(String, SessionId, SessionIndex)>);

/// Ends all sessions: their addresses go dark, their keys leave the maps, and their final state is saved. The lock is not
/// held while waiting.
///
/// # Errors
/// When maps or state file fail.
pub(crate) async fn stop<M: Maps>(sessions: &Mutex<Sessions<M>>) -> anyhow::Result<()> {
    let lock = || sessions.lock().unwrap_or_else(PoisonError::into_inner);
    let closed = lock().close()?;
    tokio::time::sleep(REST).await;
    let (store, note) = lock().wipe(&closed)?;
    tokio::task::spawn_blocking(move || save(store, note)).await?
}

fn save(store: Option<Store>, note: Note) -> anyhow::Result<()> {
    store.map_or(Ok(()), |store| store.finish(note)).context("saving the sessions")
}

impl<M: Maps> Sessions<M> {
    /// Ends a start whose programs could not be attached. Sessions that were there before go on.
    pub fn abandon(&mut self) {
        if self.table.maps.adopted() {
            return;
        }
        // Waiting blocks nobody, since nobody else has this table yet.
        let stopped = self.close().and_then(|closed| {
            std::thread::sleep(REST);
            let (store, note) = self.wipe(&closed)?;
            save(store, note)
        });
        if let Err(error) = stopped {
            warn!("cleaning up after a failed start: {error:#}");
        }
    }

    /// Takes all sessions out of use, and informs the peers.
    fn close(&mut self) -> anyhow::Result<Closed> {
        let now = self.clock.read();
        self.origins.each(|_, origin| origin.stop());
        self.act(now);
        let of = |(id, peer): (_, &super::configured::ConfiguredPeer)| {
            Some((peer.session.fingerprint(), id, self.table.get((OriginId::Configured, id))?.index()))
        };
        let closed = Closed(self.origins.configured.peers().filter_map(of).collect());
        self.table.remove_all(now)?;
        Ok(closed)
    }

    /// Wipes the keys, and returns the state to be saved.
    fn wipe(&mut self, Closed(closed): &Closed) -> anyhow::Result<(Option<Store>, Note)> {
        let mut ended = Vec::new();
        let now = self.clock.read();
        for (fingerprint, id, index) in closed {
            // Only now, when no packet can change it any more.
            let state = self.table.maps.state(*index)?;
            ended.push((fingerprint.clone(), self.origins.configured.ended(*id, &state, now), state));
        }
        self.table.wipe(now.boot)?;
        Ok((self.store.take(), Note::Ended(ended)))
    }
}
