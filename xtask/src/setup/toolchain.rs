//! The two tool chains for BPF: finding out which one this host offers, choosing and installing one, and checking that it
//! works.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::debian::Apt;
use super::linker;
use crate::console::say;
use crate::process;
use crate::workspace::Workspace;

/// The target of the BPF programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Where Debian's packages put their compiler, out of the way of rustup's on `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// How BPF programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Debian's rustc-web, which has a pre-built core for BPF.
    Debian,
    /// rustup's nightly, which builds core from rust-src.
    Nightly,
}

/// rustup's nightly on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nightly {
    /// There is no rustup.
    NoRustup,
    /// rustup has no nightly.
    Absent,
    /// The nightly lacks the component rust-src.
    WithoutSource,
    /// The nightly can build core.
    Complete,
}

/// What a probe of the host found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    debian_core: bool,
    nightly: Nightly,
    linker: bool,
    /// An LLVM that bpf-linker can be built against for Debian's compiler.
    debian_llvm: bool,
}

impl Facts {
    /// Probes the host: looks at the file system, and starts the programs that it finds.
    pub(super) fn probe() -> Self {
        Self {
            debian_core: debian_has_core(),
            nightly: probe_nightly(),
            linker: linker::find().is_some(),
            debian_llvm: linker::debian_llvm_is_present(),
        }
    }

    /// What this host lacks for a complete tool chain, in words.
    pub(super) fn gaps(self) -> String {
        let core = match (self.debian_core, self.nightly) {
            (true, _) | (_, Nightly::Complete) => None,
            (false, Nightly::WithoutSource) => Some("core library for BPF (the nightly lacks rust-src)"),
            (false, _) => Some("compiler with a core library for BPF"),
        };
        let linker = (!self.linker).then_some("working bpf-linker");
        core.into_iter().chain(linker).collect::<Vec<_>>().join(" and no ")
    }

    fn has_core(self) -> bool {
        self.debian_core || self.nightly == Nightly::Complete
    }

    /// A tool chain that is complete already, preferably the one without build-std.
    fn complete(self) -> Option<Way> {
        match self {
            Self { linker: true, debian_core: true, .. } => Some(Way::Debian),
            Self { linker: true, nightly: Nightly::Complete, .. } => Some(Way::Nightly),
            _ => None,
        }
    }

    /// The tool chain to install, given whether apt can install Debian's compiler now.
    fn choose(self, apt_offers: bool) -> Option<Way> {
        let debian = apt_offers || (self.debian_core && (self.linker || self.debian_llvm));
        self.complete()
            .or(debian.then_some(Way::Debian))
            .or((self.nightly != Nightly::NoRustup).then_some(Way::Nightly))
    }
}

/// A complete BPF tool chain.
#[derive(Clone)]
pub(crate) struct ToolChain {
    way: Way,
    linker: PathBuf,
}

impl ToolChain {
    /// The complete tool chain of this host, if there is one.
    pub(super) fn find() -> Option<Self> {
        let linker = linker::find()?;
        let way = if debian_has_core() {
            Way::Debian
        } else if probe_nightly() == Nightly::Complete {
            Way::Nightly
        } else {
            return None;
        };
        Some(Self { way, linker })
    }

    /// One line for people.
    pub(crate) fn description(&self) -> String {
        let way = match self.way {
            Way::Debian => format!("{DEBIAN_RUSTC} with a pre-built core for {TARGET}"),
            Way::Nightly => "rustup's nightly with rust-src (core is built with -Z build-std)".to_owned(),
        };
        format!("{way}, {}", self.linker.display())
    }

    /// `cargo build` for the BPF target into `target_directory`; the caller adds package, profile and features.
    pub(crate) fn cargo_build(&self, workspace: &Workspace, target_directory: &Path) -> Command {
        let mut command = workspace.bpf_cargo();
        match self.way {
            Way::Debian => {
                command.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            }
            Way::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                copy_setting(&command, &mut rustup);
                command = rustup;
            }
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")).env("PATH", self.path());
        command.args(["--target", TARGET, "--target-dir"]).arg(target_directory);
        command
    }

    /// `PATH` with the linker's directory first, so that rustc finds the linker by name. The flags are then the same for
    /// everybody, and cargo does not compile again because of them.
    fn path(&self) -> std::ffi::OsString {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories =
            self.linker.parent().map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
        env::join_paths(directories).unwrap_or(path)
    }

