//! Answers that give no session. Only a registered client gets one, for a request that is its own and at its place.

use std::collections::HashMap;

use super::answering::MAX_ANSWERS;
use super::sessions::HalfOpen;
use super::{Refusal, Server};
use crate::keys::PublicKey;
use crate::model::BootNs;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Received, SessionId};

/// The last one of each client, since it may get lost and the request come again.
#[derive(Default)]
pub(super) struct Denials(HashMap<SessionId, Denied>);

struct Denied {
    half: HalfOpen,
    at: BootNs,
}

impl Denials {
    /// Whether there is one with this number.
    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.0.contains_key(&id)
    }

    /// Forgets those that nobody asks for any more, after `memory` ns.
    pub(super) fn forget(&mut self, now: BootNs, memory: u64) {
        if !self.0.is_empty() {
            self.0.retain(|_, denied| now.since(denied.at) < memory);
        }
    }
}

impl Server {
    /// Sends an answer to this client, and remembers it instead of the one before.
    pub(super) fn deny(&mut self, id: SessionId, client: &PublicKey, mut half: HalfOpen, now: Reading) {
        half.answers = 1;
        let action = self.answer(&half, half.through);
        self.actions.extend(action);
        if let Some(before) = self.peculiar_of(client).denied.replace(id) {
            self.denials.0.remove(&before);
        }
        self.denials.0.insert(id, Denied { half, at: now.boot });
    }

    /// The same request once more, in another packet.
    pub(super) fn deny_again(&mut self, id: SessionId, received: &Received<'_>) -> Result<(), Refusal> {
        let Some(Denied { mut half, at }) = self.denials.0.remove(&id) else { return Err(Refusal::Replayed) };
        let answered = half.is_for(received) && half.answers < MAX_ANSWERS;
        if let Some(back) = half.back.as_mut().filter(|_| answered) {
            back.to = received.source;
            half.answers += 1;
            let action = self.answer(&half, half.through);
            self.actions.extend(action);
        }
        self.denials.0.insert(id, Denied { half, at });
        Err(Refusal::Replayed)
    }
}
