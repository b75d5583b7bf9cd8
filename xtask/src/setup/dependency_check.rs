//! cargo-deny, which checks licences, versions and sources of dependencies: finding it, and installing it for this workspace.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::linker::{cargo, cargo_bin};
use crate::process::{self, find_program};

const NAME: &str = "cargo-deny";
/// A version that understands `deny.toml` as it is, and builds with Rust 1.88 or later.
const VERSION: &str = "0.20.2";

/// The path of cargo-deny, if it is installed.
pub(super) fn find() -> Option<PathBuf> {
    find_program(NAME).or_else(|| cargo_bin(NAME))
}

/// Adds the folder of cargo-deny to a cargo command's `PATH`, so that it finds `cargo deny`.
pub(crate) fn on_path(command: &mut Command) {
    let Some(folder) = find().and_then(|program| Some(program.parent()?.to_owned())) else { return };
    let path = env::var_os("PATH").unwrap_or_default();
    if let Ok(path) = env::join_paths(env::split_paths(&path).chain([folder])) {
        command.env("PATH", path);
    }
}

/// Builds and installs cargo-deny.
///
/// # Errors
/// cargo fails.
pub(super) fn install() -> Result<()> {
    process::run(
        &mut command(),
        "licences and sources of dependencies are checked by cargo-deny (about a minute)",
    )
}

/// Builds without optimisation, which would take most of the time. cargo-deny checks this workspace in a second or two
/// even so.
fn command() -> Command {
    let mut command = cargo();
    command.args(["install", "--locked", "--no-default-features", "--debug"]);
    command.args(["--config", "profile.dev.debug=0", "--config", "profile.dev.opt-level=0"]);
    command.arg(format!("{NAME}@{VERSION}"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_fixed_and_so_are_its_dependencies() {
        let line = process::describe(&command());
        assert!(line.contains("--locked") && line.ends_with("cargo-deny@0.20.2"), "{line}");
    }
}
