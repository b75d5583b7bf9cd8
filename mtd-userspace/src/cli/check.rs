//! `mtd check`: whether a configuration is valid, without changing anything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::output;
use super::run::DEFAULT_CONFIG;
use crate::config::{Config, Problem};
use crate::registry::Registry;

/// Arguments of `mtd check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mtd check                        check /etc/mtd/mtd.toml
  mtd check -c new.toml && cp new.toml /etc/mtd/mtd.toml && mtd reload

Reads the configuration, the key files and the registered clients, and changes nothing. Exit status: 0 if all is well, 1 if
something is wrong.")]
pub(super) struct CheckArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The result of a check.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    valid: bool,
    problems: Vec<Found>,
    /// Findings that may be mistakes, but do not keep the controller from starting.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Found {
    line: Option<usize>,
    column: Option<usize>,
    key: String,
    what: String,
    remedy: String,
}

impl From<&Problem> for Found {
    fn from(problem: &Problem) -> Self {
        Self {
            line: problem.position.map(|(line, _)| line),
            column: problem.position.map(|(_, column)| column),
            key: problem.key.clone(),
            what: problem.fault.what.clone(),
            remedy: problem.fault.remedy.clone(),
        }
    }
}

/// Runs `mtd check`.
///
/// # Errors
/// When something is wrong with the configuration, or standard output cannot be written.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let loaded = Config::load(&args.config);
    let (problems, text, warnings) = match &loaded {
        Ok(config) => {
            let (text, warnings) = describe(config)?;
            (Vec::new(), text, warnings)
        }
        Err(error) => (error.problems().iter().map(Found::from).collect(), error.to_string(), Vec::new()),
    };
    if args.json {
        let report = Report { file: args.config.clone(), valid: problems.is_empty(), problems, warnings };
        output::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
        if loaded.is_err() {
            bail!("{} is not valid", args.config.display());
        }
        return Ok(());
    }
    if loaded.is_err() {
        bail!("{text}");
    }
    let mut lines = format!("{}: {text}\n", args.config.display());
    for warning in warnings {
        writeln!(lines, "warning: {warning}")?;
    }
    output::print(&lines)
}

/// The summary of a valid configuration, and its warnings.
fn describe(config: &Config) -> anyhow::Result<(String, Vec<String>)> {
    let mut warnings = Vec::new();
    if !Path::new("/sys/class/net").join(&config.interface).exists() {
        warnings.push(format!("there is no interface {} on this host now", config.interface));
    }
    let mut does = Vec::new();
    if let (Some(sources), Some(identity)) = (config.client_sources(), &config.identity) {
        let (registry, left_out) = Registry::load(sources.with_own_key(identity.key.public()))?;
        does.push(format!("server with {} registered clients", registry.len()));
        warnings.extend(left_out.iter().map(|warning| format!("left out: {warning}")));
    }
    if !config.servers.is_empty() {
        does.push(format!("client of {}", names(config.servers.iter().map(|server| &server.name))));
    }
    if !config.peers.is_empty() {
        does.push(format!("shared keys with {}", names(config.peers.iter().map(|peer| &peer.name))));
    }
    if does.is_empty() {
        warnings.push(
            "neither [listen] nor [[server]] nor [[peer]]: the prefixes are dark to everybody".to_owned(),
        );
        does.push("nobody may connect".to_owned());
    }
    Ok((format!("good ({}: {})", config.interface, does.join(", ")), warnings))
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
