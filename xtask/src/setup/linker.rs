//! bpf-linker: finding one that works, and installing it for either tool chain.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::console::say;
use crate::process::{self, find_program};
use crate::workspace::{cargo_program, clean, set_by_cargo_run, shapes_the_build};

/// The version that is known to work with both tool chains.
const VERSION: &str = "0.13.0";
/// The LLVM version of Debian's rustc-web. bpf-linker reads the bitcode that rustc-web writes, so the versions must match.
const DEBIAN_LLVM_MAJOR: &str = "22";
const DEBIAN_LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// Debian's packages to build bpf-linker against.
pub(super) const DEBIAN_LLVM: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];

/// A bpf-linker that starts, on `PATH` or where cargo installs programs. One whose LLVM library was removed does not start.
pub(super) fn find() -> Option<PathBuf> {
    locate().filter(|linker| process::capture(Command::new(linker).arg("--version")).is_ok())
}

fn locate() -> Option<PathBuf> {
    find_program("bpf-linker").or_else(|| cargo_bin("bpf-linker"))
}

/// A program that `cargo install` has installed, whose folder need not be on `PATH`.
pub(super) fn cargo_bin(name: &str) -> Option<PathBuf> {
    let installed = cargo_home()?.join("bin").join(name);
    process::is_executable(&installed).then_some(installed)
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// Whether bpf-linker can be built against Debian's LLVM without installing a package.
pub(super) fn debian_llvm_is_present() -> bool {
    let prefix = Path::new(DEBIAN_LLVM_PREFIX);
    process::is_executable(&prefix.join("bin/llvm-config")) && prefix.join("lib/libPolly.a").is_file()
}

/// The command that [`install_for_debian`] runs, as text for people to type.
pub(super) fn debian_command(force: bool) -> String {
    process::describe(&cargo_install(DEBIAN_LLVM_MAJOR, Path::new(DEBIAN_LLVM_PREFIX), force))
}

/// Builds bpf-linker against Debian's LLVM. Replaces one that does not start.
///
/// # Errors
/// cargo fails.
pub(super) fn install_for_debian() -> Result<()> {
    let mut command = cargo_install(DEBIAN_LLVM_MAJOR, Path::new(DEBIAN_LLVM_PREFIX), locate().is_some());
    process::run(
        &mut command,
        "BPF programs are linked by bpf-linker, built against Debian's LLVM (about a minute)",
    )
}

/// Installs bpf-linker for rustup's nightly: built against this host's LLVM if that has the nightly's version, otherwise
/// as the project's released binary.
///
/// # Errors
/// A step fails; the error names the remedy.
pub(super) fn install_for_nightly() -> Result<()> {
    let version = process::capture(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]))?;
    let major = llvm_major(&version).context("`rustc -vV` of the nightly names no LLVM version")?;
    if let Some(prefix) = llvm_prefix(major) {
        let why = format!("BPF programs are linked by bpf-linker, built against LLVM {major} as the nightly");
        return process::run(&mut cargo_install(major, &prefix, locate().is_some()), &why);
    }
    say(&format!(
        "this host has no LLVM {major} to build bpf-linker against, so its released binary is installed"
    ));
    if find_program("cargo-binstall").is_none() {
        let mut command = cargo();
        command.args(["install", "--locked", "cargo-binstall"]);
        process::run(&mut command, "cargo-binstall installs released binaries (some minutes)")?;
    }
    let mut command = cargo();
    command.args(["binstall", "--no-confirm", "--force", "bpf-linker"]);
    process::run(&mut command, "BPF programs are linked by bpf-linker").with_context(|| {
        format!(
            "or install LLVM {major} with its headers (llvm-config must be found, or LLVM_PREFIX set) and repeat \
             `cargo xtask setup`"
        )
    })
}

fn cargo_install(llvm_major: &str, llvm_prefix: &Path, force: bool) -> Command {
    let mut command = cargo();
    command.env("LLVM_PREFIX", llvm_prefix).args(["install", &format!("bpf-linker@{VERSION}")]);
    command.args(["--no-default-features", "--features", &format!("llvm-{llvm_major}")]);
    if force {
        command.arg("--force");
    }
    command
}

/// A cargo command for tools of the host, without the variables that influence builds of mtd.
pub(super) fn cargo() -> Command {
    let mut command = Command::new(cargo_program());
    clean(&mut command, |name| set_by_cargo_run(name) || shapes_the_build(name));
    command
}

/// The folder of the LLVM with this major version: `LLVM_PREFIX`, or the one that `llvm-config-N` or `llvm-config` names.
fn llvm_prefix(major: &str) -> Option<PathBuf> {
    let given = env::var_os("LLVM_PREFIX").map(|prefix| Path::new(&prefix).join("bin/llvm-config"));
    let names = [format!("llvm-config-{major}"), "llvm-config".to_owned()];
    given.into_iter().chain(names.iter().filter_map(|name| find_program(name))).find_map(|config| {
        let version = process::capture(Command::new(&config).arg("--version")).ok()?;
        let prefix = process::capture(Command::new(&config).arg("--prefix")).ok()?;
        (version.split('.').next() == Some(major)).then(|| PathBuf::from(prefix.trim()))
    })
}

/// The LLVM major version in the answer of `rustc -vV`.
fn llvm_major(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nrelease: 1.97.0\nLLVM version: 22.1.4\n"), Some("22"));
        assert_eq!(llvm_major("rustc 1.97.0\nbackend: other\n"), None);
    }

    #[test]
    fn the_command_for_people_is_complete() {
        let line = debian_command(true);
        assert!(line.starts_with("LLVM_PREFIX=/usr/lib/llvm-22 "), "{line}");
        assert!(
            line.ends_with("install bpf-linker@0.13.0 --no-default-features --features llvm-22 --force"),
            "{line}"
        );
    }
}
