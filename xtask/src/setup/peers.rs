//! Other tunnels that the benchmarks compare with mtd. The benchmarks leave out those that cannot be installed, and a line
//! says which.

use std::process::Command;

use anyhow::Result;

use super::debian::Apt;
use super::linker::cargo;
use crate::console::say;
use crate::process::{self, find_program};

/// The programs and Debian's packages that they come from.
const PACKAGES: [(&str, &str); 4] = [
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("openvpn", "openvpn"),
    ("openssl", "openssl"),
];

/// A program from crates.io, and the version that is measured.
const BORINGTUN: &str = "boringtun-cli";
const BORINGTUN_VERSION: &str = "0.7.1";

/// The programs that are not installed.
pub(super) fn missing() -> Vec<&'static str> {
    let names = PACKAGES.iter().map(|(name, _)| *name).chain([BORINGTUN]);
    names.filter(|name| find_program(name).is_none()).collect()
}

/// Installs what is missing, as far as that is possible.
pub(super) fn install(missing: &[&str], apt: &mut Apt) {
    let packages: Vec<&str> =
        PACKAGES.into_iter().filter(|(name, _)| missing.contains(name)).map(|p| p.1).collect();
    if !packages.is_empty() {
        tell(apt.install("the benchmarks measure other tunnels beside mtd", &packages));
    }
    if missing.contains(&BORINGTUN) {
        let mut command: Command = cargo();
        command.args(["install", "--locked", &format!("{BORINGTUN}@{BORINGTUN_VERSION}")]);
        tell(process::run(&mut command, "the benchmarks measure boringtun beside mtd (some minutes)"));
    }
}

fn tell(result: Result<()>) {
    if let Err(error) = result {
        say(&format!("{error:#}; the benchmarks leave it out"));
    }
}
