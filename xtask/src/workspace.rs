//! The workspace and its target directory, and cargo commands that work in them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The workspace as cargo sees it.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Reads the output of `cargo metadata`, so that `CARGO_TARGET_DIR` and cargo's configuration are honoured.
    ///
    /// # Errors
    /// cargo is not there, or the current directory is not inside the workspace.
    pub(crate) fn load() -> Result<Self> {
        let mut command = Command::new(cargo_program());
        command.args(["metadata", "--format-version=1", "--no-deps"]);
        if let Some(directory) = env::var_os("CARGO_MANIFEST_DIR") {
            command.arg("--manifest-path").arg(Path::new(&directory).join("Cargo.toml"));
        }
        let metadata: Value = serde_json::from_str(&process::capture(&mut command)?)
            .context("`cargo metadata` did not print JSON")?;
        let path = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("`cargo metadata` names no `{key}`: is this cargo 1.95 or later?"))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// The directory of the top-level `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// cargo's target directory (absolute).
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A cargo command for the host's packages, without the variables that the `cargo run` that started xtask has set.
    pub(crate) fn cargo(&self) -> Command {
        self.cargo_without(set_by_cargo_run)
    }

    /// A cargo command for the BPF target, which inherits no compiler, flag, profile or library path of the host's build.
    pub(crate) fn bpf_cargo(&self) -> Command {
        self.cargo_without(|name| set_by_cargo_run(name) || shapes_the_build(name))
    }

    fn cargo_without(&self, unwanted: impl Fn(&str) -> bool) -> Command {
        let mut command = Command::new(cargo_program());
        clean(&mut command, unwanted);
        // Absolute, because a relative CARGO_TARGET_DIR is relative to the caller's directory.
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }
}

/// The cargo that runs xtask, or the one on `PATH`.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Removes from the command's environment every inherited variable that is `unwanted`.
pub(crate) fn clean(command: &mut Command, unwanted: impl Fn(&str) -> bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(&unwanted) {
            command.env_remove(name);
        }
    }
}

/// Whether `cargo run` sets this variable for the program that it runs. Build scripts of a cargo below would take such
/// variables for changes.
pub(crate) fn set_by_cargo_run(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}

/// Whether this variable chooses compiler, flags, profile, target or libraries of a build.
pub(crate) fn shapes_the_build(name: &str) -> bool {
    ["RUSTC", "CARGO_BUILD_", "CARGO_TARGET_", "CARGO_PROFILE_", "CARGO_UNSTABLE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_INCREMENTAL",
            "LD_LIBRARY_PATH",
            "RUSTUP_TOOLCHAIN",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The features that each package has in a build with these arguments; host and build scripts separately.
    fn features(arguments: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        let mut command = Workspace::load().unwrap().cargo();
        command
            .args(["tree", "--locked", "--prefix", "none", "--no-dedupe", "-f", "{p} [{f}]"])
            .args(arguments);
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for line in process::capture(&mut command).unwrap().lines().filter(|line| !line.is_empty()) {
            let (package, features) = line.trim_end_matches(']').split_once(" [").unwrap();
            found.entry(package.replace(" (proc-macro)", "")).or_default().insert(features.to_owned());
        }
        found
    }

    #[test]
    fn nothing_is_compiled_twice() {
        let tests = ["mtd-common", "mtd-userspace", "xtask", "mtd-tests"].map(|name| ["-p", name]).concat();
        let all = features(&[&tests[..], &["-e", "normal,build,dev"]].concat());
        assert!(all.len() > 150, "{}", all.len());
        for selection in [
            &["-p", "xtask", "-e", "normal,build"][..],
            &["-p", "mtd-userspace", "-e", "normal,build"],
            &["-p", "mtd-tests", "-e", "normal,build"],
            &["-p", "xtask", "-e", "normal,build,dev"],
            &["-p", "mtd-userspace", "-e", "normal,build,dev"],
            &["-p", "mtd-common", "-p", "mtd-userspace", "-e", "normal,build,dev"],
            &["-p", "mtd-tests", "-e", "normal,build,dev"],
        ] {
            for (package, features) in features(selection) {
                assert!(
                    features.is_subset(&all[&package]),
                    "{package} has other features in {selection:?} than in the tests: {features:?} and {:?}",
                    all[&package]
                );
            }
        }
    }

    #[test]
    fn a_bpf_build_inherits_cargo_home_and_proxies_but_no_compiler_or_flags() {
        for name in ["RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_PROFILE_BPF_LTO"] {
            assert!(shapes_the_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_TERM_COLOR", "PATH", "RUSTUP_HOME"] {
            assert!(!shapes_the_build(name) && !set_by_cargo_run(name), "{name}");
        }
    }

    #[test]
    fn what_cargo_run_sets_is_recognised() {
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            assert!(set_by_cargo_run(name), "{name}");
        }
    }
}
