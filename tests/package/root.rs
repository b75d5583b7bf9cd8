//! A clean Debian of this host's release, in which a test may install anything.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::require_root;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// How long fetching and unpacking a Debian may take, which is done once.
const BOOTSTRAP: Duration = Duration::from_mins(8);

/// How long a command in the Debian may take.
const COMMAND: Duration = Duration::from_mins(1);

/// Folders that a listing of the system leaves out: file systems of the kernel, and dpkg's own records.
const NOT_LISTED: [&str; 5] = ["/proc", "/sys", "/var/lib/dpkg", "/var/log", "/var/cache"];

/// A Debian in which nothing has been installed yet.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    path: PathBuf,
    netns: &'a Netns,
}

/// Runs `work` with a clean Debian whose commands run in `netns`.
///
/// Everything is in the mount namespace of a separate thread, and written files are in memory. When the thread ends, in
/// whatever way, everything is gone, and the bootstrapped copy stays clean for the next test.
///
/// # Errors
/// Those of `work`, or the Debian cannot be bootstrapped.
pub(crate) fn with_root(netns: &Netns, work: impl FnOnce(&Root<'_>) -> Result<()> + Send) -> Result<()> {
    require_root();
    let folder = tempfile::Builder::new().prefix("mtdt-").tempdir()?;
    let inside = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("cannot keep mounts private")?;
        let lower = bootstrapped()?;
        let root = Root { path: overlay(&lower, folder.path())?, netns };
        work(&root)
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

impl Root<'_> {
    /// A path of this Debian, as the host sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.path.join(inside.trim_start_matches('/'))
    }

    /// A command that will run in this Debian and in the network namespace.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.netns.command("chroot")?;
        command.arg(&self.path).args(words).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }

    /// Runs a command to its end. Returns its standard output.
    ///
    /// # Errors
    /// When it fails or takes too long; with all that it printed.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        finish(&words.join(" "), self.command(words)?, COMMAND)
    }

    /// Whether this file or folder exists.
    pub(crate) fn has(&self, inside: &str) -> bool {
        self.path(inside).symlink_metadata().is_ok()
    }

    /// The names of everything in the BPF file system: pins, and entries that are always there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn pins(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.path("/sys/fs/bpf"))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Every file and folder that a package could have left.
    ///
    /// # Errors
    /// When `find` fails.
    pub(crate) fn listing(&self) -> Result<Vec<String>> {
        let mut words = vec!["find", "/", "-xdev", "("];
        for place in NOT_LISTED {
            words.extend(["-path", place, "-o"]);
        }
        words.extend(["-false", ")", "-prune", "-o", "-print"]);
        let mut lines: Vec<String> = self.run(&words)?.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        Ok(lines)
    }
}

/// Runs a command to its end, which must come within `time`. Returns its standard output.
///
/// # Errors
/// When it fails or takes too long; with all that it printed.
pub(crate) fn finish(name: &str, command: Command, time: Duration) -> Result<String> {
    let mut process = Running::spawn(name, command)?;
    let status = process.wait(time)?;
    ensure!(status.success(), "`{name}` failed ({status}):\n{}", process.log());
    process.stdout()
}

/// The folder with a clean Debian, which is bootstrapped if it does not exist.
fn bootstrapped() -> Result<PathBuf> {
    let release = release()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("debian-{release}"));
    // One test bootstraps it, and other tests wait.
    let lock = File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    if folder.exists() {
        return Ok(folder);
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &release]).arg(&partial).args(mirror(&release)?);
    finish("debootstrap", command, BOOTSTRAP)?;
    // Renamed at the end, so that the folder is never incomplete.
    fs::rename(&partial, &folder)?;
    Ok(folder)
}

/// The code name of this host's Debian, with whose libraries the package was built.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot tell which Debian this is")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("no VERSION_CODENAME in /etc/os-release: this is no Debian")?
        .trim_matches('"')
        .to_owned())
}

/// The mirror from which apt on this host gets the release; `None` if debootstrap should choose.
fn mirror(release: &str) -> Result<Option<String>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]);
    command.arg(format!("Codename: {release}"));
    Ok(finish("apt-get indextargets", command, COMMAND)?.lines().next().map(str::to_owned))
}

/// Mounts a Debian over `lower` in `folder`: with changes in memory, and with the kernel's file systems.
fn overlay(lower: &Path, folder: &Path) -> Result<PathBuf> {
    attach("tmpfs", folder, "mode=0755")?;
    let [upper, scratch, root] = ["upper", "scratch", "root"].map(|name| folder.join(name));
    for folder in [&upper, &scratch, &root] {
        fs::create_dir(folder)?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), scratch.display());
    attach("overlay", &root, &options)?;
    attach("proc", &root.join("proc"), "")?;
    attach("sysfs", &root.join("sys"), "")?;
    attach("bpf", &root.join("sys/fs/bpf"), "mode=0700")?;
    attach("tmpfs", &root.join("run"), "mode=0755")?;
    Ok(root)
}

fn attach(kind: &str, target: &Path, options: &str) -> Result<()> {
    let options = Some(OsStr::new(options));
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} at {}", target.display()))
}
