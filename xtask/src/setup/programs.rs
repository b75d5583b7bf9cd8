//! The programs that tests and demonstration drive.

use anyhow::{Result, bail};

use super::debian::Apt;
use crate::process::find_program;

/// A program, the Debian package it comes from, and what it is for.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) purpose: &'static str,
    /// Helps people; nothing fails without it.
    pub(super) optional: bool,
    /// Makes packages; of no use to the tests else.
    packaging: bool,
}

impl Program {
    pub(super) fn is_present(&self) -> bool {
        find_program(self.name).is_some()
    }
}

const fn required(name: &'static str, package: &'static str, purpose: &'static str) -> Program {
    Program { name, package, purpose, optional: false, packaging: false }
}

const fn packaging(name: &'static str, package: &'static str, purpose: &'static str) -> Program {
    Program { name, package, purpose, optional: false, packaging: true }
}

/// Everything that set-up looks for.
pub(super) const PROGRAMS: &[Program] = &[
    required("ip", "iproute2", "network namespaces, links, addresses, routes"),
    required("tc", "iproute2", "loss, delay and TC programs"),
    required("iperf3", "iperf3", "TCP and UDP load"),
    required("nmap", "nmap", "scans by a stranger"),
    required("tcpdump", "tcpdump", "captures for a look by hand"),
    required("ping", "iputils-ping", "reachability"),
    required("curl", "curl", "HTTP through the tunnel, the control socket"),
    required("ethtool", "ethtool", "offloads of test links"),
    required("nft", "nftables", "NAT and packet filters of test routers"),
    required("prometheus", "prometheus", "scraping the controller's metrics"),
    required("promtool", "prometheus", "checks of metrics and alert rules"),
    required("chromium", "chromium", "the web view in a browser"),
    required("ps", "procps", "processes left behind"),
    required("sysctl", "procps", "forwarding in test namespaces"),
    Program {
        name: "bpftool",
        package: "bpftool",
        purpose: "a look at loaded programs and maps",
        optional: true,
        packaging: false,
    },
    packaging("dpkg-shlibdeps", "dpkg-dev", "dependencies of the package"),
    packaging("strip", "binutils", "the packaged program without debug information"),
    required("debootstrap", "debootstrap", "a clean Debian in which the package is installed"),
    required("systemd-analyze", "systemd", "a judgement of the service's unit"),
];

/// The programs that are not there, optional ones excepted.
pub(super) fn missing() -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| !program.optional && !program.is_present()).collect()
}

/// The programs that make a package and are not there.
pub(super) fn missing_for_packaging() -> Vec<&'static Program> {
    missing().into_iter().filter(|program| program.packaging).collect()
}

/// Installs the packages of `missing`, and on that occasion the optional programs that apt offers.
///
/// # Errors
/// The packages cannot be installed; the error says how the operator can do it.
pub(super) fn install(missing: &[&Program], apt: &mut Apt) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    apt.install(&format!("tests and demonstration drive {}", names.join(", ")), &packages)?;
    if let Some(program) = missing.iter().find(|program| !program.is_present()) {
        bail!(
            "the package {} is installed, but there is no `{}`: repair it with `apt-get install --reinstall {}`",
            program.package,
            program.name,
            program.package
        );
    }
    for program in PROGRAMS.iter().filter(|program| program.optional && !program.is_present()) {
        if apt.offers(program.package) {
            apt.install(&format!("{} is for {}", program.name, program.purpose), &[program.package])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_one_package_stand_together_so_that_dedup_works() {
        let mut packages: Vec<_> = PROGRAMS.iter().map(|program| program.package).collect();
        packages.dedup();
        let adjacent = packages.len();
        packages.sort_unstable();
        packages.dedup();
        assert_eq!(packages.len(), adjacent);
    }
}
