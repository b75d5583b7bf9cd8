//! `mtd-bench`: how fast mtd is, as ratios to what the same kernel does without it in the same run.
//!
//! Everything happens in network namespaces that it makes and removes. `cargo xtask bench` builds and starts it.

mod drop;
mod generator;
mod handshake;
mod latency;
mod measure;
mod tunnel;
mod ways;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use mtd_tests::cleanup;
use serde_json::{Map, Value};

use crate::measure::Section;

/// Measure mtd against the bare kernel, both in one run.
#[derive(Debug, Parser)]
#[command(
    name = "mtd-bench",
    bin_name = "cargo xtask bench",
    after_help = "Figures depend on the machine, and on what else it does: compare ratios of one run, not figures of two."
)]
struct Options {
    /// What to measure [default: everything].
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Repetitions of each measurement, taken in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Also write the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The commit that is measured, for the results.
    #[arg(long, hide = true)]
    commit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Frames from strangers: dropped by mtd with 1,000 sessions, and by a program that does nothing else.
    Drop,
    /// TCP, one flow and four: through the tunnel in both modes, over bare veth with and without segmentation offload,
    /// and through other tunnels in user space.
    Tunnel,
    /// Round trips of small packets, over the same ways; and at slot edges.
    Latency,
    /// 1,000 clients that connect to one server at once; measured once, whatever the rounds.
    Handshake,
}

impl Name {
    const fn key(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Tunnel => "tunnel",
            Self::Latency => "latency",
            Self::Handshake => "handshake",
        }
    }

    fn run(self, rounds: u32) -> Result<Section> {
        match self {
            Self::Drop => drop::run(rounds),
            Self::Tunnel => tunnel::run(rounds),
            Self::Latency => latency::run(rounds),
            Self::Handshake => handshake::run(),
        }
    }

    /// The results in the form that they are written in: what has one case only needs no name for it.
    fn document(self, section: Section) -> Value {
        let mut cases = section.into_iter().map(|(case, values)| (case.to_owned(), Value::Object(values)));
        match self {
            Self::Drop | Self::Tunnel | Self::Latency => Value::Object(cases.collect()),
            Self::Handshake => cases.next().map(|(_, values)| values).unwrap_or_default(),
        }
    }
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<()> {
    mtd_tests::check_root()?;
    cleanup::handle_interrupts()?;
    let mut results = Map::new();
    results.insert("machine".to_owned(), machine().into());
    results.insert("commit".to_owned(), options.commit.clone().into());
    for name in Name::value_variants() {
        if options.names.is_empty() || options.names.contains(name) {
            let section = name.run(options.rounds).with_context(|| format!("bench {}", name.key()))?;
            print!("{}", table(name.key(), &section));
            results.insert(name.key().to_owned(), name.document(section));
        }
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&Value::Object(results))? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One line a case: its name, and its numbers under their keys.
fn table(name: &str, section: &Section) -> String {
    let keys = section.first().map(|(_, values)| values.keys().cloned().collect()).unwrap_or_default();
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |number| format!("{number:.3}"));
    let numbers = section.iter().map(|(case, values)| (*case, values.values().map(number).collect()));
    let mut text = String::new();
    for (first, cells) in [(name, keys)].into_iter().chain(numbers) {
        let cells: Vec<String> = cells;
        // Writing to a string cannot fail.
        let _ = write!(text, "{first:24}");
        for cell in cells {
            let _ = write!(text, " {cell:>19}");
        }
        text.push('\n');
    }
    text
}

/// Processor, CPUs, kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cpus = available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cpus} CPUs, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_one_case_is_written_without_its_name() {
        let section = || vec![("one", Map::from_iter([("mpps".to_owned(), 1.0.into())]))];
        assert_eq!(Name::Handshake.document(section()), serde_json::json!({ "mpps": 1.0 }));
        assert_eq!(Name::Drop.document(section()), serde_json::json!({ "one": { "mpps": 1.0 } }));
    }

    #[test]
    fn a_table_has_a_line_for_each_case() {
        let values = |mpps: f64, ratio: Value| {
            Map::from_iter([("mpps".to_owned(), mpps.into()), ("ratio_to_bare".to_owned(), ratio)])
        };
        let section = vec![("bare", values(13.8, 1.0.into())), ("alone", values(7.0, Value::Null))];
        let text = table("drop", &section);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["drop", "mpps", "ratio_to_bare"]);
        assert_eq!(lines[1], ["bare", "13.800", "1.000"]);
        assert_eq!(lines[2], ["alone", "7.000", "-"]);
    }
}
