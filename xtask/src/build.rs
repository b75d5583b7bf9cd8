//! `cargo xtask build`: builds the BPF object, then the controller and CLI that embed it, and reports on loading it into
//! the kernel.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::console::{say, stage};
use crate::privilege::Privilege;
use crate::process;
use crate::setup::{self, Need, ToolChain};
use crate::workspace::Workspace;

/// Variable that tells the build script of mtd-userspace which object to embed instead of `target/mtd-ebpf.o`.
pub(crate) const OBJECT_VARIABLE: &str = "MTD_EBPF_OBJECT";

const EXAMPLES: &str = "\
Examples:
  cargo xtask build           optimised build, then load time, instruction counts and map memory
  cargo xtask build --debug   unoptimised controller; the BPF programs write log lines to it

The report loads the programs into this kernel. Without root it is left out, and a line says so.";

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Optimised (the default).
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Unoptimised, with log lines from the BPF programs.
    #[arg(long)]
    debug: bool,
    /// Leave out the report, which loads the programs into the kernel.
    #[arg(long)]
    no_report: bool,
}

/// How mtd is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised.
    Release,
    /// Unoptimised, with log lines from the BPF programs.
    Debug,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }

    fn object(self) -> &'static str {
        match self {
            Self::Release => "mtd-ebpf.o",
            Self::Debug => "mtd-ebpf-debug.o",
        }
    }
}

/// The results of a build.
pub(crate) struct Artifacts {
    /// The binary of controller and CLI.
    pub(crate) mtd: PathBuf,
    /// The BPF object that is embedded in it.
    pub(crate) ebpf_object: PathBuf,
}

impl Artifacts {
    /// The artifacts of this profile, with this object embedded.
    pub(crate) fn new(workspace: &Workspace, profile: Profile, ebpf_object: PathBuf) -> Self {
        Self { mtd: workspace.target().join(profile.directory()).join("mtd"), ebpf_object }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Set-up or a build fails, or the kernel does not load the programs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let artifacts = ensure(&Workspace::load()?, profile)?;
    say(&format!("built {} with {} inside", artifacts.mtd.display(), artifacts.ebpf_object.display()));
    if args.no_report { Ok(()) } else { report(&artifacts, Privilege::detect()) }
}

/// Builds everything that is not up to date. Runs set-up first if the tool chain is missing.
///
/// # Errors
/// Set-up or a build fails.
pub(crate) fn ensure(workspace: &Workspace, profile: Profile) -> Result<Artifacts> {
    let artifacts = Artifacts::new(workspace, profile, ensure_object(workspace, profile)?);
    stage("controller and CLI", || {
        let mut command = host_cargo(workspace, &artifacts);
        command.args(["build", "-p", "mtd-userspace"]);
        if profile == Profile::Release {
            command.arg("--release");
        }
        process::run_quietly(&mut command)
    })?;
    Ok(artifacts)
}

/// Builds the BPF object. Runs set-up first if the tool chain is missing.
///
/// # Errors
/// Set-up or the build fails.
pub(crate) fn ensure_object(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let tool_chain = setup::ensure(workspace, Need::ToolChain)?;
    stage("BPF object", || build_object(workspace, &tool_chain, profile))
}

/// A cargo command for the host's packages that embeds the object of these artifacts.
pub(crate) fn host_cargo(workspace: &Workspace, artifacts: &Artifacts) -> Command {
    let mut command = workspace.cargo();
    // Set only where it differs from the build script's default. Otherwise alternating between xtask and a plain
    // `cargo build` would compile mtd again each time, because the variable changes.
    if artifacts.ebpf_object == workspace.root().join("target").join(Profile::Release.object()) {
        command.env_remove(OBJECT_VARIABLE);
    } else {
        command.env(OBJECT_VARIABLE, &artifacts.ebpf_object);
    }
    command
}

fn build_object(workspace: &Workspace, tool_chain: &ToolChain, profile: Profile) -> Result<PathBuf> {
    let directory = workspace.target().join("ebpf");
    let mut command = tool_chain.cargo_build(workspace, &directory);
    command.args(["--profile", "bpf", "-p", "mtd-ebpf"]);
    if profile == Profile::Debug {
        command.args(["--features", "log"]);
    }
    process::run_quietly(&mut command)?;
    let object = workspace.target().join(profile.object());
    copy_if_changed(&directory.join(setup::TARGET).join("bpf").join("mtd-ebpf"), &object)?;
    Ok(object)
}

/// Builds the BPF programs with log lines, which a test loads because they differ from those without. Returns the object.
///
/// # Errors
/// The programs do not compile.
pub(crate) fn log_object(workspace: &Workspace) -> Result<PathBuf> {
    let tool_chain = setup::ensure(workspace, Need::ToolChain)?;
    build_object(workspace, &tool_chain, Profile::Debug)
}

/// Copies a file only if its content differs, because cargo compiles mtd again whenever the object's time changes.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new =
        fs::read(from).with_context(|| format!("the BPF build left no object at {}", from.display()))?;
    match fs::read(to) {
        Ok(old) if old == new => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not read {}", to.display()));
        }
        Ok(_) | Err(_) => {}
    }
    fs::write(to, new).with_context(|| format!("could not write {}", to.display()))?;
    Ok(true)
}

fn report(artifacts: &Artifacts, privilege: Privilege) -> Result<()> {
    if !privilege.is_available() {
        say(&format!(
            "left out: load time, verifier instruction counts and map memory, because loading needs root. To get \
             them, {}",
            privilege.remedy()
        ));
        return Ok(());
    }
    let no_environment: [(&str, &OsStr); 0] = [];
    let mut command = privilege.command("loading the programs", &artifacts.mtd, &no_environment)?;
    command.args(["debug", "load-report"]);
    let status = command.status().with_context(|| format!("could not start {}", artifacts.mtd.display()))?;
    anyhow::ensure!(
        status.success(),
        "mtd is built, but `{}` failed ({status}). Where this kernel or container may not load BPF programs, use \
         `cargo xtask build --no-report`",
        process::describe(&command)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let directory = scratch("copy");
        let (from, to) = (directory.join("from"), directory.join("to"));
        fs::write(&from, b"one").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert!(!copy_if_changed(&from, &to).unwrap());
        fs::write(&from, b"two").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_missing_object_is_named() {
        let directory = scratch("missing");
        let error = copy_if_changed(&directory.join("mtd-ebpf"), &directory.join("to")).unwrap_err();
        assert!(error.to_string().contains("mtd-ebpf"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
