//! `mtd check`: whether a configuration is valid, without changing anything.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::output;
use super::run::DEFAULT_CONFIG;
use crate::config::{Config, Problem};
use crate::device;
use crate::model::FwMark;
use crate::registry::Registry;
use crate::sessions::first_prefixes;

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
    // Not by /sys, which may be that of another network namespace.
    if if_nametoindex(config.interface.as_str()).is_err() {
        warnings.push(format!("there is no interface {} on this host now", config.interface));
    } else if device::ipv6_is_off(&config.interface) {
        warnings.push(device::Lack::Disabled.of(&config.interface).to_string());
    }
    // Without an answer, there is nothing to warn of.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Err(error @ device::Error::Port { .. }) =
        runtime.block_on(device::require_no_port(&config.interface))
    {
        warnings.push(error.to_string());
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
    let underlay = runtime.block_on(device::Underlay::inspect(&config.interface)).ok();
    routes_past_the_tunnel(config, underlay.as_ref(), &mut does, &mut warnings);
    if does.is_empty() {
        warnings.push(
            "neither [listen] nor [[server]] nor [[peer]]: the prefixes are dark to everybody".to_owned(),
        );
        does.push("nobody may connect".to_owned());
    }
    Ok((format!("good ({}: {})", config.interface, does.join(", ")), warnings))
}

/// What is done where routes into the tunnel would catch mtd's own packets.
fn routes_past_the_tunnel(
    config: &Config,
    underlay: Option<&device::Underlay>,
    does: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    let present = underlay.map(|underlay| first_prefixes(config, underlay)).unwrap_or_default();
    let catching: Vec<_> = config.catching(&present).iter().map(ToString::to_string).collect();
    let catching = catching.join(", ");
    if catching.is_empty() {
        return;
    }
    if config.fwmark == FwMark::Off {
        warnings.push(format!(
            "allowed_ips {catching} would catch mtd's own packets, and fwmark is \"off\": see to it that these get past the \
             tunnel, or leave fwmark out"
        ));
        return;
    }
    let switch = if config.kill_switch { ", and nothing past the tunnel" } else { "" };
    does.push(format!("{catching} into the tunnel by a routing table of its own{switch}"));
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
