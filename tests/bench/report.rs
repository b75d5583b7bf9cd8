//! The results for people: tables on the terminal, and a page for `docs/`.

use std::fmt::Write as _;

use anyhow::Result;
use mtd::dataplane::{Capacity, report::load_report};
use mtd_common::keystream::LANES;
use serde_json::Value;

use crate::Benchmark;
use crate::aims::{AIMS, Aim};
use crate::measure::{Extent, Section};

/// A benchmark and its results.
pub(crate) type Measured<'a> = (&'a Benchmark, Section);

/// What the page says about the run, besides results.
pub(crate) struct Circumstances<'a> {
    /// Processor, CPUs, kernel.
    pub(crate) machine: &'a str,
    /// Commit of the work tree.
    pub(crate) commit: Option<&'a str>,
    /// How much was measured.
    pub(crate) extent: Extent,
}

/// A table with one line for each case: its name, and its numbers below their keys.
pub(crate) fn table(name: &str, section: &Section) -> String {
    let mut text = String::new();
    for (first, cells) in rows(name, section) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{first:24}");
        for cell in cells {
            let _ = write!(text, " {cell:>19}");
        }
        text.push('\n');
    }
    text
}

/// The page, in Markdown. It has no date, so that the same figures make the same page.
///
/// # Errors
/// When the programs cannot be loaded for the part about the verifier.
pub(crate) fn page(about: &Circumstances<'_>, measured: &[Measured<'_>], results: &Value) -> Result<String> {
    let names: Vec<&str> = measured.iter().map(|(benchmark, _)| benchmark.name).collect();
    let mut page = format!(
        "# Benchmarks\n\n\
         Made by `cargo xtask bench {} --report docs/benchmarks.md`, which repeats it; `cargo xtask bench -- --help` says more. \
         Every figure is a median of {} rounds in which all cases take turns, in network namespaces of one machine; a spread \
         is the largest less the smallest sample, as a part of the median. Figures depend on the machine, ratios less so.\n\n\
         - Machine: {}\n- Commit: {}\n\n",
        names.join(" "),
        about.extent.rounds,
        about.machine,
        about.commit.map_or_else(|| "unknown".to_owned(), |commit| format!("`{commit}`")),
    );
    if about.extent.quick {
        page.push_str("**A trial with little of everything: the figures mean nothing.**\n\n");
    }
    page.push_str("## Aims\n\n");
    page.push_str(&aims(&names, results));
    for (benchmark, section) in measured {
        let _ = write!(page, "\n## {}\n\n{}\n\n", benchmark.name, benchmark.about);
        page.push_str(&markdown(benchmark.name, section));
    }
    let _ = write!(
        page,
        "\n## Verifier and memory\n\nWhat `mtd debug load-report` says:\n\n```text\n{}\n```\n",
        load_report(None, Capacity { sessions: 1024, slots: 24, lanes: LANES })?.trim_end()
    );
    Ok(page)
}

fn aims(names: &[&str], results: &Value) -> String {
    let line = |aim: &Aim| {
        let figure = (aim.figure)(results);
        let verdict = match figure.map(|figure| aim.bound.holds(figure)) {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None => "not measured",
        };
        let figure = figure.map_or_else(|| "-".to_owned(), number);
        format!("| {} | {} | {} | {figure} | {verdict} |\n", aim.benchmark, aim.what, aim.bound)
    };
    let lines = AIMS.iter().filter(|aim| names.contains(&aim.benchmark)).map(line);
    let head = "| benchmark | what | aim | measured | |\n|---|---|---|---|---|\n";
    [head.to_owned()].into_iter().chain(lines).collect()
}

/// The section as Markdown tables: one with the cases, and one for every list of points.
fn markdown(name: &str, section: &Section) -> String {
    let mut text = String::new();
    for (n, (first, cells)) in rows(name, section).into_iter().enumerate() {
        let _ = writeln!(text, "| {first} | {} |", cells.join(" | "));
        if n == 0 {
            let _ = writeln!(text, "|---|{}", "---|".repeat(cells.len()));
        }
    }
    for (key, value) in section.iter().flat_map(|(_, values)| values) {
        let Some(points) = value.as_array() else { continue };
        let _ = write!(text, "\n| {key}: Mpps | per second |\n|---|---|\n");
        for point in points {
            let coordinates = point.as_array().into_iter().flatten().map(cell);
            let _ = writeln!(text, "| {} |", coordinates.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

/// A line of keys, then one for each case; lists of points are left out.
fn rows<'a>(name: &'a str, section: &'a Section) -> Vec<(&'a str, Vec<String>)> {
    let mut keys: Vec<&String> = Vec::new();
    for (_, values) in section {
        for (key, value) in values {
            if !value.is_array() && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let head = (name, keys.iter().map(ToString::to_string).collect());
    let lines = section.iter().map(|(case, values)| {
        (*case, keys.iter().map(|key| values.get(*key).map_or_else(|| "-".to_owned(), cell)).collect())
    });
    [head].into_iter().chain(lines).collect()
}

fn cell(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), number)
}

/// A number as text: whole numbers in full, small ones with three digits after the point, large ones with fewer.
fn number(number: f64) -> String {
    let digits = match number.abs() {
        _ if number.fract() == 0.0 => 0,
        10_000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn section(cases: &[(&'static str, Value)]) -> Section {
        let values = |value: &Value| value.as_object().cloned().unwrap_or_else(Map::new);
        cases.iter().map(|(name, value)| (*name, values(value))).collect()
    }

    #[test]
    fn a_table_has_a_line_for_each_case_and_all_keys() {
        let section =
            section(&[("bare", json!({ "mpps": 13.8 })), ("alone", json!({ "mpps": 7, "ratio": null }))]);
        let text = table("drop", &section);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [vec!["drop", "mpps", "ratio"], vec!["bare", "13.80", "-"], vec!["alone", "7", "-"]]
        );
    }

    #[test]
    fn points_are_a_table_of_their_own() {
        let section = section(&[("flood", json!({ "curve": [[0.0, 20_000.5], [1.5, 900]], "half": 0.7 }))]);
        assert_eq!(
            markdown("flood", &section),
            "| flood | half |\n|---|---|\n| flood | 0.700 |\n\n| curve: Mpps | per second |\n|---|---|\n\
             | 0 | 20000 |\n| 1.500 | 900 |\n"
        );
    }

    #[test]
    fn aims_are_those_of_what_was_measured() {
        let results = json!({ "rotate": { "16k": { "slot_ms": 12.345 }, "1m": { "core_share": 0.7 } } });
        let text = aims(&["rotate"], &results);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| rotate | turn-over of 16,000 sessions, in ms | ≤ 50 | 12.35 | reached |",
                "| rotate | share of a core for 1,000,000 sessions | ≤ 0.5 | 0.700 | **not reached** |",
                "| rotate | late entries of 1,000,000 sessions | ≤ 0 | - | not measured |",
            ]
        );
    }
}
