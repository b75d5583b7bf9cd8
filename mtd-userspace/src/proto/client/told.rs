//! What the server says when it ends a session, or gives none.

use mtd_common::address::End;

use super::{Client, MAX_BACKOFF, Trouble};
use crate::proto::clock::Reading;
use crate::proto::exchange::{SECOND, SessionId, random_u64};
use crate::proto::messages::{Capabilities, Denial, Reason, Reply, Request, Response, Text, VERSION};

/// How soon this controller asks again, in ns, after it has heard that another one with its key has the session: the server
/// believes it only then.
const PROOF: u64 = SECOND / 2;
/// How often it asks after that, in ns: when the other one stops, this one is to get in within seconds.
const IN_USE: u64 = 5 * SECOND;

impl Client {
    /// What the server said when it last ended a session, or gave none.
    pub const fn said(&self) -> Text {
        self.said
    }

    /// What the server can do, as it has said.
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.current().and_then(|current| current.capabilities)
    }

    /// The payload of a request.
    pub(super) fn request(&self, end: End) -> Request {
        Request {
            end,
            tunnel: self.tunnel.map_or([0; 16], |(own, _)| own.to_map()[0]),
            period_ms: self.settings.period_ms,
            capabilities: Some(Capabilities::OWN),
            instance: Some(self.instance),
            token: self.token,
            unknown: None,
        }
    }

    /// The terms in an authentic answer of the server. `None`: it is not sound, or gives no session.
    pub(super) fn terms(&mut self, payload: &[u8], now: Reading) -> Option<Response> {
        match Reply::decode(payload)? {
            Reply::Session(Response { unknown: Some(option), .. }) => {
                self.give_up(Trouble::UnknownOption(option), MAX_BACKOFF, now);
                None
            }
            Reply::Session(response) => Some(response),
            Reply::Denied(denial) => {
                self.handle_denial(denial, now);
                None
            }
        }
    }

    /// The server knows this client, and gives it no session.
    fn handle_denial(&mut self, denial: Denial, now: Reading) {
        let Denial { reason, token, text } = denial;
        self.said = text;
        let told_before = self.token.replace(token) == Some(token);
        let wait = match reason {
            Reason::InUse if told_before => IN_USE,
            Reason::InUse => PROOF,
            _ => MAX_BACKOFF,
        };
        self.give_up(Trouble::Denied(reason), wait, now);
    }

    /// The server has ended a session.
    pub(super) fn handle_term(&mut self, id: SessionId, reason: Reason, text: Text, now: Reading) {
        let was_current = self.current().is_some_and(|current| current.id == id);
        if !self.remove(id) || !was_current {
            return;
        }
        self.said = text;
        self.rekey = None;
        // Otherwise the server goes on, and takes this client back at the same introduction.
        if !matches!(reason, Reason::Idle | Reason::Renumbered | Reason::InUse) {
            // A server that comes back has another one.
            self.known.values_mut().for_each(|known| known.failed = true);
        }
        self.fail(Trouble::TornDown(reason), now);
    }

    /// Whether the server that has published the introduction of a window takes no handshake of this version. Then that is why there is no
    /// session. It is asked all the same, so that its operator is told too.
    pub(super) fn note_versions(&mut self, window: u64) -> bool {
        let Some(known) = self.known.get(&window) else { return false };
        let versions = known.introduction.versions();
        let other = !versions.contains(&VERSION);
        if other {
            self.trouble = Some(Trouble::OtherVersion(*versions.start(), *versions.end()));
        }
        other
    }

    /// Ends what is going on, and tries again after `wait` ns and a little more.
    fn give_up(&mut self, trouble: Trouble, wait: u64, now: Reading) {
        self.abandon_attempt();
        if self.rekey.take().is_some()
            && let Some(current) = self.sessions.last_mut()
        {
            current.rekey_at = current.rekey_at.max(now.boot + wait);
        }
        self.fail(trouble, now);
        self.wait(wait, now);
    }

    fn wait(&mut self, wait: u64, now: Reading) {
        let jitter = random_u64(&mut self.random) % (wait / 2).max(1);
        self.next_try = now.boot + wait + jitter;
    }
}
