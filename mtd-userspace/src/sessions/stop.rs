//! The end of all sessions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tracing::warn;

use super::slots::LEAD;
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
/// held while waiting. A disk that does not take the state is no error: nothing is repeated by what is not saved, and the log
/// says what that means.
///
/// # Errors
/// When the maps fail, or the state file for another reason.
pub(crate) async fn stop<M: Maps>(sessions: &Mutex<Sessions<M>>) -> anyhow::Result<()> {
    let lock = || sessions.lock().unwrap_or_else(PoisonError::into_inner);
    let closed = lock().close()?;
    tokio::time::sleep(REST).await;
    let (last, dark) = {
        let mut sessions = lock();
        (sessions.wipe(&closed)?, sessions.dark_after_a_loss())
    };
    tokio::task::spawn_blocking(move || save(last, &dark)).await?
}

/// `dark`: what a loss of the state means.
fn save((store, note): (Option<Store>, Note), dark: &str) -> anyhow::Result<()> {
    match store.map_or(Ok(()), |store| store.finish(note)) {
        Err(error) if error.is_of_the_disk() => {
            warn!("{error}. {dark}");
            Ok(())
        }
        saved => saved.context("saving the sessions"),
    }
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
            save(self.wipe(&closed)?, &self.dark_after_a_loss())
        });
        if let Err(error) = stopped {
            warn!("cleaning up after a failed start: {error:#}");
        }
    }

    /// What it means that the final state is not saved.
    fn dark_after_a_loss(&self) -> String {
        let peers = self.origins.configured.peers();
        let names: Vec<&str> = peers.map(|(_, peer)| peer.config.name.as_str()).collect();
        if names.is_empty() {
            return "Nothing is lost by that but the time of the last introduction".to_owned();
        }
        format!(
            "What the static sessions have received is not saved ({}): no number is sent or accepted twice, but after the next \
             start they are dark for up to {} s, as after a crash",
            names.join(", "),
            self.config.horizon.as_secs() + LEAD / 1_000_000_000
        )
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
