//! The Debian package: installed in a clean Debian, run there as its unit says, and removed again.

mod root;
mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::link::Veth;
use mtd_tests::netns::Netns;
use mtd_tests::runner::provided;
use nix::sys::signal::Signal;

use root::{Root, finish, with_root};
use service::{Service, Unit};

const PATIENCE: Duration = Duration::from_secs(20);

/// Highest exposure that the unit may have, in tenths, as rated by `systemd-analyze security`: from 0 (none) to 100.
const EXPOSURE: &str = "30";

/// The package under test.
const PACKAGE: &str = "MTD_PACKAGE";

fn install(root: &Root<'_>) -> Result<()> {
    fs::copy(provided(PACKAGE)?, root.path("/tmp/mtd.deb"))?;
    // This fails if a package is missing on which mtd depends.
    root.run(&["dpkg", "--install", "/tmp/mtd.deb"])?;
    Ok(fs::remove_file(root.path("/tmp/mtd.deb"))?)
}

/// Installs the example configuration, with the keys and the folder that it names.
fn configure(root: &Root<'_>) -> Result<()> {
    let script = "umask 077; cd /etc/mtd; cp /usr/share/doc/mtd/examples/mtd.toml .; mkdir keys clients; \
                  mtd genkey > private.key; mtd genpsk > keys/laptop.key";
    root.run(&["sh", "-ec", script]).map(drop)
}

/// A host whose underlay interface has the name in the example configuration, and the other end of the cable.
struct Host {
    netns: Netns,
    _other: Netns,
}

impl Host {
    fn new() -> Result<Self> {
        let (netns, other) = (Netns::new("host")?, Netns::new("other")?);
        let veth = Veth::connect((&netns, "pk"), (&other, "po"), 1500)?;
        netns.run(&["link", "set", &veth.left, "name", "eth0"])?;
        for (netns, interface, address) in
            [(&netns, "eth0", "2001:db8:5::2/64"), (&other, veth.right.as_str(), "2001:db8:5::1/64")]
        {
            netns.set_up(interface)?;
            netns.add_address(interface, address.parse()?)?;
        }
        netns.wait_usable("eth0", PATIENCE)?;
        Ok(Self { netns, _other: other })
    }

    fn interfaces(&self) -> Result<String> {
        self.netns.run(&["-brief", "link"])
    }
}

#[test]
fn the_service_runs_in_a_clean_debian_and_goes_without_a_trace() -> Result<()> {
    provided(PACKAGE)?;
    let host = Host::new()?;
    with_root(&host.netns, |root| {
        let before = (root.listing()?, host.interfaces()?);
        install(root)?;
        assert_eq!(root.run(&["mtd", "--version"])?, concat!("mtd ", env!("CARGO_PKG_VERSION"), "\n"));
        assert_eq!(root.path("/etc/mtd").metadata()?.permissions().mode() & 0o7777, 0o700);
        configure(root)?;

        let unit = Unit::installed(root)?;
        let checked = root.run(&unit.words("ExecStartPre")?)?;
        assert!(checked.contains("good (eth0: server with 1 registered clients"), "{checked}");
        let mut service = Service::start(root, &unit)?;
        service.wait_for("READY=1")?;
        // Of its capabilities at the start, it has kept only CAP_NET_ADMIN (number 12), and cannot regain the others.
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&service.told(set)?, 16)?, 1 << 12, "{set}");
        }
        let status = root.run(&["mtd", "status"])?;
        assert!(status.contains("eth0") && status.contains("laptop"), "{status}");
        assert!(host.interfaces()?.contains("mtd0"), "no tunnel device");
        let ended = service.process.terminate(Signal::SIGTERM, PATIENCE)?;
        ensure!(ended.success(), "the service ended with {ended}:\n{}", service.process.log());
        service.wait_for("STOPPING=1")?;

        root.run(&["sh", "-ec", "cd /etc/mtd; rm -r mtd.toml private.key keys clients; rm /run/notify"])?;
        root.run(&["dpkg", "--purge", "mtd"])?;
        assert_eq!((root.listing()?, host.interfaces()?), before);
        Ok(())
    })
}

#[test]
fn what_a_killed_service_left_goes_with_the_package() -> Result<()> {
    provided(PACKAGE)?;
    let host = Host::new()?;
    with_root(&host.netns, |root| {
        install(root)?;
        configure(root)?;
        let before = (root.pins()?, host.interfaces()?);
        let unit = Unit::installed(root)?;
        // Twice, to test also what a second start takes over.
        for _ in 0..2 {
            let mut service = Service::start(root, &unit)?;
            service.wait_for("READY=1")?;
            service.process.kill()?;
        }
        let left = (root.pins()?, host.interfaces()?);
        assert!(left.0 != before.0 && left.1 != before.1, "nothing was left that could go: {left:?}");
        root.run(&["dpkg", "--remove", "mtd"])?;
        assert_eq!((root.pins()?, host.interfaces()?), before);
        assert!(root.has("/etc/mtd/private.key"), "a removal that is no purge keeps keys");
        Ok(())
    })
}

#[test]
fn manual_pages_and_completions_are_where_debian_looks_for_them() -> Result<()> {
    provided(PACKAGE)?;
    let host = Netns::new("host")?;
    with_root(&host, |root| {
        install(root)?;
        for page in ["mtd", "mtd-run", "mtd-check", "mtd-status", "mtd-peers", "mtd-peers-add"] {
            let text = root.run(&["zcat", &format!("/usr/share/man/man1/{page}.1.gz")])?;
            // In the source of a manual page, hyphens in words are escaped.
            let name = page.replace('-', "\\-");
            assert!(text.contains(".SH NAME") && text.contains(&name), "{page}:\n{text}");
        }
        let text = root.run(&["zcat", "/usr/share/man/man5/mtd.toml.5.gz"])?;
        assert!(
            text.contains("mtd.toml \\- configuration of mtd") && text.contains(".B rendezvous.window"),
            "{text}"
        );
        assert!(!root.has("/usr/share/man/man1/mtd-debug-man.1.gz"), "a page about a hidden command");
        for file in [
            "/usr/share/bash-completion/completions/mtd",
            "/usr/share/zsh/vendor-completions/_mtd",
            "/usr/share/fish/vendor_completions.d/mtd.fish",
        ] {
            let text = fs::read_to_string(root.path(file)).context(file)?;
            assert!(text.contains("genpsk"), "{file} completes no commands");
        }
        let script = ". /usr/share/bash-completion/completions/mtd; COMP_WORDS=(mtd stat); COMP_CWORD=1; \
                      _mtd mtd stat mtd; echo \"${COMPREPLY[@]}\"";
        assert_eq!(root.run(&["bash", "-c", script])?, "status\n");
        for file in ["copyright", "changelog.gz", "changelog.Debian.gz", "examples/mtd.toml"] {
            assert!(root.has(&format!("/usr/share/doc/mtd/{file}")), "{file}");
        }
        // The output is empty if every installed file has the checksum that the package gives.
        assert_eq!(root.run(&["dpkg", "--verify", "mtd"])?, "");
        Ok(())
    })
}

#[test]
fn the_unit_leaves_the_service_little_to_do_harm_with() -> Result<()> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/mtd.service");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE, unit]);
    finish("systemd-analyze security", command, PATIENCE).map(drop)
}
