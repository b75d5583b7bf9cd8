//! A host for mtd, and an inventory of everything that mtd might leave on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::loaded_programs;
use mtd::instance::{Instance, RUN_DIR};
use mtd_tests::controller::{Controller, End, Session, Setup, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::topology::{Delivery, Topology, TopologyOptions};
use mtd_tests::wait_until;

/// How long a command, or the kernel's clean-up, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The server of a topology, with a configuration for it.
pub(crate) struct Bench {
    /// The configuration.
    pub(crate) setup: Setup,
    /// The network.
    pub(crate) topology: Topology,
}

/// Everything on a host that mtd changes, by kind, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory(BTreeMap<&'static str, String>);

/// Ids of BPF programs and maps.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
}

impl Bench {
    /// A new network, and a configuration of the server with one peer.
    pub(crate) fn new() -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(&TopologyOptions::default())?;
        let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
        let setup =
            Setup::new(&topology.server, &far, Delivery::Routed)?.with_peer(&Session::new("encrypt")?, &near);
        Ok(Self { setup, topology })
    }

    /// The server's namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.topology.server.netns
    }

    /// The server's underlay interface.
    pub(crate) fn ifname(&self) -> &str {
        &self.topology.server.ifname
    }

    /// Starts the controller.
    pub(crate) fn start(&self) -> Result<Controller> {
        self.setup.start(self.netns())
    }

    /// Runs `mtd ARGUMENTS…` on the server and waits for its end.
    pub(crate) fn mtd(&self, arguments: &[&str]) -> Result<Output> {
        self.run_program(&mtd_program()?, arguments)
    }

    /// Does the same with another `mtd` program.
    pub(crate) fn run_program(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.netns().command(program)?;
        command.args(arguments);
        let mut process = Running::spawn(&format!("mtd {arguments:?}"), command)?;
        let status = process.wait(PATIENCE).with_context(|| process.log())?;
        Ok(Output { status, stdout: process.stdout()?.into(), stderr: process.stderr()?.into() })
    }

    /// Does the same with `-c` and the configuration.
    pub(crate) fn mtd_with_config(&self, arguments: &[&str]) -> Result<Output> {
        let config = self.setup.write()?;
        let config = config.to_str().context("path of the configuration")?;
        self.mtd(&[arguments, &["-c", config]].concat())
    }

    /// The folder of the pins, which need not exist.
    pub(crate) fn pins(&self) -> Result<PathBuf> {
        Ok(self.netns().enter(|| Instance::of(self.ifname()))??.pins())
    }

    /// The BPF objects of this instance: the pinned maps, the programs that use one of them, and all maps of those.
    pub(crate) fn objects(&self) -> Result<Objects> {
        let mut objects = Objects::default();
        for pin in fs::read_dir(self.pins()?.join("maps")).context("no pinned maps")? {
            objects.maps.insert(MapInfo::from_pin(pin?.path())?.id());
        }
        // Programs of other processes may disappear while they are listed; those of this test are counted below.
        for program in loaded_programs().filter_map(Result::ok) {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            if maps.iter().any(|id| objects.maps.contains(id)) {
                objects.programs.insert(program.id());
                objects.maps.extend(maps);
            }
        }
        ensure!(
            objects.programs.len() >= 2 && objects.maps.len() >= 9,
            "not all of mtd's objects: {objects:?}"
        );
        Ok(objects)
    }

    /// The present inventory.
    pub(crate) fn inventory(&self) -> Result<Inventory> {
        let (netns, ifname) = (self.netns(), self.ifname());
        let tool = |program: &str, arguments: &[&str]| -> Result<String> {
            let output =
                netns.command(program)?.args(arguments).output().with_context(|| program.to_owned())?;
            ensure!(output.status.success(), "{program} {arguments:?}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        Ok(Inventory(BTreeMap::from([
            ("links", netns.run(&["-d", "link"])?),
            ("addresses", netns.run(&["address"])?),
            ("IPv4 routes", netns.run(&["-4", "route", "show", "table", "all"])?),
            ("IPv6 routes", netns.run(&["-6", "route", "show", "table", "all"])?),
            ("IPv4 rules", netns.run(&["-4", "rule"])?),
            ("IPv6 rules", netns.run(&["-6", "rule"])?),
            ("queueing disciplines", tool("tc", &["qdisc", "show"])?),
            ("offloads", tool("ethtool", &["-k", ifname])?),
            ("settings", netns.enter(|| settings(ifname))??),
            ("pins", named_after(Path::new("/sys/fs/bpf/mtd"), ifname)?),
            ("run-time files", named_after(Path::new(RUN_DIR), ifname)?),
        ])))
    }

    /// Checks that the inventory is the same as before, and that `objects` are not in the kernel any more.
    ///
    /// Programs and maps live as long as a process, a pin or an attachment holds them. The processes have ended, and pins
    /// and links are in the inventory, so no other objects of this test can be left either.
    pub(crate) fn assert_nothing_remains(&self, before: &Inventory, objects: &Objects) -> Result<()> {
        before.assert_same(&self.inventory()?);
        // The kernel frees them shortly after their last user is gone.
        wait_until("BPF programs and maps to be freed", PATIENCE, || {
            let programs =
                loaded_programs().filter_map(Result::ok).any(|p| objects.programs.contains(&p.id()));
            let maps = loaded_maps().filter_map(Result::ok).any(|map| objects.maps.contains(&map.id()));
            Ok(!programs && !maps)
        })
    }
}

impl Inventory {
    /// Panics if something differs, and prints the differences.
    pub(crate) fn assert_same(&self, after: &Self) {
        for (kind, before) in &self.0 {
            assert_eq!(before, &after.0[kind], "{kind}, before and after");
        }
    }

    /// The kinds of things that differ.
    pub(crate) fn changes(&self, after: &Self) -> Vec<&'static str> {
        self.0.iter().filter(|(kind, text)| after.0[*kind] != **text).map(|(kind, _)| *kind).collect()
    }
}

/// The entries of a folder that are named after an interface. Interfaces of tests have names that no other process uses.
fn named_after(folder: &Path, ifname: &str) -> Result<String> {
    let mut names = BTreeSet::new();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.starts_with(ifname) {
                    names.insert(name);
                }
            }
        }
    }
    Ok(names.into_iter().collect::<Vec<_>>().join("\n"))
}

/// The network settings of an interface, and the defaults, of the calling thread's namespace.
fn settings(ifname: &str) -> Result<String> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for interface in ["all", "default", ifname] {
            for entry in fs::read_dir(format!("/proc/sys/net/{family}/conf/{interface}"))? {
                let path = entry?.path();
                // Some settings are write-only or not set.
                if let Ok(value) = fs::read_to_string(&path) {
                    lines.push(format!("{} = {}", path.display(), value.trim()));
                }
            }
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}

/// Checks that the command failed as commands should: with exit code 1, and a last line that contains all of `parts`.
pub(crate) fn assert_error(output: &Output, parts: &[&str]) {
    assert_error_with(1, output, parts);
}

/// Checks the same with another exit code.
pub(crate) fn assert_error_with(code: i32, output: &Output, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("mtd: ")).collect();
    assert_eq!(errors.len(), 1, "one line: {stderr}");
    assert_eq!(stderr.lines().last(), Some(errors[0]), "{stderr}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in: {}", errors[0]);
    }
    assert!(errors[0].len() < 400, "too long to read: {}", errors[0]);
}

/// Fails unless the command succeeded.
pub(crate) fn assert_success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}
