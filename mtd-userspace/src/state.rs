//! The state that outlives a stop of the controller: the sequence numbers that were used, so that no packet is accepted
//! twice and no nonce is used twice. It contains no keys.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mtd_common::abi::SessionState;
use mtd_common::window::WINDOW_WORDS;
use serde::{Deserialize, Serialize};

use crate::files;

/// Version of the file's format.
const VERSION: u32 = 2;

/// Longest file that is read, in bytes: enough for 100,000 sessions.
const MAX_BYTES: u64 = 256 << 20;

/// The sessions of one instance, by fingerprint.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    sessions: BTreeMap<String, Entry>,
    /// Unix time in ms of the newest introduction that was published, or later: the next one must be newer, even if the
    /// clock goes back. 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub published_ms: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, sessions: BTreeMap::new(), published_ms: 0 }
    }
}

/// The state of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stop", rename_all = "lowercase", deny_unknown_fields)]
enum Entry {
    /// The controller runs, or ended without a clean stop.
    Unclean {
        /// Sequence numbers below this one may have been sent.
        reserved: u64,
    },
    /// Saved at a clean stop.
    Clean {
        /// Next sequence number to send.
        tx_sequence: u64,
        /// The highest sequence number received.
        highest: u64,
        /// The words of the window.
        window: Vec<u64>,
        /// Slots before this one must not be used.
        not_before: u64,
    },
}

/// What is known of a session's earlier run, on which its start depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// The session never ran here: no packet can have been accepted before.
    None,
    /// The session ended cleanly: it continues from the saved state.
    Known(Box<SessionState>),
    /// The session ended without saving its state: slots that may have been live then must not be used again.
    Lost {
        /// Sequence numbers below this one may have been sent.
        reserved: u64,
    },
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the state file {}: {cause}; check state_dir in the configuration", path.display())]
pub struct StateError {
    doing: &'static str,
    path: PathBuf,
    /// Not marked as a source, since the message contains it already.
    cause: io::Error,
}

impl State {
    /// Reads the file. A missing file counts as empty; one that cannot be parsed is `Err` inside `Ok`: every session then
    /// counts as [`Past::Lost`].
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(path: &Path) -> Result<Result<Self, String>, StateError> {
        let failed = |cause| StateError { doing: "read", path: path.to_owned(), cause };
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Self::default())),
            Err(error) => return Err(failed(error)),
            Ok(meta) if meta.len() > MAX_BYTES => return Ok(Err(format!("{} bytes long", meta.len()))),
            Ok(_) => fs::read(path).map_err(failed)?,
        };
        Ok(Self::decode(&text))
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// The reason why it is not a state file.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if state.version != VERSION {
            return Err(format!("version {}, not {VERSION}", state.version));
        }
        let complete = |entry: &Entry| match entry {
            Entry::Unclean { .. } => true,
            Entry::Clean { window, .. } => window.len() == WINDOW_WORDS,
        };
        if state.sessions.values().all(complete) {
            Ok(state)
        } else {
            Err("window of another size".to_owned())
        }
    }

    /// The past of the session with this fingerprint.
    pub fn past(&self, fingerprint: &str) -> Past {
        match self.sessions.get(fingerprint) {
            None => Past::None,
            Some(Entry::Unclean { reserved }) => Past::Lost { reserved: *reserved },
            Some(Entry::Clean { tx_sequence, highest, window, not_before }) => {
                let mut state = SessionState {
                    tx_sequence: *tx_sequence,
                    rx_not_before: *not_before,
                    rx_highest: *highest,
                    ..SessionState::default()
                };
                state.window.copy_from_slice(window);
                Past::Known(Box::new(state))
            }
        }
    }

    /// Notes that a session runs, and that it sends only sequence numbers below `reserved` until a higher limit is noted.
    pub fn begin(&mut self, fingerprint: String, reserved: u64) {
        self.sessions.insert(fingerprint, Entry::Unclean { reserved });
    }

    /// Notes the final state of a session.
    pub fn end(&mut self, fingerprint: String, state: &SessionState) {
        let entry = Entry::Clean {
            tx_sequence: state.tx_sequence,
            highest: state.rx_highest,
            window: state.window.to_vec(),
            not_before: state.rx_not_before,
        };
        self.sessions.insert(fingerprint, entry);
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be made, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let failed = |cause| StateError { doing: "write", path: path.to_owned(), cause };
        let text = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        files::replace(path, &text, 0o600).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_stop_is_remembered_and_an_unclean_one_is_known_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper").join("eth0.json");
        let mut state = State::read(&path).unwrap().unwrap();
        assert_eq!(state.past("a"), Past::None);
        state.begin("a".to_owned(), 7);
        state.begin("b".to_owned(), 7);
        let mut ended =
            SessionState { tx_sequence: 42, rx_not_before: 9, rx_highest: 77, ..SessionState::default() };
        ended.window[32] = u64::MAX;
        state.end("b".to_owned(), &ended);
        state.write(&path).unwrap();
        let read = State::read(&path).unwrap().unwrap();
        assert_eq!(read, state);
        assert_eq!(read.past("a"), Past::Lost { reserved: 7 });
        assert_eq!(read.past("b"), Past::Known(Box::new(ended)));
    }

    #[test]
    fn a_damaged_file_is_told_from_a_missing_one() {
        for text in ["", "{", "[]", r#"{"version":1,"sessions":{}}"#, r#"{"version":2,"sessions":{},"x":1}"#]
        {
            assert!(State::decode(text.as_bytes()).is_err(), "{text}");
        }
        let short = r#"{"version":2,"sessions":{"a":{"stop":"clean","tx_sequence":1,"highest":1,"window":[1,2],"not_before":0}}}"#;
        assert_eq!(State::decode(short.as_bytes()), Err("window of another size".to_owned()));
    }
}
