//! The result and the time of each test and each stage: for people, for programs, and for the order of the next run.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::closing::Tally;
use crate::console::seconds;
use crate::timing::Stages;

/// How many of the slowest tests are shown.
const SLOWEST: usize = 20;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    /// The test has `#[ignore]`.
    Ignored,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Ignored => "skipped",
        }
    }
}

/// One test that has ended.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) program: String,
    pub(super) name: String,
    /// How long the last run of the test took, from the start of its process to its end.
    pub(super) elapsed: Duration,
    pub(super) verdict: Verdict,
    /// Whether it requested to run alone.
    pub(super) alone: bool,
}

/// How many tests passed, failed and were skipped.
pub(super) fn tally(records: &[Record]) -> Tally {
    let count = |verdict| records.iter().filter(|record| record.verdict == verdict).count() as u64;
    Tally { passed: count(Verdict::Passed), failed: count(Verdict::Failed), ignored: count(Verdict::Ignored) }
}

/// The report of `--report`. `tally` counts all tests, including those without a record (documentation tests).
pub(super) fn json(records: &[Record], stages: &Stages, tally: Tally) -> Value {
    let one = |record: &Record| {
        json!({
            "name": record.name,
            "program": record.program,
            "seconds": record.elapsed.as_secs_f64(),
            "result": record.verdict.word(),
            "alone": record.alone,
        })
    };
    json!({
        "passed": tally.passed,
        "failed": tally.failed,
        "skipped": tally.ignored,
        "stages": stages.json(),
        "tests": records.iter().map(one).collect::<Vec<_>>(),
    })
}

/// The slowest tests, and every stage.
pub(super) fn summary(records: &[Record], stages: &Stages) -> String {
    let mut slowest: Vec<&Record> = records.iter().collect();
    slowest.sort_by_key(|record| Reverse(record.elapsed));
    slowest.truncate(SLOWEST);
    let mut lines = Vec::new();
    if !slowest.is_empty() {
        lines.push(format!("the slowest {} of {} tests:", slowest.len(), records.len()));
    }
    lines.extend(
        slowest.iter().map(|test| format!("{:>9}  {} {}", seconds(test.elapsed), test.program, test.name)),
    );
    lines.push("stages:".to_owned());
    lines.extend(stages.lines());
    lines.join("\n")
}

/// How long each test took last time, so that the longest can begin first.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<String, f64>);

impl Times {
    /// Reads the file that an earlier run has written. Without one, no time is known.
    pub(super) fn read(file: &Path) -> Self {
        Self(fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// The sort key of a test: those without a known time come first, then the longest.
    pub(super) fn turn(&self, program: &str, name: &str) -> Reverse<u64> {
        let known = self.0.get(&key(program, name));
        Reverse(
            known.map_or(u64::MAX, |seconds| Duration::from_secs_f64(seconds.max(0.0)).as_millis() as u64),
        )
    }

    /// Adds the measured times, and writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn update(mut self, records: &[Record], file: &Path) -> Result<()> {
        let measured = records.iter().filter(|record| record.verdict == Verdict::Passed);
        self.0.extend(measured.map(|test| (key(&test.program, &test.name), test.elapsed.as_secs_f64())));
        fs::write(file, serde_json::to_vec(&self.0)?)
            .with_context(|| format!("could not write {}", file.display()))
    }
}

fn key(program: &str, name: &str) -> String {
    format!("{program} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, milliseconds: u64, verdict: Verdict) -> Record {
        let elapsed = Duration::from_millis(milliseconds);
        Record { program: "netns".to_owned(), name: name.to_owned(), elapsed, verdict, alone: false }
    }

    fn records() -> Vec<Record> {
        vec![
            record("quick", 10, Verdict::Passed),
            record("slow", 2500, Verdict::Failed),
            record("never", 0, Verdict::Ignored),
        ]
    }

    #[test]
    fn the_report_has_name_program_seconds_and_result_of_each_test() {
        let mut stages = Stages::default();
        stages.check("clippy", || Ok(()));
        let report = json(&records(), &stages, tally(&records()));
        assert_eq!(
            (&report["passed"], &report["failed"], &report["skipped"]),
            (&json!(1), &json!(1), &json!(1))
        );
        let slow = json!({
            "name": "slow", "program": "netns", "seconds": 2.5, "result": "failed", "alone": false
        });
        assert_eq!(report["tests"][1], slow);
        assert_eq!(report["stages"][0]["name"], "clippy");
        assert!(report["stages"][0]["seconds"].is_number());
    }

    #[test]
    fn the_summary_has_the_slowest_tests_first_and_twenty_at_most() {
        let many: Vec<_> = (0..30).map(|n| record(&format!("test{n}"), n * 100, Verdict::Passed)).collect();
        let summary = summary(&many, &Stages::default());
        let shown: Vec<_> = summary.lines().filter(|line| line.contains(" test")).collect();
        assert_eq!(shown.len(), SLOWEST + 1, "{summary}");
        assert!(shown[1].ends_with("2.9 s  netns test29"), "{summary}");
    }

    #[test]
    fn the_longest_begins_first_and_the_unknown_before_it() {
        let file = std::env::temp_dir().join(format!("xtask-times-{}", std::process::id()));
        Times::default().update(&records(), &file).unwrap();
        let times = Times::read(&file);
        assert!(times.turn("netns", "new") < times.turn("netns", "quick"));
        // The time of a failed test is not recorded.
        assert_eq!(times.turn("netns", "slow"), times.turn("netns", "new"));
        times.update(&[record("long", 60_000, Verdict::Passed)], &file).unwrap();
        let times = Times::read(&file);
        assert!(times.turn("netns", "long") < times.turn("netns", "quick"));
        fs::remove_file(&file).unwrap();
        assert_eq!(Times::read(&file).turn("a", "b"), Reverse(u64::MAX));
    }
}
