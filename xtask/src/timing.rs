//! Stages of a longer command. Each is announced and timed, and none is left out because another one failed.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::console::{say, seconds, stage};

/// The stages so far, with their results.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    done: Vec<Stage>,
}

/// One stage that has ended.
#[derive(Clone, Debug)]
struct Stage {
    name: &'static str,
    elapsed: Duration,
    passed: bool,
}

impl Stages {
    /// Runs a stage. Returns its result if it passed.
    pub(crate) fn check<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        let outcome = stage(name, work);
        let passed = outcome.is_ok();
        self.done.push(Stage { name, elapsed: start.elapsed(), passed });
        outcome.inspect_err(|error| say(&format!("FAILED: {name}: {error:#}"))).ok()
    }

    /// Marks the last stage as failed, although it returned a result.
    pub(crate) fn fail_last(&mut self) {
        if let Some(stage) = self.done.last_mut() {
            stage.passed = false;
        }
    }

    /// Names of the stages that failed.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.done.iter().filter(|stage| !stage.passed).map(|stage| stage.name).collect()
    }

    /// One line for each stage, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |stage: &Stage| {
            let verdict = if stage.passed { "" } else { "  FAILED" };
            format!("{:>9}  {}{verdict}", seconds(stage.elapsed), stage.name)
        };
        self.done.iter().map(line).collect()
    }

    /// The stages for programs: name, seconds, result.
    pub(crate) fn json(&self) -> Value {
        let one = |stage: &Stage| {
            let result = if stage.passed { "passed" } else { "failed" };
            json!({ "name": stage.name, "seconds": stage.elapsed.as_secs_f64(), "result": result })
        };
        self.done.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_stage_is_kept_and_the_next_one_runs() {
        let mut stages = Stages::default();
        assert_eq!(stages.check("one", || -> Result<u32> { bail!("no") }), None);
        assert_eq!(stages.check("two", || Ok(2)), Some(2));
        assert_eq!(stages.failed(), ["one"]);
        assert!(stages.lines()[0].ends_with("one  FAILED"), "{:?}", stages.lines());
        let json = stages.json();
        assert_eq!((&json[0]["result"], &json[1]["result"]), (&json!("failed"), &json!("passed")));
        stages.fail_last();
        assert_eq!(stages.failed(), ["one", "two"]);
    }
}
