//! The state file, written by a thread of its own, so that nobody who holds the table of sessions waits for a disk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use mtd_common::abi::SessionState;
use tracing::{error, info};

use crate::model::{BootNs, LastTry, News};
use crate::proto::exchange::Publication;
use crate::state::{Marks, State, StateError};

/// A change to be noted in the state file.
pub(super) enum Note {
    /// The sessions with these fingerprints may use these numbers and slots.
    Reserved(Vec<(String, Marks)>),
    /// This introduction is about to be published: the next controller must publish a newer one.
    Publishing(Box<Publication>),
    /// The final states of sessions, by fingerprint, and what they have used.
    Ended(Vec<(String, Marks, SessionState)>),
    /// Nothing new: what could not be written is tried again.
    Again,
}

impl Note {
    fn apply(&self, state: &mut State) {
        match self {
            Self::Reserved(reserved) => {
                for (fingerprint, marks) in reserved {
                    state.begin(fingerprint.clone(), marks.clone());
                }
            }
            Self::Publishing(publication) => {
                state.published_ms = state.published_ms.max(publication.introduction.published_ms);
            }
            Self::Ended(sessions) => {
                for (fingerprint, marks, ended) in sessions {
                    state.end(fingerprint.clone(), marks.clone(), ended);
                }
            }
            Self::Again => {}
        }
    }
}

/// How long after a failure the file is written again, in ns, if nothing else asks for it.
const AGAIN: u64 = 2_000_000_000;

/// Whether the last write failed.
#[derive(Debug)]
pub(super) struct Unsaved {
    last: LastTry,
    /// When it was last tried.
    tried: BootNs,
}

impl Unsaved {
    /// After the first write, which has failed if there is an error.
    pub(super) fn new(error: Option<StateError>, now: BootNs) -> Self {
        let mut unsaved = Self { last: LastTry::default(), tried: now };
        unsaved.note(error.map_or(Ok(()), Err).as_ref(), now);
        unsaved
    }

    /// Takes the result of a write. Only a change is worth a line in the log: the file may be written ten times a second.
    pub(super) fn note(&mut self, result: Result<&(), &StateError>, now: BootNs) {
        self.tried = now;
        match self.last.note(result.err().map(ToString::to_string)) {
            Some(News::Fails(why)) => error!("{why}"),
            Some(News::Works) => info!("the state file can be written again"),
            None => {}
        }
    }

    /// Why it failed; `None`: all is saved.
    pub(super) fn why(&self) -> Option<&str> {
        self.last.failure()
    }

    /// Whether it is time to try again; that counts as tried.
    pub(super) fn is_due(&mut self, now: BootNs) -> bool {
        let due = self.why().is_some() && now.since(self.tried) >= AGAIN;
        if due {
            self.tried = now;
        }
        due
    }
}

/// A note, and whether it was written.
pub(super) type Written = (Note, Result<(), StateError>);

/// Takes notes, and returns their results in the same order.
pub(super) struct Store {
    notes: Sender<Note>,
    written: Receiver<Written>,
    /// Notes whose results nobody has taken yet.
    pending: AtomicUsize,
}

impl Store {
    /// Starts the thread. `state` is the content of the file, and `write` replaces it, whole or not at all. The thread ends
    /// with the store.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn spawn(
        mut state: State,
        mut write: impl FnMut(&State) -> Result<(), StateError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let ((notes, incoming), (outgoing, written)) = (mpsc::channel::<Note>(), mpsc::channel());
        thread::Builder::new().name("mtd-state".to_owned()).spawn(move || {
            for note in incoming {
                note.apply(&mut state);
                let result = write(&state);
                // There may be no reader left; only the last note of a controller that stops is waited for.
                let _ = outgoing.send((note, result));
            }
        })?;
        Ok(Self { notes, written, pending: AtomicUsize::new(0) })
    }

    /// Hands in a note without waiting.
    pub(super) fn note(&self, note: Note) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        if self.notes.send(note).is_err() {
            error!("the thread that writes the state file has ended");
        }
    }

    /// The result of the next note; `None`: none is ready.
    pub(super) fn next_written(&self) -> Option<Written> {
        let written = self.written.try_recv().ok()?;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        Some(written)
    }

    /// Whether nothing is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Relaxed) == 0
    }

    /// Hands in the last note, and waits until it is written.
    ///
    /// # Errors
    /// When it could not be.
    pub(super) fn finish(self, last: Note) -> Result<(), StateError> {
        self.note(last);
        drop(self.notes);
        self.written.into_iter().last().map_or(Ok(()), |(_, result)| result)
    }
}
