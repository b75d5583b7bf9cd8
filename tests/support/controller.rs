//! Real controllers: the `mtd` program, started in a namespace with a configuration made here.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd::status::Status;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::clocks::in_time_namespace;
use crate::names::Resolver;
use crate::netns::Netns;
use crate::process::Running;
use crate::topology::{Delivery, Host};
use crate::wait_until;

/// How long a controller may take to start. Several may load their programs at the same time, each of which takes a
/// second of processor time, and the machine may be busy with other things.
const START: Duration = Duration::from_mins(1);

/// How long a controller may take to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The `mtd` program under test: `MTD_BIN`.
///
/// # Errors
/// When the variable is not set or names no file.
pub fn mtd_program() -> Result<PathBuf> {
    let path = std::env::var_os("MTD_BIN")
        .map(PathBuf::from)
        .context("MTD_BIN is not set; run the tests through `cargo xtask test`")?;
    ensure!(path.is_file(), "MTD_BIN is {}, which is no file", path.display());
    Ok(path)
}

/// Whether `mtd status` or a similar command has shown something: a controller, or the data plane that a killed controller
/// left, for which it has another exit status.
pub fn answered(output: &Output) -> bool {
    matches!(output.status.code(), Some(0 | 3))
}

/// One end of a statically configured session.
#[derive(Clone, Debug)]
pub struct End {
    /// Protected prefix.
    pub prefix: Ipv6Net,
    /// Seed identifier, 16 hex digits.
    pub seed: String,
    /// IPv6 address in the tunnel.
    pub v6: Ipv6Addr,
    /// IPv4 address in the tunnel.
    pub v4: Ipv4Addr,
    /// Networks behind it.
    pub behind: Vec<IpNet>,
}

impl End {
    /// End number `n` (0–99), on `host`.
    pub fn new(n: u8, host: &Host) -> Self {
        Self {
            prefix: host.prefix,
            seed: format!("{:016x}", 0x5eed_0000_0000_0000_u64 + u64::from(n)),
            v6: Ipv6Addr::new(0xfd00, 0x6d74, 0, 0, 0, 0, 0, 1 + u16::from(n)),
            v4: Ipv4Addr::new(10, 77, 0, 1 + n),
            behind: Vec::new(),
        }
    }

    /// Both tunnel addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v6.into(), self.v4.into()]
    }
}

/// A session between two ends: what both configurations must agree on.
#[derive(Clone, Debug)]
pub struct Session {
    /// Pre-shared key, base64 (`mtd genpsk`).
    pub key: String,
    /// Slot length, as written in the configuration.
    pub period: String,
    /// `encrypt` or `authenticate`.
    pub mode: String,
    /// `auto`, `on` or `off`.
    pub middlebox: String,
}

impl Session {
    /// A session with a new key and slots of one second.
    ///
    /// # Errors
    /// When `mtd genpsk` fails.
    pub fn new(mode: &str) -> Result<Self> {
        let output = Command::new(mtd_program()?).arg("genpsk").output().context("mtd genpsk")?;
        ensure!(output.status.success(), "mtd genpsk failed: {output:?}");
        let key = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(Self { key, period: "1s".to_owned(), mode: mode.to_owned(), middlebox: "auto".to_owned() })
    }
}

/// The configuration of one controller, and the folder that contains it. Change the fields, then call [`Setup::start`].
#[derive(Debug)]
pub struct Setup {
    /// Interface, own prefix, link mode.
    pub interface: String,
    /// Routed or on-link.
    pub delivery: Delivery,
    /// Whether the prefix is shared with ordinary addresses (`link = "shared"`), however it is delivered.
    pub shared: bool,
    /// Own end: prefix, tunnel addresses.
    pub local: End,
    /// The peers, and the sessions with them.
    pub peers: Vec<(Session, End)>,
    /// By how many seconds boot time is ahead for the controller, in a time namespace of its own; 0: it has the host's.
    pub boot_ahead: u32,
    /// Further lines at the top of the file, e.g. `xdp = "generic"`.
    pub extra: String,
    folder: TempDir,
}

