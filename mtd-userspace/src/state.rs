//! The state that outlives a stop of the controller: the sequence numbers that were used, so that no packet is accepted
//! twice and no nonce is used twice. It contains no keys.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mtd_common::abi::SessionState;
use mtd_common::window::WINDOW_WORDS;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::remedy::{Doing, clause};

/// Version of the file.
const VERSION: u32 = 3;

/// The version before, which is read too.
const BEFORE: u32 = 2;

/// Longest file that is read, in bytes: enough for 100,000 sessions.
const MAX_BYTES: u64 = 256 << 20;

/// By how many bytes a session's part of the file grows at most when it ends: its window.
const GROWTH: u64 = WINDOW_WORDS as u64 * 21 + 128;

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
#[serde(deny_unknown_fields)]
struct Entry {
    /// See [`Marks`].
    sent: Vec<Range<u64>>,
    /// See [`Marks`].
    lived: u64,
    /// See [`Marks`].
    loaded: u64,
    /// See [`Marks`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<SessionClock>,
    /// What is remembered after a clean stop; absent while the controller runs, or if it has ended without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Memory>,
}

/// What a session has used and must never use again, from its first start here on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Ranges of sequence numbers that may have been sent, the present one last.
    pub sent: Vec<Range<u64>>,
    /// Packets may have been received in slots before this one, without those of the present clock.
    pub lived: u64,
    /// Slots before this one may have been loaded, or may be before more is noted.
    pub loaded: u64,
    /// The present clock of the session; `None`: it does not run.
    pub clock: Option<SessionClock>,
}

/// The clock of a session that runs. With it, whoever finds the file during the same boot of the host knows exactly which
/// slots can have been live by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionClock {
    /// The kernel's identifier of the boot.
    pub boot: String,
    /// Session time minus boot time in ns, modulo 2^64.
    pub offset: u64,
}

impl Entry {
    fn new(marks: Marks, stopped: Option<Memory>) -> Self {
        let Marks { sent, lived, loaded, clock } = marks;
        Self { sent, lived, loaded, clock, stopped }
    }

    fn marks(&self) -> Marks {
        let Self { sent, lived, loaded, clock, .. } = self.clone();
        Marks { sent, lived, loaded, clock }
    }
}

/// What a session has received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// The highest sequence number received.
    highest: u64,
    /// The words of the window.
    window: Vec<u64>,
    /// Slots before this one must not be used.
    not_before: u64,
}

/// What is known of a session's earlier run, on which its start depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// The session never ran here: no packet can have been accepted before.
    None,
    /// It ended cleanly: what it has received is known.
    Known(Box<SessionState>, Marks),
    /// It ended without saving its memory: slots that may have been live then must not be used again.
    Lost(Marks),
}

impl Past {
    /// What must not be used again.
    pub fn marks(&self) -> Marks {
        match self {
            Self::None => Marks::default(),
            Self::Known(_, marks) | Self::Lost(marks) => marks.clone(),
        }
    }
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the state file {}: {cause}{}", path.display(), clause(Doing::File("state_dir"), cause))]
pub struct StateError {
    doing: &'static str,
    path: PathBuf,
    /// Not marked as a source, since the message contains it already.
    cause: io::Error,
}

impl StateError {
    /// As a full disk causes it.
    #[cfg(test)]
    pub fn of_a_full_disk() -> Self {
        Self { doing: "write", path: PathBuf::new(), cause: io::Error::from_raw_os_error(libc::ENOSPC) }
    }

    /// Whether the disk does not take it now, although everything is right that an operator has configured.
    pub fn is_of_the_disk(&self) -> bool {
        matches!(self.cause.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO))
    }
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
        let Head { version } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let state: Self = match version {
            VERSION => serde_json::from_slice(text).map_err(|e| e.to_string())?,
            BEFORE => before::decode(text)?,
            other => return Err(format!("version {other}, neither {BEFORE} nor {VERSION}")),
        };
        let mut memories = state.sessions.values().filter_map(|entry| entry.stopped.as_ref());
        if memories.all(|memory| memory.window.len() == WINDOW_WORDS) {
            Ok(state)
        } else {
            Err("window of another size".to_owned())
        }
    }

    /// The past of the session with this fingerprint.
    pub fn past(&self, fingerprint: &str) -> Past {
        let Some(entry) = self.sessions.get(fingerprint) else { return Past::None };
        let Some(Memory { highest, window, not_before }) = &entry.stopped else {
            return Past::Lost(entry.marks());
        };
        let mut state =
            SessionState { rx_not_before: *not_before, rx_highest: *highest, ..SessionState::default() };
        state.window.copy_from_slice(window);
        Past::Known(Box::new(state), entry.marks())
    }

    /// Notes that a session runs and uses nothing beyond these marks until more is noted.
    pub fn begin(&mut self, fingerprint: String, marks: Marks) {
        self.sessions.insert(fingerprint, Entry::new(marks, None));
    }

    /// Notes the final state of a session.
    pub fn end(&mut self, fingerprint: String, marks: Marks, state: &SessionState) {
        let (highest, window) = (state.rx_highest, state.window.to_vec());
        let stopped = Some(Memory { highest, window, not_before: state.rx_not_before });
        self.sessions.insert(fingerprint, Entry::new(marks, stopped));
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
        // So that the last word at a clean stop, which is longer, can be written on a full disk too.
        let growth = self.sessions.values().filter(|entry| entry.stopped.is_none()).count() as u64 * GROWTH;
        files::replace_in_room(path, &text, growth, 0o600).map_err(failed)
    }
}