    /// Compiles a small program with the tool chain. The result is kept in the target directory until compiler or linker
    /// change.
    ///
    /// # Errors
    /// The tool chain cannot compile for BPF; the error names the remedy.
    pub(super) fn verify(&self, workspace: &Workspace) -> Result<()> {
        let directory = workspace.target().join("ebpf").join("probe");
        let stamp = directory.join("verified");
        let identity = self.identity()?;
        if fs::read_to_string(&stamp).is_ok_and(|seen| seen == identity) {
            return Ok(());
        }
        say("compiling a small program, to see that the BPF tool chain works");
        write_probe(&directory).with_context(|| format!("could not write to {}", directory.display()))?;
        let output = directory.join("target");
        let mut build = self.cargo_build(workspace, &output);
        process::run_quietly(build.arg("--release").current_dir(&directory))
            .map_err(|error| anyhow!("{error:#}. {}", self.remedy()))?;
        let object = output.join(TARGET).join("release").join("probe");
        let object = fs::read(&object).with_context(|| format!("no object at {}", object.display()))?;
        if !is_bpf_object(&object) {
            bail!("the output of the BPF tool chain is not a BPF object. {}", self.remedy());
        }
        fs::write(&stamp, identity).with_context(|| format!("could not write {}", stamp.display()))
    }

    fn identity(&self) -> Result<String> {
        let mut rustc = match self.way {
            Way::Debian => Command::new(DEBIAN_RUSTC),
            Way::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "rustc"]);
                rustup
            }
        };
        let compiler = process::capture(rustc.arg("-vV"))?;
        let linker = process::capture(Command::new(&self.linker).arg("--version"))?;
        let built = self.linker.metadata().and_then(|metadata| metadata.modified()).ok();
        Ok(format!("{compiler}{linker}{} {built:?}\n", self.linker.display()))
    }

    fn remedy(&self) -> String {
        match self.way {
            Way::Debian => format!(
                "The BPF tool chain does not work, probably because bpf-linker was built against another LLVM than \
                 {DEBIAN_RUSTC} uses. Build it again: {}",
                linker::debian_command(true)
            ),
            Way::Nightly => "The BPF tool chain does not work, probably because bpf-linker uses an older LLVM than \
                 the nightly (`rustup run nightly rustc -vV` tells which). Install a newer one: cargo binstall \
                 --force bpf-linker"
                .to_owned(),
        }
    }
}

/// Flags of every BPF compilation: the linker, which makes one object from bitcode; the instruction set of kernels since
/// 5.1; and full debug information, from which BTF is made.
const RUSTFLAGS: [&str; 10] = [
    "-C",
    "linker=bpf-linker",
    "-C",
    "target-cpu=v3",
    // Packet data is not aligned, but BPF may read words from it. Without this flag each word would be read byte by byte.
    "-C",
    "target-feature=+allows-misaligned-mem-access",
    "-C",
    "debuginfo=2",
    "-C",
    "link-arg=--btf",
];

/// Installs the tool chain that suits this host.
///
/// # Errors
/// This host can have neither tool chain, or a step failed; the error names the remedy.
pub(super) fn install(workspace: &Workspace, apt: &mut Apt) -> Result<ToolChain> {
    let facts = Facts::probe();
    say(&format!("the BPF tool chain is not complete: no {}", facts.gaps()));
    if apt.is_usable() && (!facts.has_core() || !facts.linker) {
        apt.update()?;
    }
    let apt_offers = apt.is_usable() && apt.offers(DEBIAN_COMPILER[0]);
    match facts.choose(apt_offers) {
        Some(Way::Debian) => install_debian(facts, apt)?,
        Some(Way::Nightly) => install_nightly(facts)?,
        None => bail!(NO_WAY),
    }
    let tool_chain = ToolChain::find().with_context(|| {
        format!(
            "all steps were carried out, but there is still no {}. Where a package is installed but its files are \
             gone, `apt-get install --reinstall` brings them back",
            Facts::probe().gaps()
        )
    })?;
    tool_chain.verify(workspace)?;
    Ok(tool_chain)
}

const NO_WAY: &str = "this user cannot install a BPF tool chain on this host. Either install rustup and repeat, or on \
     Debian have root install rustc-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev and repeat";

fn install_debian(facts: Facts, apt: &mut Apt) -> Result<()> {
    let mut packages = Vec::new();
    let mut reasons = Vec::new();
    if !facts.debian_core {
        packages.extend(DEBIAN_COMPILER);
        reasons.push("a compiler with a pre-built core for BPF");
    }
    if !facts.linker && !facts.debian_llvm {
        packages.extend(linker::DEBIAN_LLVM);
        reasons.push("the LLVM that bpf-linker is built against");
    }
    if !packages.is_empty() {
        apt.install(&format!("the BPF tool chain needs {}", reasons.join(" and ")), &packages)?;
    }
    if facts.linker { Ok(()) } else { linker::install_for_debian() }
}

fn install_nightly(facts: Facts) -> Result<()> {
    let mut rustup = Command::new("rustup");
    match facts.nightly {
        Nightly::WithoutSource => {
            rustup.args(["component", "add", "--toolchain", "nightly", "rust-src"]);
            process::run(&mut rustup, "the nightly needs the source of core to build it for BPF")?;
        }
        Nightly::Absent => {
            rustup.args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]);
            process::run(&mut rustup, "only a nightly can build core for BPF, from its source")?;
        }
        Nightly::Complete | Nightly::NoRustup => {}
    }
    if facts.linker { Ok(()) } else { linker::install_for_nightly() }
}