impl Setup {
    /// A configuration for `host` without peers.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new(host: &Host, local: &End, delivery: Delivery) -> Result<Self> {
        Ok(Self {
            interface: host.ifname.clone(),
            delivery,
            shared: false,
            local: local.clone(),
            peers: Vec::new(),
            boot_ahead: 0,
            extra: String::new(),
            folder: tempfile::Builder::new().prefix("mtdt-").tempdir()?,
        })
    }

    /// The same with one more peer.
    #[must_use]
    pub fn with_peer(mut self, session: &Session, remote: &End) -> Self {
        self.peers.push((session.clone(), remote.clone()));
        self
    }

    /// The same with one more line at the top of the file.
    #[must_use]
    pub fn with_line(mut self, line: &str) -> Self {
        self.extra.push_str(line);
        self.extra.push('\n');
        self
    }

    /// The file that shifts the controller's wall clock.
    pub fn clock_file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Shifts the wall clock that the controller reads, from now on, by `offset` ns; may be called while it runs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_clock(&self, offset: i64) -> Result<()> {
        // Replaced as a whole, since the controller may read the file at any time.
        let draft = self.folder.path().join("clock.new");
        fs::write(&draft, offset.to_string())?;
        Ok(fs::rename(draft, self.clock_file())?)
    }

    /// The folder with configuration, keys and state.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes configuration and keys, and returns the path of the former.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let link = match self.delivery {
            _ if self.shared => "shared",
            Delivery::Routed => "routed",
            Delivery::OnLink => "on-link",
        };
        let state = self.folder.path().join("state");
        let mut text = format!(
            "interface = {:?}\nprefix = \"{}\"\nlink = \"{link}\"\naddress = [\"{}/64\", \"{}/24\"]\nstate_dir = \"{}\"\n{}",
            self.interface,
            self.local.prefix,
            self.local.v6,
            self.local.v4,
            state.display(),
            self.extra
        );
        for (n, (session, remote)) in self.peers.iter().enumerate() {
            let key = self.folder.path().join(format!("peer{n}.key"));
            fs::write(&key, format!("{}\n", session.key))?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
            let mut allowed = vec![format!("{}/128", remote.v6), format!("{}/32", remote.v4)];
            allowed.extend(remote.behind.iter().map(ToString::to_string));
            write!(
                text,
                "\n[[peer]]\nname = \"peer{n}\"\nprefix = \"{}\"\nkey_file = \"{}\"\nseed = \"{}\"\npeer_seed = \"{}\"\n\
                 period = \"{}\"\nmode = \"{}\"\nmiddlebox = \"{}\"\nallowed_ips = [\"{}\"]\n",
                remote.prefix,
                key.display(),
                self.local.seed,
                remote.seed,
                session.period,
                session.mode,
                session.middlebox,
                allowed.join("\", \"")
            )?;
        }
        let path = self.folder.path().join("mtd.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Tells the controller that its machine is another copy from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn copy_machine(&self, generation: u32) -> Result<()> {
        Ok(fs::write(self.generation_file(), generation.to_string())?)
    }

    fn generation_file(&self) -> PathBuf {
        self.folder().join("generation")
    }

    /// Starts a controller and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; carries the end of its log.
    pub fn start(&self, netns: &Netns) -> Result<Controller> {
        let mut controller = self.spawn(netns)?;
        controller.wait_ready()?;
        Ok(controller)
    }

    /// Starts a controller without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, netns: &Netns) -> Result<Controller> {
        let config = self.write()?;
        if !self.clock_file().exists() {
            self.set_clock(0)?;
        }
        let (clock, generation) = (self.clock_file(), self.generation_file());
        let arguments = [
            "--wall-clock-offset-file".as_ref(),
            clock.as_os_str(),
            "--vm-generation-file".as_ref(),
            generation.as_os_str(),
        ];
        Controller::spawn_with(netns, &[], &self.interface, &config, &arguments, |command| {
            if self.boot_ahead > 0 {
                in_time_namespace(command, self.boot_ahead);
            }
        })
    }
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    /// The process.
    pub process: Running,
    interface: String,
}

impl Controller {
    /// Starts `mtd run -c CONFIG ARGS…` for the interface that the configuration names, without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(netns: &Netns, interface: &str, config: &Path, args: &[&OsStr]) -> Result<Self> {
        Self::spawn_with(netns, &[], interface, config, args, |_| ())
    }

    /// The same, with a controller that asks this name server, if any, and is started by another program (`through`), which
    /// runs the command at the end of its arguments, such as `env NAME=VALUE`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_through(
        netns: &Netns,
        through: &[OsString],
        resolver: Option<&Resolver>,
        interface: &str,
        config: &Path,
        args: &[&OsStr],
    ) -> Result<Self> {
        let lead = |command: &mut Command| resolver.into_iter().for_each(|resolver| resolver.lead(command));
        Self::spawn_with(netns, through, interface, config, args, lead)
    }

    /// The same, with `prepare` for the command.
    fn spawn_with(
        netns: &Netns,
        through: &[OsString],
        interface: &str,
        config: &Path,
        args: &[&OsStr],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mtd = mtd_program()?;
        let mut line = through.iter().map(OsString::as_os_str).chain([mtd.as_os_str()]);
        let mut command = netns.command(line.next().context("no program")?)?;
        command.args(line).arg("run").arg("-c").arg(config).args(args);
        prepare(&mut command);
        let process = Running::spawn(&format!("mtd on {interface}"), command)?;
        Ok(Self { process, interface: interface.to_owned() })
    }

    /// Waits until the controller is ready.
    ///
    /// # Errors
    /// When it does not become ready; carries the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_for_line("ready", START).map(drop)
    }

    /// Runs `mtd ARGS… -i IFACE` in the controller's namespace.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn command(&self, netns: &Netns, args: &[&str]) -> Result<Output> {
        let mut command = netns.command(mtd_program()?)?;
        Ok(command.args(args).args(["-i", &self.interface]).output()?)
    }

    /// The status, as `mtd status --json` prints it.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn status(&self, netns: &Netns) -> Result<Status> {
        Ok(serde_json::from_value(self.json(netns, &["status"])?)?)
    }

    /// The sessions, as `mtd sessions --json` prints them.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn sessions(&self, netns: &Netns) -> Result<Vec<mtd::status::Session>> {
        Ok(serde_json::from_value(self.json(netns, &["sessions"])?["sessions"].take())?)
    }

    /// The only instance in the output of `mtd ARGS… --json`.
    fn json(&self, netns: &Netns, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.command(netns, &[args, &["--json"]].concat())?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(answered(&output), "mtd {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut document: serde_json::Value = serde_json::from_str(&text)?;
        let instance =
            document["instances"].get_mut(0).with_context(|| format!("no instance in mtd {args:?}"))?;
        Ok(instance.take())
    }

    /// Stops the controller as an operator would, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or fails.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.process.terminate(Signal::SIGTERM, PATIENCE)?;
        ensure!(status.success(), "mtd ended with {status}:\n{}", self.process.log());
        Ok(status)
    }

    /// Waits until the session with peer number `n` is open.
    ///
    /// # Errors
    /// When it does not open in time.
    pub fn wait_open(&self, netns: &Netns, n: usize) -> Result<()> {
        wait_until("the session to open", PATIENCE, || {
            Ok(self.status(netns)?.peers[n].state == mtd::status::PeerState::Open)
        })
    }
}
