//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and runs them one after the other.
//!
//! Neither cargo-fuzz nor a nightly compiler is needed: the coverage that guides libFuzzer comes from an LLVM pass that
//! every rustc has. libFuzzer also needs a C++ compiler.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::build::{self, OBJECT_VARIABLE, Profile};
use crate::console::{say, stage};
use crate::process;
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                 all targets, a minute together
  cargo xtask fuzz 3600            all targets, an hour together
  cargo xtask fuzz 600 config      one target, ten minutes

An input that breaks a target is saved in fuzz/artifacts/TARGET/, and the exit code is 1. `cargo xtask test` replays
the committed corpus, fuzz/corpus/TARGET/, without a fuzzer.";

/// Flags for the instrumentation that guides libFuzzer: counters of edges, and the operands of comparisons.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(5);

/// Number of lines that are shown of a failed target.
const SHOWN_LINES: usize = 40;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Total time for all targets.
    #[arg(value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// Run only this target, the name of a file in `fuzz/fuzz_targets`.
    #[arg(value_name = "TARGET")]
    target: Option<String>,
}

/// Runs the subcommand. Every target runs, even if an earlier one failed.
///
/// # Errors
/// Set-up or the build fails, there is no such target, or a target found something.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let targets = choose(targets(&workspace.root().join("fuzz"))?, args.target.as_deref())?;
    let programs = build(&workspace)?;
    let seconds = (args.seconds / targets.len() as u64).max(1);
    let mut failed = Vec::new();
    for (index, name) in targets.iter().enumerate() {
        say(&format!("== target {name} ({} of {}): {seconds} s", index + 1, targets.len()));
        let (_, program) = programs
            .iter()
            .find(|(built, _)| built == name)
            .with_context(|| format!("fuzz/Cargo.toml has no [[bin]] with the name {name}"))?;
        let target = Target::new(&workspace, name, program);
        if let Err(error) = target.fuzz(seconds) {
            say(&format!("FAILED: {name}: {error:#}"));
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzz targets that found something: {}", failed.join(", ")) }
}

/// The names of all targets, sorted.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        names.extend(
            name.filter(|_| path.extension().is_some_and(|suffix| suffix == "rs")).map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

fn choose(all: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>> {
    match wanted {
        None => Ok(all),
        Some(name) if all.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("no fuzz target {name}: choose one of {}", all.join(", ")),
    }
}

/// Builds all targets; returns their names and programs.
fn build(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    if process::find_program("c++").is_none() {
        bail!("libFuzzer is C++, and there is no `c++` on PATH: install a compiler (Debian's package g++)");
    }
    let artifacts = build::ensure(workspace, Profile::Release)?;
    stage("fuzz targets", || {
        let mut command = workspace.cargo();
        // With an explicit target, the flags do not apply to build scripts and macros.
        command.args(["build", "--release", "--target", "host-tuple"]);
        command.arg("--manifest-path").arg(workspace.root().join("fuzz").join("Cargo.toml"));
        command.arg("--target-dir").arg(workspace.target().join("fuzz"));
        command.arg("--message-format=json-render-diagnostics");
        command.env(OBJECT_VARIABLE, &artifacts.ebpf_object);
        command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
        let line = process::describe(&command);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("could not start `{line}`"))?;
        if !output.status.success() {
            bail!("`{line}` failed ({})", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect())
    })
}

/// Reads one of cargo's messages; `None` when it is not about a program.
fn program(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["target"]["kind"][0] != "bin" {
        return None;
    }
    Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
}

/// A fuzz target and its folders.
struct Target<'a> {
    program: &'a Path,
    /// The committed corpus: read, never written to.
    corpus: PathBuf,
    /// Inputs that reached something new, in this run and in earlier ones of this machine.
    found: PathBuf,
    artifacts: PathBuf,
    dictionary: PathBuf,
}

impl<'a> Target<'a> {
    fn new(workspace: &Workspace, name: &str, program: &'a Path) -> Self {
        let fuzz = workspace.root().join("fuzz");
        Self {
            program,
            corpus: fuzz.join("corpus").join(name),
            found: workspace.target().join("fuzz").join("corpus").join(name),
            artifacts: fuzz.join("artifacts").join(name),
            dictionary: fuzz.join("dictionaries").join(format!("{name}.dict")),
        }
    }

    /// Runs the target for `seconds`, or until it finds something.
    fn fuzz(&self, seconds: u64) -> Result<()> {
        for folder in [&self.corpus, &self.found, &self.artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        }
        let mut command = Command::new(self.program);
        command.arg(format!("-max_total_time={seconds}")).args(["-timeout=10", "-rss_limit_mb=2048"]);
        // libFuzzer takes this as a folder only if it ends in a slash.
        command.arg(format!("-artifact_prefix={}/", self.artifacts.display()));
        if self.dictionary.is_file() {
            command.arg(format!("-dict={}", self.dictionary.display()));
        }
        let (status, log) = watch(command.arg(&self.found).arg(&self.corpus))?;
        if status.success() { Ok(()) } else { Err(self.finding(status, &log)) }
    }

    fn finding(&self, status: ExitStatus, log: &[String]) -> anyhow::Error {
        let start =
            log.iter().position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
        let shown = &log[start.unwrap_or(log.len().saturating_sub(SHOWN_LINES))..];
        let shown = shown[..shown.len().min(SHOWN_LINES)].join("\n");
        match log.iter().find_map(|line| line.split_once("Test unit written to ")) {
            Some((_, input)) => anyhow!(
                "{shown}\nlook at it again with\n  {} {input}\nOnce it is mended, put the input into {}, so that \
                 `cargo xtask test` replays it",
                self.program.display(),
                self.corpus.display()
            ),
            None => anyhow!("{shown}\nit ended ({status}) without saving an input"),
        }
    }
}

/// Runs libFuzzer, shows its progress, and returns everything else that it printed.
fn watch(command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let line = process::describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{line}`"))?;
    let lines = lines(&mut child);
    let mut log = Vec::new();
    let (mut pulse, mut shown) = (None, Instant::now());
    loop {
        match lines.recv_timeout(PROGRESS.saturating_sub(shown.elapsed())) {
            Ok(line) => match Pulse::parse(&line) {
                Some(new) => pulse = Some(new),
                None => log.push(line),
            },
            Err(RecvTimeoutError::Timeout) => {
                if let Some(pulse) = &pulse {
                    say(&pulse.describe());
                }
                shown = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Some(pulse) = &pulse {
        say(&pulse.describe());
    }
    Ok((child.wait().with_context(|| format!("could not wait for `{line}`"))?, log))
}

/// The lines that a child writes to stderr, until it closes stderr.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stderr.take() {
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            // A panic message may contain any bytes.
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    receiver
}

/// A line in which libFuzzer reports its progress.
#[derive(Debug, PartialEq, Eq)]
struct Pulse {
    runs: u64,
    edges: u64,
    inputs: String,
    speed: String,
}

impl Pulse {
    /// Reads `#1024  pulse  cov: 59 ft: 60 corp: 36/1961b lim: 4096 exec/s: 512 rss: 27Mb`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix('#')?.split_ascii_whitespace();
        let runs = words.next()?.parse().ok()?;
        let words: Vec<&str> = words.collect();
        let value = |name| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        Some(Self {
            runs,
            edges: value("cov:")?.parse().ok()?,
            inputs: value("corp:")?.split('/').next()?.to_owned(),
            speed: value("exec/s:")?.to_owned(),
        })
    }

    fn describe(&self) -> String {
        let Self { runs, edges, inputs, speed } = self;
        format!("   {runs} runs, {speed} a second; {edges} edges reached by {inputs} inputs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_other_lines() {
        let line = "#1024\tpulse  cov: 59 ft: 60 corp: 36/1961b lim: 4096 exec/s: 512 rss: 27Mb";
        let pulse = Pulse { runs: 1024, edges: 59, inputs: "36".to_owned(), speed: "512".to_owned() };
        assert_eq!(Pulse::parse(line), Some(pulse));
        for line in ["INFO: Seed: 1", "#0 0x55d0 in main", "", "#1\tREAD units: 3"] {
            assert_eq!(Pulse::parse(line), None, "{line}");
        }
    }

    #[test]
    fn an_unknown_target_is_answered_with_the_known_ones() {
        let all = vec!["config".to_owned(), "key".to_owned()];
        assert_eq!(choose(all.clone(), Some("key")).unwrap(), ["key"]);
        assert_eq!(choose(all.clone(), None).unwrap(), all);
        assert!(choose(all, Some("keys")).unwrap_err().to_string().contains("config, key"));
    }

    #[test]
    fn what_libfuzzer_prints_comes_in_lines_until_the_end() {
        let script =
            "printf '#8 NEW cov: 1 corp: 1/1b exec/s: 0\\npanicked\\nTest unit written to x' >&2; exit 77";
        let (status, log) = watch(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(status.code(), Some(77));
        assert_eq!(log, ["panicked", "Test unit written to x"]);
    }

    #[test]
    fn a_finding_says_how_to_see_it_again() {
        let target = Target {
            program: Path::new("/t/key"),
            corpus: "/w/fuzz/corpus/key".into(),
            found: "/t/found".into(),
            artifacts: "/w/fuzz/artifacts/key".into(),
            dictionary: "/w/fuzz/dictionaries/key.dict".into(),
        };
        let log =
            ["panicked at x".to_owned(), "artifact_prefix='a/'; Test unit written to a/crash-1".to_owned()];
        let error = target.finding(ExitStatus::default(), &log).to_string();
        assert!(error.starts_with("panicked at x") && error.contains("\n  /t/key a/crash-1\n"), "{error}");
        assert!(error.contains("/w/fuzz/corpus/key"), "{error}");
    }
}