fn debian_has_core() -> bool {
    process::is_executable(Path::new(DEBIAN_RUSTC))
        && process::capture(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])).is_ok_and(|sysroot| {
            contains_core(&Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib"))
        })
}

fn contains_core(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

/// Looks into rustup's directory, because starting rustup takes a noticeable time.
fn probe_nightly() -> Nightly {
    if process::find_program("rustup").is_none() {
        return Nightly::NoRustup;
    }
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))
        .unwrap_or_default();
    let nightly = fs::read_dir(home.join("toolchains"))
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| is_undated_nightly(&entry.file_name().to_string_lossy()));
    match nightly {
        None => Nightly::Absent,
        Some(entry) if entry.path().join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() => {
            Nightly::Complete
        }
        Some(_) => Nightly::WithoutSource,
    }
}

/// `nightly-x86_64-unknown-linux-gnu`, which `+nightly` means, but not `nightly-2026-05-19-x86_64-…`.
fn is_undated_nightly(name: &str) -> bool {
    name.strip_prefix("nightly-").is_some_and(|host| !host.starts_with(|first: char| first.is_ascii_digit()))
}

fn copy_setting(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(directory) = from.get_current_dir() {
        to.current_dir(directory);
    }
}

/// Writes a package with one XDP program. Its workspace table is empty, so that it does not belong to mtd's workspace.
fn write_probe(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(
        directory.join("Cargo.toml"),
        "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n[[bin]]\nname = \"probe\"\npath = \"probe.rs\"\n\
         [profile.release]\npanic = \"abort\"\nlto = true\ncodegen-units = 1\n",
    )?;
    fs::write(
        directory.join("probe.rs"),
        "#![no_std]\n#![no_main]\n\
         #[unsafe(no_mangle)]\n#[unsafe(link_section = \"xdp\")]\n\
         pub extern \"C\" fn probe(_context: *mut u8) -> u32 { 2 }\n\
         #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n",
    )
}

/// Whether the bytes are an ELF file for machine `EM_BPF` (247, elf(5)); the machine is at offset 18.
fn is_bpf_object(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") && bytes.get(18..20) == Some(&247_u16.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Facts =
        Facts { debian_core: false, nightly: Nightly::NoRustup, linker: false, debian_llvm: false };

    #[test]
    fn what_is_complete_wins_over_what_apt_offers() {
        let nightly = Facts { nightly: Nightly::Complete, linker: true, ..NOTHING };
        assert_eq!(nightly.choose(true), Some(Way::Nightly));
    }

    #[test]
    fn of_two_complete_ways_the_one_with_a_prebuilt_core_wins() {
        let both = Facts { debian_core: true, nightly: Nightly::Complete, linker: true, ..NOTHING };
        assert_eq!(both.choose(false), Some(Way::Debian));
    }

    #[test]
    fn debian_wins_over_installing_a_nightly() {
        let bare_rustup = Facts { nightly: Nightly::Absent, ..NOTHING };
        assert_eq!(bare_rustup.choose(true), Some(Way::Debian));
        assert_eq!(bare_rustup.choose(false), Some(Way::Nightly));
    }

    #[test]
    fn a_debian_core_without_linker_and_llvm_is_no_way_unless_apt_has_the_llvm() {
        let core_only = Facts { debian_core: true, nightly: Nightly::Absent, ..NOTHING };
        assert_eq!(core_only.choose(false), Some(Way::Nightly));
        assert_eq!(core_only.choose(true), Some(Way::Debian));
        assert_eq!(Facts { debian_llvm: true, ..core_only }.choose(false), Some(Way::Debian));
    }

    #[test]
    fn without_apt_and_rustup_there_is_no_way() {
        assert_eq!(NOTHING.choose(false), None);
        assert_eq!(Facts { linker: true, ..NOTHING }.choose(false), None);
    }

    #[test]
    fn the_gaps_are_named() {
        assert_eq!(NOTHING.gaps(), "compiler with a core library for BPF and no working bpf-linker");
        let source = Facts { nightly: Nightly::WithoutSource, linker: true, ..NOTHING };
        assert!(source.gaps().contains("rust-src"));
        assert_eq!(Facts { debian_core: true, ..NOTHING }.gaps(), "working bpf-linker");
    }

    #[test]
    fn a_dated_nightly_is_not_the_one_that_plus_nightly_means() {
        assert!(is_undated_nightly("nightly-x86_64-unknown-linux-gnu"));
        assert!(!is_undated_nightly("nightly-2026-05-19-x86_64-unknown-linux-gnu"));
        assert!(!is_undated_nightly("stable-x86_64-unknown-linux-gnu"));
    }

    #[test]
    fn a_bpf_object_is_told_from_a_host_object() {
        let mut elf = [0_u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 62;
        assert!(!is_bpf_object(&elf), "x86-64");
        elf[18] = 247;
        assert!(is_bpf_object(&elf));
        assert!(!is_bpf_object(b"\x7fELF"), "truncated");
    }
}
