//! The service, run as its unit says, as far as that is possible without systemd.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mtd_tests::process::Running;

use crate::root::Root;

/// Path of the unit in a system with the package.
const UNIT: &str = "/usr/lib/systemd/system/mtd.service";

/// Path of the socket for notifications, in a system with the package.
const NOTIFICATIONS: &str = "/run/notify";

/// How long a notification may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Interval at which it is checked whether the service is still running.
const LOOK: Duration = Duration::from_millis(100);

/// The unit's settings.
#[derive(Debug)]
pub(crate) struct Unit {
    text: String,
}

impl Unit {
    /// Reads the unit of an installed package.
    pub(crate) fn installed(root: &Root<'_>) -> Result<Self> {
        Ok(Self { text: fs::read_to_string(root.path(UNIT)).context("no unit")? })
    }

    /// The words of a setting.
    pub(crate) fn words(&self, key: &str) -> Result<Vec<&str>> {
        let value = self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Ok(value.with_context(|| format!("the unit has no {key}="))?.split_whitespace().collect())
    }
}

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) process: Running,
    notifications: UnixDatagram,
}

impl Service {
    /// Makes the unit's folders and starts its program: with only the unit's capabilities and without a way to gain others,
    /// in a system that is read-only except for the paths that the unit names.
    pub(crate) fn start(root: &Root<'_>, unit: &Unit) -> Result<Self> {
        let mut writable = Vec::new();
        for (key, parent) in [("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib")] {
            for name in unit.words(key)? {
                let folder = format!("{parent}/{name}");
                fs::create_dir_all(root.path(&folder))?;
                writable.push(folder);
            }
        }
        for folder in &writable {
            fs::set_permissions(root.path(folder), fs::Permissions::from_mode(0o700))?;
        }
        writable.extend(unit.words("ReadWritePaths")?.into_iter().map(str::to_owned));
        let notifications = bind(&root.path(NOTIFICATIONS))?;
        let mut bounding = "--bounding-set=-all".to_owned();
        for capability in unit.words("CapabilityBoundingSet")? {
            let name = capability.strip_prefix("CAP_").context("a capability")?;
            write!(bounding, ",+{}", name.to_lowercase())?;
        }
        let mut words = vec!["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh"];
        words.extend(writable.iter().map(String::as_str));
        words.extend(["--", "setpriv", "--inh-caps=-all", "--no-new-privs", &bounding]);
        words.extend(unit.words("ExecStart")?);
        let mut command = root.command(&words)?;
        command.env("NOTIFY_SOCKET", NOTIFICATIONS);
        Ok(Self { process: Running::spawn("the service", command)?, notifications })
    }

    /// Waits until the service sends this notification.
    ///
    /// # Errors
    /// When it does not come in time, or the service ends without sending it; the error contains the service's log.
    pub(crate) fn wait_for(&mut self, assignment: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        let mut heard = Vec::new();
        loop {
            // The state is read first: if the service has ended, everything that it sent has arrived by now.
            let over = self.process.try_wait()?.is_some() || Instant::now() > deadline;
            let message = match self.notifications.recv(&mut buffer) {
                Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
                Err(_) if over => {
                    bail!("no {assignment} among {heard:?}; the service said:\n{}", self.process.log())
                }
                Err(_) => continue,
            };
            if message.lines().any(|line| line == assignment) {
                return Ok(());
            }
            heard.push(message);
        }
    }

    /// The value of a line in the process's status, as the kernel shows it in `/proc`.
    ///
    /// # Errors
    /// When there is none, or the process has ended.
    pub(crate) fn told(&self, name: &str) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name}"))?.trim().to_owned())
    }
}

/// A shell script with the effect of ProtectSystem=strict: it makes everything read-only except the paths up to `--`, and
/// then runs the rest of the arguments.
const READ_ONLY: &str = r#"
while [ "$1" != -- ]; do
    mount --bind "$1" "$1"
    shift
done
shift
mount -o remount,bind,ro /
umask 0077
exec "$@"
"#;

fn bind(path: &Path) -> Result<UnixDatagram> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let socket = UnixDatagram::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}
