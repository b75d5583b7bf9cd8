//! `cargo xtask package`: a Debian package of mtd.
//!
//! The package is reproducible: the same commit, tool chain and libraries give the same bytes. No file in it is younger
//! than the commit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::{self, Artifacts, Profile};
use crate::console::stage;
use crate::process::{capture, run_quietly};
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// Debian's part of the version, which is raised when only the packaging has changed.
const REVISION: u32 = 1;

/// Variable that overrides the time of the commit, in seconds since 1970, as the Reproducible Builds project defines it.
const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";

const EXAMPLES: &str = "\
Examples:
  cargo xtask package                     print the path of the package
  apt install ./$(cargo xtask package)    build it and install it, as root

The package depends on the libraries of the host on which it is built: build it on the oldest Debian that it is for.";

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

/// Runs the subcommand.
///
/// # Errors
/// Set-up, the build or packing fails.
pub(crate) fn run(_: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    setup::ensure(&workspace, Need::Packaging)?;
    let artifacts = build::ensure(&workspace, Profile::Release)?;
    let package = stage("Debian package", || make(&workspace, &artifacts))?;
    println!("{}", package.display());
    Ok(())
}

/// Makes the package of what was built, and returns its path.
///
/// # Errors
/// A program that makes packages is missing or fails, or a file cannot be read or written.
pub(crate) fn make(workspace: &Workspace, artifacts: &Artifacts) -> Result<PathBuf> {
    let folder = workspace.target().join("package");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let tree =
        Tree { root: folder.join("root"), sources: workspace.root().to_owned(), epoch: epoch(workspace)? };
    tree.program(artifacts)?;
    tree.generated(artifacts, &folder)?;
    tree.documents()?;
    tree.copy("packaging/systemd/mtd.service", "usr/lib/systemd/system/mtd.service", 0o644)?;
    // Network managers leave the tunnel device alone.
    tree.copy("packaging/network/10-mtd.network", "usr/lib/systemd/network/10-mtd.network", 0o644)?;
    tree.copy("packaging/network/10-mtd.conf", "usr/lib/NetworkManager/conf.d/10-mtd.conf", 0o644)?;
    // This folder will contain private keys.
    tree.directory("etc/mtd", 0o700)?;
    let depends = dependencies(&folder, &tree.root)?;
    let architecture = capture(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    tree.control(architecture, depends.trim())?;
    let package = folder.join(format!("mtd_{}_{architecture}.deb", version()));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build"]).arg(&tree.root).arg(&package);
    run_quietly(pack.env(EPOCH_VARIABLE, tree.epoch.to_string()))?;
    Ok(package)
}

fn version() -> String {
    format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"))
}

/// The time of every file in the package, in seconds since 1970.
fn epoch(workspace: &Workspace) -> Result<u64> {
    let text = match std::env::var(EPOCH_VARIABLE) {
        Ok(text) => text,
        Err(_) => {
            capture(Command::new("git").arg("-C").arg(workspace.root()).args(["log", "-1", "--format=%ct"]))
                .with_context(|| format!("outside a git repository, set {EPOCH_VARIABLE}"))?
        }
    };
    text.trim()
        .parse()
        .with_context(|| format!("{EPOCH_VARIABLE} is {text:?}, which is no number of seconds"))
}

/// The packages with the libraries that the program needs, in the versions whose symbols it uses.
fn dependencies(folder: &Path, root: &Path) -> Result<String> {
    // The tool expects the folder of a source package, but reads nothing else of it.
    let source = folder.join("debian");
    fs::create_dir_all(&source)?;
    fs::write(source.join("control"), "Source: mtd\n")?;
    let mut tool = Command::new("dpkg-shlibdeps");
    tool.arg("-O").arg(root.join("usr/bin/mtd")).current_dir(folder);
    let answer = capture(&mut tool)?;
    match answer.trim().strip_prefix("shlibs:Depends=") {
        Some(depends) => Ok(depends.to_owned()),
        None => bail!("dpkg-shlibdeps found no library that mtd needs: {answer:?}"),
    }
}

/// The files of the package, laid out as they will be on a host.
struct Tree {
    root: PathBuf,
    /// The workspace.
    sources: PathBuf,
    /// Seconds since 1970.
    epoch: u64,
}

impl Tree {
    fn directory(&self, path: &str, mode: u32) -> Result<PathBuf> {
        let mut path_so_far = self.root.clone();
        for name in Path::new(path) {
            path_so_far.push(name);
            if !path_so_far.exists() {
                fs::create_dir_all(&path_so_far)
                    .with_context(|| format!("cannot make {}", path_so_far.display()))?;
                // The mode must not depend on the umask of the caller.
                fs::set_permissions(&path_so_far, fs::Permissions::from_mode(0o755))?;
            }
        }
        fs::set_permissions(&path_so_far, fs::Permissions::from_mode(mode))?;
        Ok(path_so_far)
    }

    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<PathBuf> {
        let (folder, name) = path.rsplit_once('/').context("a file of the package is in a folder")?;
        let file = self.directory(folder, 0o755)?.join(name);
        fs::write(&file, contents).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        Ok(file)
    }

    fn copy(&self, source: &str, path: &str, mode: u32) -> Result<()> {
        self.write(path, &read(&self.sources.join(source))?, mode).map(drop)
    }

    /// Writes `path`.gz, without the time and the name that gzip would record.
    fn compress(&self, path: &str, contents: &[u8]) -> Result<()> {
        let file = self.write(path, contents, 0o644)?;
        run_quietly(Command::new("gzip").args(["--best", "--no-name"]).arg(file))
    }

    fn program(&self, artifacts: &Artifacts) -> Result<()> {
        let program = self.write("usr/bin/mtd", &read(&artifacts.mtd)?, 0o755)?;
        run_quietly(
            Command::new("strip").args(["--remove-section=.comment", "--remove-section=.note"]).arg(program),
        )
    }

    /// The files that the program generates itself: manual pages and completions.
    fn generated(&self, artifacts: &Artifacts, scratch: &Path) -> Result<()> {
        let (man, completions) = (scratch.join("man"), scratch.join("completions"));
        run_quietly(Command::new(&artifacts.mtd).args(["debug", "man"]).arg(&man))?;
        run_quietly(Command::new(&artifacts.mtd).args(["debug", "completions"]).arg(&completions))?;
        for entry in fs::read_dir(&man)? {
            let page = entry?.path();
            let name = page.file_name().context("a manual page has a name")?.to_string_lossy().into_owned();
            let section = page.extension().context("a manual page names its section")?.to_string_lossy();
            self.compress(&format!("usr/share/man/man{section}/{name}"), &read(&page)?)?;
        }
        let places = [
            ("mtd.bash", "usr/share/bash-completion/completions/mtd"),
            ("_mtd", "usr/share/zsh/vendor-completions/_mtd"),
            ("mtd.fish", "usr/share/fish/vendor_completions.d/mtd.fish"),
        ];
        for (name, place) in places {
            self.write(place, &read(&completions.join(name))?, 0o644)?;
        }
        Ok(())
    }

    fn documents(&self) -> Result<()> {
        let documents = "usr/share/doc/mtd";
        let changes = read(&self.sources.join("CHANGELOG.md"))?;
        self.compress(&format!("{documents}/changelog"), &changes)?;
        self.compress(&format!("{documents}/changelog.Debian"), self.debian_changelog()?.as_bytes())?;
        self.copy("packaging/debian/copyright", &format!("{documents}/copyright"), 0o644)?;
        self.copy("packaging/mtd.toml.example", &format!("{documents}/examples/mtd.toml"), 0o644)?;
        self.copy(
            "packaging/prometheus/mtd.rules.yml",
            &format!("{documents}/examples/mtd.rules.yml"),
            0o644,
        )?;
        self.copy("packaging/grafana/mtd.json", &format!("{documents}/examples/grafana.json"), 0o644)?;
        self.copy("README.md", &format!("{documents}/README.md"), 0o644)?;
        for name in [
            "configuration",
            "keystream",
            "operations",
            "packaging",
            "status",
            "steering",
            "threat-model",
            "web",
            "wire-format",
        ] {
            self.copy(&format!("docs/{name}.md"), &format!("{documents}/{name}.md"), 0o644)?;
        }
        Ok(())
    }

    fn debian_changelog(&self) -> Result<String> {
        let maintainer = self.template()?;
        let maintainer = maintainer
            .lines()
            .find_map(|line| line.strip_prefix("Maintainer: "))
            .context("packaging/debian/control names no maintainer")?;
        let time = capture(Command::new("date").args(["-u", "-R", "-d", &format!("@{}", self.epoch)]))?;
        Ok(format!(
            "mtd ({}) unstable; urgency=medium\n\n  * Packaged by mtd itself; what has changed is in changelog.gz.\n\n \
             -- {maintainer}  {time}",
            version()
        ))
    }

    /// The part of the control file that is the same for each build.
    fn template(&self) -> Result<String> {
        let path = self.sources.join("packaging/debian/control");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The files that dpkg reads: control file, checksums, scripts. Written last, because the checksums cover all other
    /// files.
    fn control(&self, architecture: &str, depends: &str) -> Result<()> {
        let sums = self.check_sums()?;
        let size = capture(Command::new("du").args(["-sk", "--apparent-size"]).arg(&self.root))?;
        let size = size.split_whitespace().next().context("du printed no size")?;
        let control = format!(
            "{}Version: {}\nArchitecture: {architecture}\nDepends: {depends}\nInstalled-Size: {size}\n",
            self.template()?,
            version()
        );
        self.write("DEBIAN/control", control.as_bytes(), 0o644)?;
        self.write("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            self.copy(&format!("packaging/debian/{script}"), &format!("DEBIAN/{script}"), 0o755)?;
        }
        Ok(())
    }

    fn check_sums(&self) -> Result<String> {
        let mut find = Command::new("find");
        find.args(["usr", "-type", "f", "-printf", "%p\n"]).current_dir(&self.root).stdin(Stdio::null());
        let listing = capture(&mut find)?;
        let mut files: Vec<&str> = listing.lines().collect();
        files.sort_unstable();
        capture(Command::new("md5sum").args(files).current_dir(&self.root))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
