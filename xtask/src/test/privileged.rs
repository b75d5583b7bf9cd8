//! The tests of mtd-tests, which need root: built as the caller, run as root, one at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Session;
use super::closing::Tally;
use super::runner;
use crate::build::host_cargo;
use crate::console::say;
use crate::privilege::{Privilege, diagnostic_variables, test_environment};
use crate::process;

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    name: String,
    executable: PathBuf,
    /// Where cargo would start it.
    directory: PathBuf,
}

/// Builds the test programs and runs them as root.
///
/// # Errors
/// Root is not available, the programs do not compile, or no test ran although none was filtered out.
pub(super) fn run(session: &Session<'_>, privilege: Privilege) -> Result<Tally> {
    if !privilege.is_available() {
        bail!(
            "these tests make network namespaces and load BPF programs, which needs root: {}. `cargo xtask test \
             --unprivileged` leaves them out",
            privilege.remedy()
        );
    }
    let passed_on = diagnostic_variables();
    let artifacts = &session.artifacts;
    let mut environment = test_environment(&artifacts.mtd, &artifacts.ebpf_object, &passed_on);
    environment.extend(session.log_object.as_ref().map(|object| ("MTD_EBPF_LOG_OBJECT", object.as_os_str())));
    environment.extend(session.package.as_ref().map(|package| ("MTD_PACKAGE", package.as_os_str())));
    let mut tally = Tally::default();
    for program in build(session)? {
        say(&format!("running {}", program.name));
        let why = format!("the test program {}", program.name);
        let mut command = privilege.command(&why, &program.executable, &environment)?;
        // Tests share the host's BPF file system and its clock: one at a time.
        command.arg("--test-threads=1").args(session.filter).current_dir(&program.directory);
        tally += runner::run(&mut command)?;
    }
    if session.filter.is_empty() && tally.passed + tally.failed == 0 {
        bail!("the package mtd-tests has no test that ran");
    }
    Ok(tally)
}

fn build(session: &Session<'_>) -> Result<Vec<TestProgram>> {
    let mut command = host_cargo(&session.workspace, &session.artifacts);
    command.args(["test", "--release", "-p", "mtd-tests", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let line = process::describe(&command);
    let output = command
        .stdin(Stdio::null())
        .stderr(io::stderr())
        .output()
        .with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(test_program).collect())
}

/// Reads one of cargo's messages; `None` when it is not about a test program.
fn test_program(message: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let target = &message["target"];
    Some(TestProgram {
        name: format!("{} ({})", target["name"].as_str()?, target["kind"][0].as_str()?),
        executable: message["executable"].as_str()?.into(),
        directory: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["test"],"name":"netns"},"profile":{"test":true},"executable":"/t/netns-1a2b"}"#;
        let expected = TestProgram {
            name: "netns (test)".to_owned(),
            executable: "/t/netns-1a2b".into(),
            directory: "/w/tests".into(),
        };
        assert_eq!(test_program(message), Some(expected));
    }

    #[test]
    fn libraries_binaries_and_other_messages_are_none() {
        let binary = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["bin"],"name":"mtd-demo"},"profile":{"test":false},"executable":"/t/mtd-demo"}"#;
        for message in [binary, r#"{"reason":"build-finished","success":true}"#, "no JSON"] {
            assert_eq!(test_program(message), None, "{message}");
        }
    }
}
