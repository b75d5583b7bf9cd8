//! The arguments after `--`: words of which a test's name must contain one, and options of Rust's test harness.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::process;

/// The filter of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    arguments: Vec<String>,
}

impl Filter {
    /// The filter from the arguments of the command line.
    pub(super) fn new(arguments: &[String]) -> Self {
        Self { arguments: arguments.to_vec() }
    }

    /// Whether everything runs.
    pub(super) fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// The words of which a test's name must contain one.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            if ["--skip", "--test-threads", "--color", "--format"].contains(&argument.as_str()) {
                arguments.next();
            } else if !argument.starts_with('-') {
                words.push(argument.clone());
            }
        }
        words
    }

    /// Whether output is shown while a test runs. If so, one test runs at a time.
    pub(super) fn shows_output(&self) -> bool {
        self.has("--nocapture") || self.has("--no-capture")
    }

    fn has(&self, option: &str) -> bool {
        self.arguments.iter().any(|argument| argument == option)
    }

    /// The tests of a program that match the filter, as the harness lists them.
    ///
    /// # Errors
    /// The program cannot be started, or does not list its tests.
    pub(super) fn list(&self, mut program: Command) -> Result<Vec<String>> {
        let listing = process::capture(program.args(&self.arguments).args(["--list", "--format", "terse"]))?;
        Ok(listing.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Arguments that run exactly this test.
    pub(super) fn exactly(&self, name: &str) -> Vec<OsString> {
        let kept = self.arguments.iter().filter(|argument| {
            ["--nocapture", "--no-capture", "--show-output", "--ignored", "--include-ignored"]
                .contains(&argument.as_str())
        });
        [name, "--exact", "--test-threads=1"]
            .into_iter()
            .map(OsString::from)
            .chain(kept.map(OsString::from))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(words: &[&str]) -> Filter {
        Filter::new(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_told_from_options_and_what_they_take() {
        let given = filter(&["replay", "--skip", "flood", "--nocapture", "web"]);
        assert_eq!(given.words(), ["replay", "web"]);
        assert!(given.shows_output() && !given.is_empty());
        assert!(filter(&["--exact"]).words().is_empty());
    }

    #[test]
    fn one_test_runs_with_the_options_that_change_how() {
        let given = filter(&["replay", "--skip", "flood", "--ignored"]);
        assert_eq!(given.exactly("a::b"), ["a::b", "--exact", "--test-threads=1", "--ignored"]);
    }

    #[test]
    fn the_harness_lists_its_tests() {
        let own = || Command::new(std::env::current_exe().unwrap());
        let name = "test::filter::tests::the_harness_lists_its_tests";
        assert_eq!(filter(&["the_harness_lists_its"]).list(own()).unwrap(), [name]);
        assert!(filter(&["the_harness_lists", "--skip", "lists_its"]).list(own()).unwrap().is_empty());
        assert!(filter(&[]).list(own()).unwrap().len() > 20);
    }
}
