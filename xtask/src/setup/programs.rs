//! The programs that tests, demonstration, benchmarks and packaging drive: which of them needs which.

use anyhow::{Result, bail};

use super::debian::Apt;
use crate::process::find_program;

/// Who drives a program. A subcommand installs only the programs that it drives itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// The demonstration of `cargo xtask run`.
    Run,
    /// The tests, including benchmarks in their short form.
    Test,
    /// `cargo xtask package`, and the tests of the package.
    Package,
    /// `cargo xtask bench`.
    Bench,
}

/// A program, the Debian package that contains it, its purpose and its users.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) purpose: &'static str,
    /// Only people use it; nothing fails without it.
    pub(super) optional: bool,
    users: &'static [User],
}

impl Program {
    pub(super) fn is_present(&self) -> bool {
        find_program(self.name).is_some()
    }

    fn is_for(&self, user: User) -> bool {
        self.users.contains(&user)
    }
}

const fn program(
    name: &'static str,
    package: &'static str,
    users: &'static [User],
    purpose: &'static str,
) -> Program {
    Program { name, package, purpose, optional: false, users }
}

/// The users that make namespaces and links.
const NETWORKS: &[User] = &[User::Run, User::Test, User::Bench];
const SCANS: &[User] = &[User::Run, User::Test];
const LOADS: &[User] = &[User::Test, User::Bench];
const TEST: &[User] = &[User::Test];
const PACKAGE: &[User] = &[User::Test, User::Package];

/// Everything that set-up looks for.
pub(super) const PROGRAMS: &[Program] = &[
    program("ip", "iproute2", NETWORKS, "network namespaces, links, addresses, routes"),
    program("tc", "iproute2", NETWORKS, "loss, delay and TC programs"),
    program("ping", "iputils-ping", NETWORKS, "reachability"),
    program("ethtool", "ethtool", NETWORKS, "offloads of test links"),
    program("nmap", "nmap", SCANS, "scans by a stranger"),
    program("iperf3", "iperf3", LOADS, "TCP and UDP load"),
    program("nft", "nftables", LOADS, "NAT and packet filters of test routers"),
    program("tcpdump", "tcpdump", TEST, "captures for a look by hand"),
    program("curl", "curl", TEST, "HTTP through the tunnel, the control socket"),
    program("prometheus", "prometheus", TEST, "scraping the controller's metrics"),
    program("promtool", "prometheus", TEST, "checks of metrics and alert rules"),
    program("chromium", "chromium", TEST, "the web view in a browser"),
    program("ps", "procps", TEST, "processes left behind"),
    program("sysctl", "procps", TEST, "forwarding in test namespaces"),
    Program {
        name: "bpftool",
        package: "bpftool",
        purpose: "a look at loaded programs and maps",
        optional: true,
        users: TEST,
    },
    program("dpkg-shlibdeps", "dpkg-dev", PACKAGE, "dependencies of the package"),
    program("strip", "binutils", PACKAGE, "the packaged program without debug information"),
    program("debootstrap", "debootstrap", TEST, "a clean Debian in which the package is installed"),
    program("systemd-analyze", "systemd", TEST, "a judgement of the service's unit"),
];

/// The programs that this user drives and that are not installed, except optional ones.
pub(super) fn missing(user: User) -> Vec<&'static Program> {
    needed(user).filter(|program| !program.optional && !program.is_present()).collect()
}

fn needed(user: User) -> impl Iterator<Item = &'static Program> {
    PROGRAMS.iter().filter(move |program| program.is_for(user))
}

/// Installs the packages of `missing`, and at the same time the optional programs of the same user that apt offers.
///
/// # Errors
/// The packages cannot be installed; the error says how the operator can do it.
pub(super) fn install(user: User, missing: &[&Program], apt: &mut Apt) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    apt.install(&format!("{} {}", why(user), names.join(", ")), &packages)?;
    if let Some(program) = missing.iter().find(|program| !program.is_present()) {
        bail!(
            "the package {} is installed, but there is no `{}`: repair it with `apt-get install --reinstall {}`",
            program.package,
            program.name,
            program.package
        );
    }
    for program in needed(user).filter(|program| program.optional && !program.is_present()) {
        if apt.offers(program.package) {
            apt.install(&format!("{} is for {}", program.name, program.purpose), &[program.package])?;
        }
    }
    Ok(())
}

fn why(user: User) -> &'static str {
    match user {
        User::Run => "the demonstration drives",
        User::Test => "tests drive",
        User::Package => "a package is made by",
        User::Bench => "the benchmarks drive",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(user: User) -> Vec<&'static str> {
        let mut packages: Vec<_> = needed(user).map(|program| program.package).collect();
        packages.dedup();
        packages
    }

    #[test]
    fn programs_of_one_package_stand_together_so_that_dedup_works() {
        let mut packages: Vec<_> = PROGRAMS.iter().map(|program| program.package).collect();
        packages.dedup();
        let adjacent = packages.len();
        packages.sort_unstable();
        packages.dedup();
        assert_eq!(packages.len(), adjacent);
    }

    #[test]
    fn the_demonstration_needs_what_makes_networks_and_the_strangers_scanner() {
        assert_eq!(packages(User::Run), ["iproute2", "iputils-ping", "ethtool", "nmap"]);
    }

    #[test]
    fn a_package_needs_what_packs_and_the_benchmarks_no_browser() {
        assert_eq!(packages(User::Package), ["dpkg-dev", "binutils"]);
        assert_eq!(packages(User::Bench), ["iproute2", "iputils-ping", "ethtool", "iperf3", "nftables"]);
    }

    #[test]
    fn the_tests_need_everything() {
        assert_eq!(needed(User::Test).count(), PROGRAMS.len());
    }
}
