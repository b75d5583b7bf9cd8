//! `mtd-demo`: shows the main job of mtd with real packets in a real kernel, in network namespaces that it makes and
//! removes.
//!
//! A server and its clients, who know only each other's public keys, find each other through a private DHT. They keep TCP
//! and UDP alive through tunnels whose addresses change every slot. A stranger on the server's Ethernet and a client that is
//! not registered get no answer. The results at the end were counted by sockets and packet captures, except for those that
//! only the controllers can know. `cargo xtask run` builds everything and starts it.

mod display;
mod findings;
mod first;
mod flows;
mod link;
mod network;
mod nmap;
mod numbers;
mod options;
mod parties;
mod probes;
mod sites;
mod stage;
mod stranger;
mod summary;
mod view;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser as _;
use mtd_tests::cleanup;

use crate::findings::Findings;
use crate::options::Options;
use crate::stage::Stage;

/// Exit code of a program that was ended by SIGINT, as shells report it.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = Options::parse();
    match demonstrate(&options) {
        Ok(findings) if findings.interrupted => ExitCode::from(EXIT_INTERRUPTED),
        Ok(findings) if findings.failures(&options).is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) if cleanup::interrupted() => {
            eprintln!("ended by a signal before there was anything to show; everything is cleaned up");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demonstration and prints what it found.
fn demonstrate(options: &Options) -> Result<Findings> {
    ensure!(
        std::env::var_os("MTD_BIN").is_some(),
        "MTD_BIN is not set: start the demonstration with `cargo xtask run`, which builds mtd and sets it"
    );
    mtd_tests::check_root()?;
    let duration = options.duration()?;
    cleanup::handle_interrupts()?;
    let findings = Stage::build(options)?.play(options, duration)?;
    let summary = findings.summary(options)?;
    if options.json {
        eprint!("{summary}");
        println!("{}", serde_json::to_string(&findings.numbers)?);
    } else {
        print!("{summary}");
    }
    Ok(findings)
}
