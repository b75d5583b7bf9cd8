//! Looking for introductions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Client, Fetched, Known, MAX_BACKOFF, Trouble};
use crate::model::BootNs;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, SECOND};
use crate::proto::rendezvous::{Introduction, OpenError, window_start, windows_around};

/// After this time without an answer, the windows beside the present one are asked for too.
const IMPATIENCE: u64 = SECOND / 2;
/// Introductions that are kept: the present window's and its neighbours'.
const MAX_KNOWN: usize = 4;

/// A search for introductions.
pub(super) struct Search {
    started: BootNs,
    /// Windows that were asked for, and whether the answer is still to come.
    asked: BTreeMap<u64, bool>,
    /// The network gave at least one answer.
    reached: bool,
    /// Something of the server was found that this program cannot read.
    unreadable: Option<OpenError>,
}

impl Client {
    /// A fetch has ended.
    pub fn handle_fetched(&mut self, window: u64, fetched: Fetched, now: Reading) {
        if let Some(search) = &mut self.search {
            if let Some(pending) = search.asked.get_mut(&window) {
                *pending = false;
            }
            search.reached |= !matches!(fetched, Fetched::Unreachable);
            if let Fetched::Unreadable(error) = fetched {
                search.unreadable = Some(error);
            }
        }
        if let Fetched::Found(introduction) = fetched {
            let known = self.known.get(&window).map_or(0, |known| known.introduction.published_ms);
            // Trying the same introduction again is worthwhile: the packets may have been lost.
            if introduction.published_ms > known
                && self.attempt.as_ref().is_some_and(|a| a.window() == window)
            {
                self.abandon_attempt();
            }
            if introduction.published_ms >= known {
                self.known.insert(window, Known { introduction, failed: false });
            }
            let present = self.window(now);
            while self.known.len() > MAX_KNOWN {
                let furthest = self.known.keys().copied().max_by_key(|known| known.abs_diff(present));
                furthest.map(|furthest| self.known.remove(&furthest));
            }
        }
        self.poll(now);
    }

    /// An introduction has come in another way than by a fetch. If it is news, it is tried at once.
    pub fn handle_brought(&mut self, window: u64, introduction: Introduction, now: Reading) {
        let known = self.known.get(&window).map(|known| known.introduction.published_ms);
        if known.is_none_or(|known| known < introduction.published_ms) {
            self.failures = 0;
            self.next_try = now.boot;
            self.handle_fetched(window, Fetched::Found(introduction), now);
        }
    }

    /// Start of the window that contains the wall-clock time, Unix time in s.
    pub(super) fn window(&self, now: Reading) -> u64 {
        window_start(now.wall.seconds(), self.settings.window)
    }

    /// The present window, and its neighbours, the nearer one first.
    fn windows(&self, now: Reading) -> [u64; 3] {
        windows_around(now.wall.seconds(), self.settings.window)
    }

    /// Tries to get a session: with a known introduction, or else by searching for one.
    pub(super) fn connect(&mut self, now: Reading) {
        let usable = self
            .windows(now)
            .into_iter()
            .find(|window| self.known.get(window).is_some_and(|known| !known.failed));
        match usable {
            Some(window) => {
                self.search = None;
                self.asked_by_it = 0;
                self.start_attempt(window, 0, now);
            }
            None if self.search.is_none() => {
                self.search = Some(Search {
                    started: now.boot,
                    asked: BTreeMap::new(),
                    reached: false,
                    unreadable: None,
                });
                let window = self.window(now);
                self.ask(window);
            }
            None => {}
        }
    }

    fn ask(&mut self, window: u64) {
        if let Some(search) = &mut self.search
            && let Entry::Vacant(entry) = search.asked.entry(window)
        {
            entry.insert(true);
            self.actions.push_back(Action::Fetch { window });
        }
    }

    /// Asks for the neighbouring windows when the present one has nothing, and gives up when none has (MT-23).
    pub(super) fn continue_search(&mut self, now: Reading) {
        let Some(search) = &self.search else { return };
        let pending = search.asked.values().any(|pending| *pending);
        if search.asked.len() > 1 && !pending {
            let found = self.windows(now).iter().any(|window| self.known.contains_key(window));
            let trouble = match (search.reached, search.unreadable, self.trouble) {
                // Found, and tried before.
                (true, _, Some(other @ Trouble::OtherVersion(..))) if found => other,
                (true, None, _) if found => Trouble::NoAnswer,
                (true, Some(error), _) => Trouble::Unreadable(error),
                (true, None, _) => Trouble::NothingPublished,
                (false, ..) => Trouble::NetworkUnreachable,
            };
            self.search = None;
            // If the network cannot be asked again, the introduction already known is tried again.
            self.known.values_mut().for_each(|known| known.failed = false);
            self.fail(trouble, now);
        } else if search.asked.len() == 1 && (!pending || now.boot.since(search.started) >= IMPATIENCE) {
            for window in self.windows(now) {
                self.ask(window);
            }
        }
    }

    /// Fetches the introduction of a new window in good time, so that the server is found again when the network is
    /// gone.
    pub(super) fn refresh(&mut self, now: Reading) {
        let window = self.window(now);
        let due = self.current().is_some()
            && self.search.is_none()
            && !self.known.contains_key(&window)
            && now.boot.since(self.last_refresh) >= MAX_BACKOFF;
        if due {
            self.last_refresh = now.boot;
            self.actions.push_back(Action::Fetch { window });
        }
    }
}
