//! A server's introductions for clients that do not reach the DHT: printed on request, and kept in a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::Path as UrlPath;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::super::meeting::{Meeting, seal};
use crate::files;
use crate::http::{Reason, Refusal, answer};
use crate::keys::PublicKey;
use crate::model::{LastTry, News};
use crate::proto::exchange::Publication;
use crate::proto::rendezvous::carried::{Carried, MAX_INTRODUCTIONS};
use crate::proto::rendezvous::{Introduction, SEALED_BYTES, Shared, window_start};
use crate::status::{IntroductionFile, SCHEMA};
use crate::subsystem::Context;

/// Path of the introductions for a client at the control socket; its name follows.
pub const INTRODUCTIONS_PATH: &str = "/v1/introductions";

/// How long changes are gathered before the folder is written.
const PAUSE: Duration = Duration::from_millis(500);

/// When writing is tried again after a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// What the names of files end with.
const SUFFIX: &str = ".introduction";

/// The introductions for one client, as `mtd introduction --json` prints them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntroductionDocument {
    /// Version of the document.
    pub schema: u32,
    /// Name of the client.
    pub name: String,
    /// Public key of the client, base64.
    pub public_key: String,
    /// Number of introductions.
    pub introductions: u64,
    /// Until when they are good if the server goes on without a restart, in unix seconds.
    pub good_until: u64,
    /// The content of the file.
    pub file: String,
}

/// The introductions that a server has published or made ahead.
#[derive(Default)]
pub(in crate::rendezvous) struct Handout {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the starts of their windows, Unix time in s.
    introductions: BTreeMap<u64, Introduction>,
    /// Whether the folder could be written.
    written: LastTry,
}

impl Handout {
    /// Takes what the server publishes or makes ahead. Windows before the present one are over, and those far ahead are of a
    /// clock that was wrong.
    pub(in crate::rendezvous) fn add(&self, publication: &Publication, (present, window): (u64, u64)) {
        let mut state = self.lock();
        let last = present.saturating_add(window * MAX_INTRODUCTIONS as u64);
        state.introductions.retain(|window, _| (present..last).contains(window));
        let introduction = publication.introduction.clone();
        // One that is published again for a single client has a later time, and is otherwise the same.
        if publication.client.is_none() || !state.introductions.contains_key(&publication.window) {
            state.introductions.insert(publication.window, introduction);
        }
    }

    /// The introductions for a client; `published` has those that are in the DHT for it. `None`: there are none.
    pub(in crate::rendezvous) fn for_client(
        &self,
        (client, shared, server): (&PublicKey, &Shared, &PublicKey),
        published: &BTreeMap<u64, Vec<u8>>,
        (present, window): (u64, u64),
    ) -> Option<Carried> {
        let mut sealed = BTreeMap::new();
        for (start, introduction) in self.lock().introductions.range(present..) {
            let ready =
                published.get(start).and_then(|value| <[u8; SEALED_BYTES]>::try_from(value.as_slice()).ok());
            let message = ready.or_else(|| seal(introduction, &shared.rendezvous(server, client, *start)));
            sealed.extend(message.map(|message| (*start, message)));
        }
        (!sealed.is_empty()).then_some(Carried { window, sealed })
    }

    /// Notes whether the folder could be written.
    pub(in crate::rendezvous) fn note(&self, result: io::Result<()>) {
        let problem = result.err().map(|error| format!("it cannot be written: {error}"));
        if let Some(News::Fails(problem)) = self.lock().written.note(problem) {
            tracing::warn!("introductions_dir: {problem}");
        }
    }