/// What tells a file's version.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// Files of the version before: without ranges of numbers, and without slots.
mod before {
    use std::collections::BTreeMap;
    use std::iter::once;

    use serde::Deserialize;

    use super::{Marks, Memory, State, VERSION};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "version")]
        _version: u32,
        sessions: BTreeMap<String, Entry>,
        #[serde(default)]
        published_ms: u64,
    }

    #[derive(Deserialize)]
    #[serde(tag = "stop", rename_all = "lowercase", deny_unknown_fields)]
    enum Entry {
        Unclean { reserved: u64 },
        Clean { tx_sequence: u64, highest: u64, window: Vec<u64>, not_before: u64 },
    }

    pub(super) fn decode(text: &[u8]) -> Result<State, String> {
        let file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let sessions = file.sessions.into_iter().map(|(fingerprint, entry)| {
            let (sent, stopped) = match entry {
                Entry::Unclean { reserved } => (reserved, None),
                Entry::Clean { tx_sequence, highest, window, not_before } => {
                    (tx_sequence, Some(Memory { highest, window, not_before }))
                }
            };
            // All numbers up to the last one counted as used.
            let marks = Marks { sent: once(0..sent).collect(), ..Marks::default() };
            (fingerprint, super::Entry::new(marks, stopped))
        });
        let sessions = sessions.collect();
        Ok(State { version: VERSION, sessions, published_ms: file.published_ms })
    }
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;

    fn marks(end: u64) -> Marks {
        let clock = Some(SessionClock { boot: "b".to_owned(), offset: u64::MAX });
        Marks { sent: vec![1..2, 5..end], lived: 12, loaded: 15, clock }
    }

    #[test]
    fn a_clean_stop_is_remembered_and_an_unclean_one_is_known_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper").join("eth0.json");
        let mut state = State::read(&path).unwrap().unwrap();
        assert_eq!(state.past("a"), Past::None);
        state.begin("a".to_owned(), marks(7));
        state.begin("b".to_owned(), marks(7));
        let mut ended = SessionState { rx_not_before: 9, rx_highest: 77, ..SessionState::default() };
        ended.window[32] = u64::MAX;
        state.end("b".to_owned(), marks(42), &ended);
        state.write(&path).unwrap();
        let read = State::read(&path).unwrap().unwrap();
        assert_eq!(read, state);
        assert_eq!(read.past("a"), Past::Lost(marks(7)));
        assert_eq!(read.past("b"), Past::Known(Box::new(ended), marks(42)));
    }

    #[test]
    fn a_damaged_file_is_told_from_a_missing_one() {
        for text in ["", "{", "[]", r#"{"version":1,"sessions":{}}"#, r#"{"version":3,"sessions":{},"x":1}"#]
        {
            assert!(State::decode(text.as_bytes()).is_err(), "{text}");
        }
        let short = r#"{"version":3,"sessions":{"a":{"sent":[],"lived":0,"loaded":0,"stopped":{"highest":1,"window":[1,2],"not_before":0}}}}"#;
        assert_eq!(State::decode(short.as_bytes()), Err("window of another size".to_owned()));
        let more = r#"{"version":3,"sessions":{"a":{"sent":[],"lived":0,"loaded":0,"x":0}}}"#;
        assert!(State::decode(more.as_bytes()).is_err());
    }

    #[test]
    fn files_of_the_version_before_are_read() {
        let window = serde_json::to_string(&vec![1_u64; WINDOW_WORDS]).unwrap();
        let text = format!(
            r#"{{"version":2,"sessions":{{"a":{{"stop":"unclean","reserved":7}},
            "b":{{"stop":"clean","tx_sequence":5,"highest":8,"window":{window},"not_before":3}}}},"published_ms":4}}"#
        );
        let state = State::decode(text.as_bytes()).unwrap();
        assert_eq!((state.version, state.published_ms), (VERSION, 4));
        assert_eq!(state.past("a"), Past::Lost(Marks { sent: once(0..7).collect(), ..Marks::default() }));
        let Past::Known(ended, marks) = state.past("b") else { panic!("{state:?}") };
        assert_eq!((ended.rx_highest, ended.rx_not_before, marks.sent), (8, 3, once(0..5).collect()));
        let written = serde_json::to_vec(&state).unwrap();
        assert_eq!(State::decode(&written), Ok(state));
    }
}
