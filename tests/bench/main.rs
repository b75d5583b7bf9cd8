//! `mtd-bench`: how fast mtd is, as ratios to what the same kernel does without mtd in the same run.
//!
//! Everything happens in network namespaces that the program makes and removes. `cargo xtask bench` builds and starts it.
//! To add a benchmark, write a module, an entry in [`BENCHMARKS`], and aims in [`aims`].

mod aims;
mod cable;
mod cipher;
mod drop;
mod fleet;
mod flood;
mod generator;
mod handshake;
mod latency;
mod measure;
mod openvpn;
mod publish;
mod report;
mod rotate;
mod tunnel;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser};
use mtd_tests::cleanup;
use serde_json::{Map, Value};

use crate::measure::{Extent, Section};
use crate::report::Circumstances;

/// Measure mtd against the bare kernel, both in one run.
#[derive(Debug, Parser)]
#[command(
    name = "mtd-bench",
    bin_name = "cargo xtask bench",
    after_help = "Figures depend on the machine and on its other load: compare ratios within one run, not figures of two."
)]
struct Options {
    /// What to measure [default: everything].
    #[arg(value_name = "NAME", value_parser = names())]
    names: Vec<String>,
    /// Repetitions of each measurement, taken in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Also write the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page to this file, in Markdown: the results, what they mean, and which aims they reach.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// For `drop`, `rotate` and `flood`: only one short round with few sessions. The figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// The commit that is measured, to be named in the results.
    #[arg(long, hide = true)]
    commit: Option<String>,
}

/// A benchmark.
pub(crate) struct Benchmark {
    /// Its name on the command line and in the results.
    name: &'static str,
    /// One line of help.
    help: &'static str,
    /// Explanation of its figures, for the page, in Markdown.
    about: &'static str,
    /// Whether the results have several cases with names.
    cases: bool,
    run: fn(Extent) -> Result<Section>,
}

/// All benchmarks, in the order in which they run.
const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "drop",
        help: "Frames from strangers: how fast mtd drops them, compared with nftables and with a program that only drops",
        about: drop::ABOUT,
        cases: true,
        run: drop::run,
    },
    Benchmark {
        name: "cipher",
        help: "Opening one packet in the program: with the cipher in BPF, with key stream made ahead, only authenticating",
        about: cipher::ABOUT,
        cases: true,
        run: cipher::run,
    },
    Benchmark {
        name: "tunnel",
        help: "TCP, one flow and four: through mtd, through other tunnels, over bare veth with and without offload",
        about: tunnel::ABOUT,
        cases: true,
        run: |extent| tunnel::run(extent.rounds),
    },
    Benchmark {
        name: "latency",
        help: "Round trips of small packets over the same ways as `tunnel`, and at slot edges",
        about: latency::ABOUT,
        cases: true,
        run: |extent| latency::run(extent.rounds),
    },
    Benchmark {
        name: "rotate",
        help: "Slot turn-over of 1,000 to 1,000,000 sessions",
        about: rotate::ABOUT,
        cases: true,
        run: rotate::run,
    },
    Benchmark {
        name: "handshake",
        help: "1,000 clients that connect to one server at once; measured once, whatever the rounds",
        about: handshake::ABOUT,
        cases: false,
        run: |_| handshake::run(),
    },
    Benchmark {
        name: "publish",
        help: "Introductions for 1,000 and 15,000 clients, published in a DHT; measured once, whatever the rounds",
        about: "A real server publishes introductions for this number of clients in a private DHT of real nodes. Measured once.",
        cases: true,
        run: |_| publish::run(),
    },
    Benchmark {
        name: "flood",
        help: "TCP requests through the tunnel while strangers flood the server",
        about: flood::ABOUT,
        cases: false,
        run: flood::run,
    },
];

fn names() -> PossibleValuesParser {
    let name = |benchmark: &Benchmark| PossibleValue::new(benchmark.name).help(benchmark.help);
    PossibleValuesParser::new(BENCHMARKS.iter().map(name))
}

impl Benchmark {
    /// The results as they are written to a file. A benchmark with a single case has no name for it.
    fn document(&self, section: &Section) -> Value {
        let mut cases = section.iter().map(|(case, values)| (*case, Value::Object(values.clone())));
        if self.cases {
            Value::Object(cases.map(|(case, values)| (case.to_owned(), values)).collect())
        } else {
            cases.next().map(|(_, values)| values).unwrap_or_default()
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
    let extent = Extent { rounds: if options.quick { 1 } else { options.rounds }, quick: options.quick };
    let machine = machine();
    let mut measured = Vec::new();
    let mut results = Map::new();
    results.insert("machine".to_owned(), machine.clone().into());
    results.insert("commit".to_owned(), options.commit.clone().into());
    for benchmark in BENCHMARKS {
        let name = benchmark.name;
        if options.names.is_empty() || options.names.iter().any(|wanted| wanted == name) {
            let section = (benchmark.run)(extent).with_context(|| format!("bench {name}"))?;
            print!("{}", report::table(name, &section));
            results.insert(name.to_owned(), benchmark.document(&section));
            measured.push((benchmark, section));
        }
    }
    let results = Value::Object(results);
    if let Some(path) = &options.json {
        write(path, &(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if let Some(path) = &options.report {
        let about = Circumstances { machine: &machine, commit: options.commit.as_deref(), extent };
        write(path, &report::page(&about, &measured, &results)?)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
        let section = vec![("one", Map::from_iter([("mpps".to_owned(), 1.0.into())]))];
        let document = |name| {
            let benchmark = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
            benchmark.map(|benchmark| benchmark.document(&section))
        };
        assert_eq!(document("handshake"), Some(serde_json::json!({ "mpps": 1.0 })));
        assert_eq!(document("drop"), Some(serde_json::json!({ "one": { "mpps": 1.0 } })));
    }
}
