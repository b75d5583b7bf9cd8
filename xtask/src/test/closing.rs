//! The closing lines of Rust's test harness, added up.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// The line that CI reads.
impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(formatter, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

/// Adds up the closing lines in a stream of bytes that arrives in pieces.
#[derive(Default)]
pub(super) struct ClosingLines {
    line: Vec<u8>,
    tally: Tally,
    seen: bool,
}

impl ClosingLines {
    /// Takes the next piece of the output.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    /// The sum, once the output has ended; `None` when there was no closing line.
    pub(super) fn finish(mut self) -> Option<Tally> {
        self.end_line();
        self.seen.then_some(self.tally)
    }

    fn end_line(&mut self) {
        if let Some(tally) = parse(&String::from_utf8_lossy(&self.line)) {
            self.tally += tally;
            self.seen = true;
        }
        self.line.clear();
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`; the verdict
/// may be coloured.
fn parse(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let words: Vec<&str> = counts.split_whitespace().collect();
    let count = |name: &str| {
        words
            .windows(2)
            .find(|pair| pair[1].trim_end_matches(';') == name)
            .and_then(|pair| pair[0].parse().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
    const FAILED: &str =
        "test result: \x1b[31mFAILED\x1b[0m. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn closing_lines_are_read_plain_and_coloured() {
        assert_eq!(parse(OK), Some(Tally { passed: 3, failed: 0, ignored: 1 }));
        assert_eq!(parse(FAILED), Some(Tally { passed: 10, failed: 2, ignored: 0 }));
    }

    #[test]
    fn other_lines_are_not_closing_lines() {
        for line in
            ["", "test a::b ... ok", "running 3 tests", "test result: ok.", "log: test result: ok. 1 passed"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn lines_cut_anywhere_add_up() {
        let output = format!("running 4 tests\n{OK}\n\nrunning 12 tests\n{FAILED}");
        for cut in 0..=output.len() {
            let mut lines = ClosingLines::default();
            lines.feed(&output.as_bytes()[..cut]);
            lines.feed(&output.as_bytes()[cut..]);
            assert_eq!(lines.finish(), Some(Tally { passed: 13, failed: 2, ignored: 1 }), "cut at {cut}");
        }
    }

    #[test]
    fn output_without_closing_line_has_no_tally() {
        let mut lines = ClosingLines::default();
        lines.feed(b"running 4 tests\ntest a ... ");
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn the_summary_is_the_line_that_ci_reads() {
        assert_eq!(Tally { passed: 3, failed: 0, ignored: 0 }.to_string(), "3 passed, 0 failed");
        assert_eq!(Tally { passed: 3, failed: 1, ignored: 2 }.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
