//! Builds and starts the demonstration, the binary `mtd-demo` of the package mtd-tests.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::console::{say, stage};
use crate::privilege::{Privilege, diagnostic_variables, test_environment};
use crate::process;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// Replaces xtask by the demonstration, and passes on `options` unchanged.
///
/// # Errors
/// Root is not available, set-up or a build fails, or the demonstration cannot be started.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<()> {
    let privilege = Privilege::detect();
    anyhow::ensure!(
        privilege.is_available(),
        "the demonstration makes network namespaces and loads BPF programs, so it needs root: {}",
        privilege.remedy()
    );
    setup::ensure(workspace, Need::Run)?;
    let artifacts = build::ensure(workspace, Profile::Release)?;
    stage("demonstration program", || {
        let mut command = build::host_cargo(workspace, &artifacts);
        process::run_quietly(command.args(["build", "--release", "-p", "mtd-tests", "--bin", "mtd-demo"]))
    })?;
    let program = workspace.target().join("release").join("mtd-demo");
    let passed_on = diagnostic_variables();
    let environment = test_environment(&artifacts.mtd, &artifacts.ebpf_object, &passed_on);
    let mut command = privilege.command("the demonstration", &program, &environment)?;
    say("starting the demonstration in network namespaces of its own; Ctrl-C ends it");
    process::replace_by(command.args(options))
}
