//! Finds the BPF object that the binary carries: `cargo xtask build` makes it.

use std::path::{Path, PathBuf};
use std::{env, process};

fn main() {
    println!("cargo::rerun-if-env-changed=MTD_EBPF_OBJECT");
    let object = env::var_os("MTD_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!("cargo::error=no BPF object at {}: run `cargo xtask build` first", object.display());
        process::exit(1);
    }
    println!("cargo::rustc-env=MTD_EBPF_OBJECT={}", object.display());
    println!("cargo::rustc-env=MTD_COMMIT={}", commit());
}

/// The commit that is built, with a plus sign if there are changes beside; `unknown` outside of a repository.
fn commit() -> String {
    // Each commit and each switch of branches writes to this file. What changes after it is not noticed. For a file that
    // is not there, cargo would build anew each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).is_file()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) if changed => format!("{commit}+"),
        Some(commit) => commit,
        None => "unknown".to_owned(),
    }
}

/// What a git command prints, if it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = process::Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `mtd-ebpf.o` in the target directory, in which cargo puts `<profile>/build/<package>/out`.
fn default_object() -> PathBuf {
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    out.ancestors().nth(4).unwrap_or_else(|| Path::new("target")).join("mtd-ebpf.o")
}
