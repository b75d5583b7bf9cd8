//! Starting other programs. They are announced, and errors repeat their command lines.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::console::say;

/// Prints `why` and the command line, then runs the command with its stdout on stderr (xtask's stdout is for data).
///
/// # Errors
/// The program cannot be started, or ends with another status than 0.
pub(crate) fn run(command: &mut Command, why: &str) -> Result<()> {
    say(&format!("{why}: {}", describe(command)));
    run_quietly(command)
}

/// As [`run`], without the announcement.
///
/// # Errors
/// The program cannot be started, or ends with another status than 0.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("could not start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs the command and returns what it wrote to stdout; its stderr is part of the error.
///
/// # Errors
/// The program cannot be started, ends with another status than 0, or does not write UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` did not write UTF-8"))
}

/// Replaces xtask by the command, so that signals, terminal and exit code are the command's own.
///
/// # Errors
/// The program cannot be started; otherwise this does not return.
pub(crate) fn replace_by(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(anyhow!(error).context(format!("could not start `{}`", describe(command))))
}

/// The path of a program, looked for on `PATH` and in the directories of administration programs, which the `PATH` of an
/// unprivileged user often lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether `path` is a file that anybody may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The command as one could type it in a shell, with those variables of its environment that matter to a reader.
pub(crate) fn describe(command: &Command) -> String {
    let shown = |name: &OsStr| ["RUSTC", "RUSTC_BOOTSTRAP", "LLVM_PREFIX"].iter().any(|shown| name == *shown);
    let environment = command
        .get_envs()
        .filter(|(name, _)| shown(name))
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    let program = Path::new(command.get_program());
    let short = program.file_name().filter(|_| program.ends_with("bin/cargo")).unwrap_or(program.as_os_str());
    environment
        .chain(std::iter::once(quote(short)))
        .chain(command.get_args().map(quote))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:@,+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_command_can_be_typed_in_a_shell() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["build", "two words", "it's"]).env("RUSTC", "/usr/bin/rustc").env("UNSHOWN", "x");
        assert_eq!(describe(&command), r"RUSTC=/usr/bin/rustc cargo build 'two words' 'it'\''s'");
    }

    #[test]
    fn a_failed_command_is_named_in_the_error() {
        let error =
            capture(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3'` failed (exit status: 3): reason"), "{error}");
    }
}
