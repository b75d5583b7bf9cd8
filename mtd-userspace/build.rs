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
}

/// `mtd-ebpf.o` in the target directory, in which cargo puts `<profile>/build/<package>/out`.
fn default_object() -> PathBuf {
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    out.ancestors().nth(4).unwrap_or_else(|| Path::new("target")).join("mtd-ebpf.o")
}
