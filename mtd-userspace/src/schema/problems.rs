//! Problems of a configuration file: collected with their place, printed like a compiler's errors.

use std::fmt;

use crate::model::{Fault, MAX_SHOWN};

/// Number of problems that are kept; further ones are only counted.
const MAX_PROBLEMS: usize = 100;

/// One problem of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, counted from 1, the column in characters; `None`: the file as a whole.
    pub position: Option<(usize, usize)>,
    /// The key, such as `mtu` or `peer.seed`; empty: not about a key.
    pub key: String,
    /// What is wrong, and what to do about it.
    pub fault: Fault,
}

/// Why a configuration cannot be used: at least one [`Problem`]. Displays as one line a problem,
/// `FILE:LINE:COLUMN: KEY: WHAT; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    origin: String,
    problems: Vec<Problem>,
    more: usize,
}

impl ConfigError {
    /// An error about the file as a whole.
    pub fn of_file(origin: &str, fault: Fault) -> Self {
        let problem = Problem { position: None, key: String::new(), fault };
        Self { origin: origin.to_owned(), problems: vec![problem], more: 0 }
    }

    /// The problems in the order of the file; at most the first 100 that were found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { position, key, fault }) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.origin)?;
            if let Some((line, column)) = position {
                write!(f, ":{line}:{column}")?;
            }
            if !key.is_empty() {
                write!(f, ": {key}")?;
            }
            write!(f, ": {fault}")?;
        }
        if self.more > 0 {
            write!(f, "\n{}: and {} more problems; correct these first", self.origin, self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects the problems of one text.
#[derive(Debug)]
pub struct Problems<'t> {
    text: &'t str,
    /// The byte at which each line begins, so that a file with many problems does not take quadratic time.
    lines: Vec<usize>,
    origin: &'t str,
    found: Vec<(usize, Problem)>,
    more: usize,
}

impl<'t> Problems<'t> {
    /// A collection without problems for `text`, which messages call `origin`.
    pub fn new(text: &'t str, origin: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Self { text, lines, origin, found: Vec::new(), more: 0 }
    }

    /// Adds a problem at byte `at` of the text.
    pub fn add(&mut self, at: usize, key: impl Into<String>, fault: Fault) {
        if self.found.len() == MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let position = Some(self.position(at));
        self.found.push((at, Problem { position, key: key.into(), fault }));
    }

    /// Number of problems so far.
    pub fn count(&self) -> usize {
        self.found.len() + self.more
    }

    /// The line of byte `at`, for a message about another place.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// The error that contains all problems.
    pub fn into_error(mut self) -> ConfigError {
        self.found.sort_by_key(|(at, _)| *at);
        let problems = self.found.into_iter().map(|(_, problem)| problem).collect();
        ConfigError { origin: self.origin.to_owned(), problems, more: self.more }
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.line(at);
        let before = &self.text.as_bytes()[self.lines[line - 1]..at];
        // Counts bytes that begin a character, so that columns are those of an editor.
        let column = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        (line, column)
    }
}

/// The candidate that a misspelt word most probably stands for.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_SHOWN {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}
