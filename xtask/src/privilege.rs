//! How a step that needs root is run: directly, through `sudo -n`, or not at all.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::build::OBJECT_VARIABLE;
use crate::console::say;
use crate::process::{self, find_program};
use crate::torture;

/// The means by which this process can run steps that need root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// It runs as root.
    Root,
    /// `sudo -n` works without a password.
    Sudo,
    /// `sudo` exists, but wants a password (xtask never asks for one).
    SudoNeedsPassword,
    /// There is no `sudo`.
    Unprivileged,
}

impl Privilege {
    /// Finds out which applies, from the effective user id and by trying `sudo -n true`.
    pub(crate) fn detect() -> Self {
        let root = nix::unistd::geteuid().is_root();
        let sudo = !root && find_program("sudo").is_some();
        let answers = || {
            Command::new("sudo")
                .args(["-n", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        Self::decide(root, sudo, answers)
    }

    fn decide(root: bool, sudo: bool, sudo_answers: impl FnOnce() -> bool) -> Self {
        match (root, sudo) {
            (true, _) => Self::Root,
            (false, false) => Self::Unprivileged,
            (false, true) if sudo_answers() => Self::Sudo,
            (false, true) => Self::SudoNeedsPassword,
        }
    }

    /// Whether steps that need root can be run.
    pub(crate) fn is_available(self) -> bool {
        matches!(self, Self::Root | Self::Sudo)
    }

    /// What the operator can do so that steps that need root can be run.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Root | Self::Sudo => "nothing to do: root is available",
            Self::SudoNeedsPassword => "run `sudo -v` first and repeat the command, or run it as root",
            Self::Unprivileged => "run the command as root (there is no sudo here)",
        }
    }

    /// A command that runs `program` as root with `environment` added, which sudo would clear otherwise. If the command
    /// uses sudo, it is announced with `why`.
    ///
    /// # Errors
    /// Root is not available; the error names the remedy.
    pub(crate) fn command(
        self,
        why: &str,
        program: impl AsRef<OsStr>,
        environment: &[(&str, &OsStr)],
    ) -> Result<Command> {
        let command = self.quiet_command(why, program, environment)?;
        if self != Self::Root {
            say(&format!("{why} needs root, so it goes through sudo: {}", process::describe(&command)));
        }
        Ok(command)
    }

    /// As [`Privilege::command`], without the announcement.
    ///
    /// # Errors
    /// Root is not available; the error names the remedy.
    pub(crate) fn quiet_command(
        self,
        why: &str,
        program: impl AsRef<OsStr>,
        environment: &[(&str, &OsStr)],
    ) -> Result<Command> {
        if !self.is_available() {
            bail!("{why} needs root: {}", self.remedy());
        }
        let words = self.words(program.as_ref(), environment);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self == Self::Root {
            command.envs(environment.iter().copied());
        }
        Ok(command)
    }

    fn words(self, program: &OsStr, environment: &[(&str, &OsStr)]) -> Vec<OsString> {
        let mut words = Vec::new();
        if self == Self::Sudo {
            words.extend(["sudo", "-n", "--"].map(OsString::from));
            if !environment.is_empty() {
                words.push("env".into());
            }
            for (name, value) in environment {
                let mut word = OsString::from(format!("{name}="));
                word.push(value);
                words.push(word);
            }
        }
        words.push(program.to_owned());
        words
    }
}

/// Environment of a program that drives mtd: the binary, the BPF object, and variables that the caller set for diagnosis.
pub(crate) fn test_environment<'a>(
    mtd: &'a Path,
    ebpf_object: &'a Path,
    passed_on: &'a [(&'static str, OsString)],
) -> Vec<(&'a str, &'a OsStr)> {
    [("MTD_BIN", mtd.as_os_str()), (OBJECT_VARIABLE, ebpf_object.as_os_str())]
        .into_iter()
        .chain(passed_on.iter().map(|(name, value)| (*name, value.as_os_str())))
        .collect()
}

/// The variables for diagnosis and torture that the caller set, which sudo would drop.
pub(crate) fn diagnostic_variables() -> Vec<(&'static str, OsString)> {
    let shared = ["RUST_BACKTRACE", "RUST_LOG", "NO_COLOR", "TERM", "CI"];
    shared
        .into_iter()
        .chain([torture::SECONDS_VARIABLE, torture::RESTARTS_VARIABLE, torture::SEED_VARIABLE])
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_no_sudo_and_does_not_try_it() {
        assert_eq!(Privilege::decide(true, true, || unreachable!()), Privilege::Root);
    }

    #[test]
    fn without_sudo_nothing_is_tried() {
        assert_eq!(Privilege::decide(false, false, || unreachable!()), Privilege::Unprivileged);
    }

    #[test]
    fn sudo_counts_only_when_it_answers_without_a_password() {
        assert_eq!(Privilege::decide(false, true, || true), Privilege::Sudo);
        assert_eq!(Privilege::decide(false, true, || false), Privilege::SudoNeedsPassword);
    }

    #[test]
    fn the_environment_crosses_sudo_through_env() {
        let words = Privilege::Sudo.words("tool".as_ref(), &[("MTD_BIN", "/t/a b".as_ref())]);
        assert_eq!(words, ["sudo", "-n", "--", "env", "MTD_BIN=/t/a b", "tool"]);
        assert_eq!(Privilege::Sudo.words("tool".as_ref(), &[]), ["sudo", "-n", "--", "tool"]);
        assert_eq!(Privilege::Root.words("tool".as_ref(), &[("A", "b".as_ref())]), ["tool"]);
    }

    #[test]
    fn a_step_that_cannot_be_root_says_what_to_do() {
        let error = Privilege::SudoNeedsPassword.command("loading", "tool", &[]).unwrap_err().to_string();
        assert!(error.contains("loading needs root") && error.contains("sudo -v"), "{error}");
    }
}
