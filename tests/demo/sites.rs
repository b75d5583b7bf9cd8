//! The hosts' controllers: their keys and configurations, starting them, and reading their status.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use mtd::status::{SessionState, Status};
use mtd_tests::controller::{Controller, mtd_program};
use mtd_tests::topology::Host;
use tempfile::TempDir;

use crate::network::Network;
use crate::options::{Link, Options};

/// Names of the registered clients.
pub(crate) const NAMES: [&str; crate::network::MOST_CLIENTS as usize] =
    ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];

/// Name of the client that is not registered.
pub(crate) const UNINVITED: &str = "mallory";

/// The server's addresses in the tunnel.
pub(crate) const SERVER: Tunnel =
    Tunnel { v6: Ipv6Addr::new(0xfd00, 0x6d74, 0, 0, 0, 0, 0, 1), v4: Ipv4Addr::new(10, 66, 0, 1) };

/// Number of DHT nodes that a configuration names. The others are found through these.
const BOOTSTRAP_NODES: usize = 3;

/// Addresses in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// IPv6.
    pub(crate) v6: Ipv6Addr,
    /// IPv4.
    pub(crate) v4: Ipv4Addr,
}

/// A key pair, as `mtd genkey` and `mtd pubkey` print it.
#[derive(Debug)]
pub(crate) struct Identity {
    private: String,
    /// The public key.
    pub(crate) public: String,
}

impl Identity {
    /// A new key pair.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) fn new() -> Result<Self> {
        let private = mtd("genkey", "")?;
        let public = mtd("pubkey", &private)?;
        Ok(Self { private, public })
    }
}

/// A host's folder: configuration, key, state.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// Writes the server's folder, with a file NAME.pub for each client.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(crate) fn server(
        network: &Network,
        options: &Options,
        own: &Identity,
        clients: &[(&str, &Identity)],
    ) -> Result<Self> {
        let more = format!("address = [\"{}/64\", \"{}/24\"]\n", SERVER.v6, SERVER.v4);
        let listen = format!(
            "\n[listen]\nclients_dir = \"clients\"\nperiod = \"{}\"\nmode = \"{}\"\n",
            humantime::format_duration(options.period),
            options.mode.name()
        );
        let this = Self::new(&network.base.server, network, options, own, (&more, &listen))?;
        let folder = this.path().join("clients");
        fs::create_dir(&folder)?;
        for (name, client) in clients {
            fs::write(folder.join(format!("{name}.pub")), &client.public)?;
        }
        Ok(this)
    }

    /// Writes a client's folder, which contains nothing about the server except its public key.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(crate) fn client(
        host: &Host,
        network: &Network,
        options: &Options,
        own: &Identity,
        server: &Identity,
    ) -> Result<Self> {
        let section = format!("\n[[server]]\nname = \"home\"\npublic_key = \"{}\"\n", server.public.trim());
        Self::new(host, network, options, own, ("", &section))
    }

    fn new(
        host: &Host,
        network: &Network,
        options: &Options,
        own: &Identity,
        (more, sections): (&str, &str),
    ) -> Result<Self> {
        let this = Self { folder: tempfile::Builder::new().prefix("mtdt-").tempdir()? };
        let key = this.path().join("private.key");
        fs::write(&key, "")?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        fs::write(&key, &own.private)?;
        let link = match options.delivery {
            Link::Routed => "routed",
            Link::OnLink => "on-link",
        };
        let mut text =
            format!("interface = {:?}\nprefix = \"{}\"\nlink = \"{link}\"\n", host.ifname, host.prefix);
        let state = this.path().join("state");
        write!(text, "state_dir = \"{}\"\nprivate_key_file = \"private.key\"\n{more}", state.display())?;
        let nodes: Vec<String> = network.dht.bootstrap().into_iter().take(BOOTSTRAP_NODES).collect();
        write!(text, "\n[rendezvous]\nbootstrap = {nodes:?}\n{sections}")?;
        fs::write(this.path().join("mtd.toml"), text)?;
        Ok(this)
    }

    /// Starts `mtd run` without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(&self, host: &Host) -> Result<Controller> {
        Controller::spawn(&host.netns, &host.ifname, &self.path().join("mtd.toml"), &[])
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The host's own tunnel addresses in the first session, as the server gave them.
pub(crate) fn tunnel(status: &Status) -> Option<Tunnel> {
    let addresses = &status.sessions.first()?.tunnel.local;
    let v6 = addresses.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    })?;
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })?;
    Some(Tunnel { v6, v4 })
}

/// Number of open sessions.
pub(crate) fn open_sessions(status: &Status) -> usize {
    status.sessions.iter().filter(|session| session.state == SessionState::Open).count()
}

/// Runs `mtd COMMAND` with this input. Returns its output.
fn mtd(command: &str, input: &str) -> Result<String> {
    let mut child = Command::new(mtd_program()?)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start mtd {command}"))?;
    // Taken out of `child`, because dropping it ends the input.
    let stdin = child.stdin.take();
    stdin.context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "mtd {command} failed ({})", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
