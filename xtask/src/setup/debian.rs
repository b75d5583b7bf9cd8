//! Debian's packages: whether this host has apt, which packages apt offers, and installing them.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::privilege::Privilege;
use crate::process::{self, find_program};

/// apt on this host, and whether this process may use it. The package lists are updated at most once.
pub(super) struct Apt {
    present: bool,
    privilege: Privilege,
    updated: bool,
}

impl Apt {
    /// Looks for `apt-get` and `dpkg-query`.
    pub(super) fn detect(privilege: Privilege) -> Self {
        let present = ["apt-get", "dpkg-query"].iter().all(|name| find_program(name).is_some());
        Self { present, privilege, updated: false }
    }

    /// Whether packages can be installed: this is a Debian-like host, and root is available.
    pub(super) fn is_usable(&self) -> bool {
        self.present && self.privilege.is_available()
    }

    /// Whether apt's present lists have a version of `package`.
    pub(super) fn offers(&self, package: &str) -> bool {
        self.present
            && process::capture(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))
                .is_ok_and(|policy| has_candidate(&policy))
    }

    /// Updates the package lists, but only at the first call.
    ///
    /// # Errors
    /// Root is not available, or `apt-get update` fails.
    pub(super) fn update(&mut self) -> Result<()> {
        if !self.updated {
            let why = "something must be installed, so the package lists are updated first";
            self.run(why, &["update"])?;
            self.updated = true;
        }
        Ok(())
    }

    /// Installs packages, without recommended ones and without removing any other package.
    ///
    /// # Errors
    /// This is not a Debian-like host, root is not available, or apt fails; the error says what to do by hand.
    pub(super) fn install(&mut self, why: &str, packages: &[&str]) -> Result<()> {
        if !self.is_usable() {
            bail!("left out: {}: {why}\n{}", packages.join(" "), self.by_hand(packages));
        }
        self.update()?;
        let mut arguments = vec!["install", "-y", "--no-install-recommends", "--no-remove"];
        arguments.extend(packages);
        self.run(why, &arguments).with_context(|| {
            format!(
                "could not install {}. Where apt says that another package would be removed (rustc-web cannot stand \
                 beside Debian's own rustc or rustup package), remove that one by hand first",
                packages.join(" ")
            )
        })
    }

    fn run(&self, why: &str, arguments: &[&str]) -> Result<()> {
        let quiet: (&str, &OsStr) = ("DEBIAN_FRONTEND", "noninteractive".as_ref());
        let mut command = self.privilege.command(why, "apt-get", &[quiet])?;
        // apt's output about each package is not interesting. If apt fails, the reason is on stderr.
        process::run(command.arg("-qq").args(arguments), why)
    }

    fn by_hand(&self, packages: &[&str]) -> String {
        let packages = packages.join(" ");
        if self.present {
            format!(
                "Packages are installed by root. Either {}, or have the operator run:\n  apt-get update && apt-get \
                 install -y --no-install-recommends {packages}",
                self.privilege.remedy()
            )
        } else {
            format!(
                "This host has no apt-get, so nothing was installed. Install the equivalents of these Debian packages \
                 with this system's package manager: {packages}"
            )
        }
    }
}

/// Reads the answer of `apt-cache policy PACKAGE` (in the C locale).
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|candidate| candidate.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_offered_when_apt_names_a_candidate() {
        assert!(has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""), "an unknown package has no answer at all");
    }

    #[test]
    fn without_root_the_operator_gets_the_exact_command() {
        let mut apt = Apt { present: true, privilege: Privilege::Unprivileged, updated: false };
        let error = apt.install("scans", &["nmap", "curl"]).unwrap_err().to_string();
        assert!(error.contains("apt-get install -y --no-install-recommends nmap curl"), "{error}");
    }

    #[test]
    fn without_apt_the_packages_are_named() {
        let mut apt = Apt { present: false, privilege: Privilege::Root, updated: false };
        let error = apt.install("scans", &["nmap"]).unwrap_err().to_string();
        assert!(error.contains("no apt-get") && error.ends_with(": nmap"), "{error}");
    }
}
