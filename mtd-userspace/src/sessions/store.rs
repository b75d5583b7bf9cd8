//! The state file, written by a thread of its own: nobody who holds the table of sessions waits for a disk.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use mtd_common::abi::SessionState;
use tracing::error;

use crate::proto::exchange::Publication;
use crate::state::{State, StateError};

/// What is to be noted in the state file.
pub(super) enum Note {
    /// Sessions, by fingerprint, may send numbers below these.
    Reserved(Vec<(String, u64)>),
    /// This introduction is about to be published: the next controller must publish something newer.
    Publishing(Box<Publication>),
    /// With what the sessions, by fingerprint, have ended.
    Ended(Vec<(String, SessionState)>),
}

impl Note {
    fn apply(&self, state: &mut State) {
        match self {
            Self::Reserved(reserved) => {
                for (fingerprint, below) in reserved {
                    state.begin(fingerprint.clone(), *below);
                }
            }
            Self::Publishing(publication) => {
                state.published_ms = state.published_ms.max(publication.introduction.published_ms);
            }
            Self::Ended(sessions) => {
                for (fingerprint, ended) in sessions {
                    state.end(fingerprint.clone(), ended);
                }
            }
        }
    }
}

/// What came of a note.
pub(super) type Written = (Note, Result<(), StateError>);

/// Where notes are handed in, and what came of them is handed out: in the same order.
pub(super) struct Store {
    notes: Sender<Note>,
    written: Receiver<Written>,
}

impl Store {
    /// Starts the thread. `state` is what the file holds, and `write` puts another state into it, whole or not at all. The
    /// thread ends with the store.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn spawn(
        mut state: State,
        mut write: impl FnMut(&State) -> Result<(), StateError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let ((notes, incoming), (outgoing, written)) = (mpsc::channel::<Note>(), mpsc::channel());
        thread::Builder::new().name("mtd-state".to_owned()).spawn(move || {
            for note in incoming {
                note.apply(&mut state);
                let result = write(&state);
                // Nobody may care any more: the last note of a stopped controller is awaited.
                let _ = outgoing.send((note, result));
            }
        })?;
        Ok(Self { notes, written })
    }

    /// Hands in a note, and waits for nothing.
    pub(super) fn note(&self, note: Note) {
        if self.notes.send(note).is_err() {
            error!("the thread that writes the state file has ended");
        }
    }

    /// The next note that is written, or could not be; `None`: none yet.
    pub(super) fn next_written(&self) -> Option<Written> {
        self.written.try_recv().ok()
    }

    /// Hands in the last note and waits until it is written.
    ///
    /// # Errors
    /// When it could not be.
    pub(super) fn finish(self, last: Note) -> Result<(), StateError> {
        self.note(last);
        drop(self.notes);
        self.written.into_iter().last().map_or(Ok(()), |(_, result)| result)
    }
}
