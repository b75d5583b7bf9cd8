//! The state file, written by a thread of its own, so that nobody who holds the table of sessions waits for a disk.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use mtd_common::abi::SessionState;
use tracing::error;

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
        }
    }
}

/// A note, and whether it was written.
pub(super) type Written = (Note, Result<(), StateError>);

/// Takes notes, and returns their results in the same order.
pub(super) struct Store {
    notes: Sender<Note>,
    written: Receiver<Written>,
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
        Ok(Self { notes, written })
    }

    /// Hands in a note without waiting.
    pub(super) fn note(&self, note: Note) {
        if self.notes.send(note).is_err() {
            error!("the thread that writes the state file has ended");
        }
    }

    /// The result of the next note; `None`: none is ready.
    pub(super) fn next_written(&self) -> Option<Written> {
        self.written.try_recv().ok()
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
