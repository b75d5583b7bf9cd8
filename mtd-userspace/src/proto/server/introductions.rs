//! The introductions of a server: opened and closed with the windows, made ahead, replaced when a client is removed.

use std::sync::Arc;
use std::time::Duration;

use mtd_common::address::End;

use super::{Open, Server};
use crate::keys::{PublicKey, SecretKey};
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, Install, Publication, SECOND, random_bytes};
use crate::proto::messages::{Tunnel, VERSION};
use crate::proto::rendezvous::{Introduction, window_start};
use crate::proto::session::{Role, Session};

/// Time over which new introductions are published, in ns: short, since a client that was just registered may have none yet.
const RENEWAL: u64 = 2 * SECOND;
/// How long the old ones stay open, in ns: publishing for very many clients takes a while.
const RENEWAL_GRACE: u64 = 60 * SECOND;

impl Server {
    /// Opens the introductions that are due and closes those that are over (MT-22). The next window's is opened and
    /// published before it begins, so that it is there when it begins, and clients whose clock is ahead find it.
    pub(super) fn rotate(&mut self, now: Reading) {
        let n = self.settings.window;
        let window = window_start(now.wall.seconds(), n);
        let reach = (n * SECOND + self.settings.grace) / SECOND;
        let over = |open: &Open| {
            let closed = open.closes.is_some_and(|closes| now.boot >= closes);
            closed || now.wall.seconds() >= open.window + reach || open.window > window + n
        };
        for open in self.introductions.extract_if(.., |open| over(open)) {
            self.actions.push_back(Action::Remove(open.id));
        }
        if self.blocked_until.is_some_and(|until| now.boot < until) {
            return;
        }
        self.renew(now);
        let first = self.introductions.is_empty();
        if !self.is_open(window) {
            self.open(window, if first { 0 } else { n * SECOND / 6 }, now);
        }
        let early = window + n - (n / 3).max(1);
        if now.wall.seconds() >= early && !self.is_open(window + n) {
            self.open(window + n, n * SECOND / 6, now);
        }
        self.prepare(window);
    }

    /// Makes introductions ahead of their windows.
    fn prepare(&mut self, window: u64) {
        let n = self.settings.window;
        let last = window + n * self.settings.ahead;
        self.prepared.retain(|prepared, _| (window..=last).contains(prepared));
        for ahead in (window + n..=last).step_by(n as usize) {
            if self.prepared.contains_key(&ahead) || self.is_open(ahead) {
                continue;
            }
            let (server, key) = self.fresh_introduction();
            // Older than what is published later for this window, newer than what was made for it before.
            let published_ms = self.last_published;
            let introduction = Introduction { published_ms, ..self.introduction(server, &key) };
            self.prepared.insert(ahead, (server, key));
            let publication =
                Publication { window: ahead, introduction, client: None, within: 0, ahead: true };
            self.actions.push_back(Action::Publish(publication));
        }
    }

    /// An end and a key for a new introduction.
    fn fresh_introduction(&mut self) -> (End, SecretKey) {
        let key = SecretKey::from_bytes(random_bytes(&mut self.random));
        let seed = Introduction::seed_for(&(VERSION..=VERSION), &key);
        (End { network: self.settings.network, seed }, key)
    }

    /// The introduction of an end of this server and a key, without its time of publication.
    fn introduction(&self, server: End, key: &SecretKey) -> Introduction {
        Introduction {
            network: server.network,
            seed: server.seed,
            key: key.clone(),
            rot: Duration::from_nanos(self.settings.period),
            slot: Duration::from_nanos(self.settings.introduction_slot),
            published_ms: 0,
        }
    }

    /// Replaces the introductions that a removed client knows. The others find the new ones when they need them.
    fn renew(&mut self, now: Reading) {
        if self.renew_at.is_none_or(|at| now.boot < at) {
            return;
        }
        self.renew_at = None;
        let windows: Vec<_> =
            self.introductions.iter().filter(|open| open.closes.is_none()).map(|open| open.window).collect();
        for open in &mut self.introductions {
            open.closes.get_or_insert(now.boot + RENEWAL_GRACE);
        }
        self.prepared.clear();
        for window in windows {
            self.open(window, RENEWAL, now);
        }
    }

    fn is_open(&self, window: u64) -> bool {
        self.introductions.iter().any(|open| open.window == window && open.closes.is_none())
    }

    fn open(&mut self, window: u64, within: u64, now: Reading) {
        let (server, key) = self.prepared.remove(&window).unwrap_or_else(|| self.fresh_introduction());
        let slot = self.settings.introduction_slot;
        let session = Arc::new(Session::introduction(server, key.as_bytes(), window, slot));
        let introduction = self.introduction(server, &key);
        let id = self.new_id();
        self.actions.push_back(Action::Install(Box::new(Install {
            id,
            session: Arc::clone(&session),
            offset: now.offset(),
            started: now.boot,
            role: Role::Server,
            peer: self.public,
            local: Tunnel::default(),
            remote: Tunnel::default(),
            translated: false,
        })));
        self.introductions.push(Open { id, window, introduction, session, closes: None });
        if !self.clients.is_empty() {
            self.publish(self.introductions.len() - 1, None, within, now);
        }
    }

    pub(super) fn publish(&mut self, open: usize, client: Option<PublicKey>, within: u64, now: Reading) {
        let Some(open) = self.introductions.get(open) else { return };
        // Never the same twice: it becomes the sequence number of the published item.
        self.last_published = (now.wall.milliseconds()).max(self.last_published + 1);
        let introduction = Introduction { published_ms: self.last_published, ..open.introduction.clone() };
        let window = open.window;
        self.actions.push_back(Action::Publish(Publication {
            window,
            introduction,
            client,
            within,
            ahead: false,
        }));
    }
}
