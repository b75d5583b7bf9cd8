//! The parts of messages to people: what is wrong, and what to do about it.

use std::fmt;

/// Most characters of a value that a message shows.
pub const MAX_SHOWN: usize = 64;

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong. Follows the name of the file or the key.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    /// A fault; see the fields.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// A value as a message shows it: control characters escaped, shortened when it is long.
pub fn shown(value: &str) -> String {
    let mut characters = value.chars();
    let mut text: String = characters.by_ref().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if characters.next().is_some() {
        text.push('…');
    }
    text
}