    /// The part of the status about this folder.
    pub(in crate::rendezvous) fn status(&self, folder: &Path, window: u64) -> IntroductionFile {
        let state = self.lock();
        IntroductionFile {
            server: None,
            path: folder.display().to_string(),
            good_until: state.introductions.last_key_value().map(|(start, _)| (start + window) as f64),
            problem: state.written.failure().map(str::to_owned),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meeting {
    /// The requests for introductions.
    pub(in crate::rendezvous) fn handing_routes(self: Arc<Self>, context: &Context) -> Router {
        let (meeting, context) = (self, context.clone());
        let hand =
            move |UrlPath(name): UrlPath<String>| async move { answer(meeting.document(&name, &context)) };
        Router::new().route(&format!("{INTRODUCTIONS_PATH}/{{name}}"), get(hand))
    }

    fn document(&self, name: &str, context: &Context) -> Result<IntroductionDocument, Refusal> {
        let Some((_, grace)) = &self.listen else {
            let what = "this host is no server: it has no [listen] section, and no introductions for others";
            return Err(Refusal::new(Reason::NotFound, what));
        };
        let named = context.sessions().named_clients();
        let Some((client, _)) = named.into_iter().find(|(_, known)| known == name) else {
            let what = format!("there is no client {name}; `mtd peers list` shows all");
            return Err(Refusal::new(Reason::NotFound, what));
        };
        let carried = self.carried(&client, context).ok_or_else(|| {
            Refusal::new(Reason::NotFound, "there is no introduction yet: ask again in some seconds")
        })?;
        Ok(IntroductionDocument {
            schema: SCHEMA,
            name: name.to_owned(),
            public_key: client.to_string(),
            introductions: carried.sealed.len() as u64,
            good_until: carried.end() + grace,
            file: carried.to_text(),
        })
    }

    /// The introductions for a client, from the present window on.
    fn carried(&self, client: &PublicKey, context: &Context) -> Option<Carried> {
        let (shared, server) = context.sessions().shared_with(client)?;
        let window = self.window();
        let present = window_start(context.clock.read().wall.seconds(), window);
        self.handout.for_client((client, &shared, &server), &self.published(client), (present, window))
    }

    /// Keeps the folder up to date until the controller stops.
    pub(in crate::rendezvous) async fn hand_out(self: Arc<Self>, context: Context) -> anyhow::Result<()> {
        let Some((Some(folder), _)) = &self.listen else { return Ok(()) };
        loop {
            tokio::select! {
                () = context.shutdown().begun() => return Ok(()),
                () = self.handout_changed.notified() => {}
            }
            // Changes come together, as when a window begins.
            tokio::time::sleep(PAUSE).await;
            let mut texts = BTreeMap::new();
            let clients = context.sessions().named_clients();
            for (client, name) in clients {
                texts.extend(self.carried(&client, &context).map(|carried| (name, carried.to_text())));
                // Sealing for very many clients takes a while, in which other tasks want to run.
                tokio::task::yield_now().await;
            }
            let written = tokio::select! {
                () = context.shutdown().begun() => return Ok(()),
                written = keep_folder(folder, texts) => written,
            };
            let failed = written.is_err();
            self.handout.note(written);
            if failed {
                tokio::time::sleep(AGAIN).await;
                self.handout_changed.notify_one();
            }
        }
    }
}

/// Writes the files of a folder, by names of clients, and removes those of others. On a thread of its own, since a disk may
/// hang.
async fn keep_folder(folder: &Path, texts: BTreeMap<String, String>) -> io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let folder = folder.to_owned();
    thread::Builder::new().name("mtd-carried".to_owned()).spawn(move || {
        // Nobody may wait for it any more.
        let _ = sender.send(write(&folder, &texts));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread that writes has failed")))
}

fn write(folder: &Path, texts: &BTreeMap<String, String>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text) in texts {
        // A web server, which is another user, reads it.
        files::replace(&folder.join(format!("{name}{SUFFIX}")), text.as_bytes(), 0o644)?;
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let client = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        if client.is_some_and(|client| !client.starts_with('.') && !texts.contains_key(client)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_file_for_each_client_and_none_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper");
        let texts =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), format!("of {name}\n"))).collect();
        write(&path, &texts(&["alice", "bob"])).unwrap();
        fs::write(path.join("index.html"), "").unwrap();
        write(&path, &texts(&["alice"])).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["alice.introduction", "index.html"]);
        assert_eq!(fs::read_to_string(path.join("alice.introduction")).unwrap(), "of alice\n");
        assert!(write(&path.join("index.html"), &texts(&[])).is_err());
    }
}
