//! `mtd run`, `mtd attach`, `mtd detach`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::guard::{self, EnforceArgs, PolicyArg};
use super::output;
use crate::config::Config;
use crate::controller;
use crate::model::Enforcement;

/// Default configuration file.
pub(super) const DEFAULT_CONFIG: &str = "/etc/mtd/mtd.toml";

/// Arguments of `mtd run`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mtd run -c /etc/mtd/mtd.toml

Exit status: 0 when told to stop, 5 when nobody confirmed in time (see --confirm-within), 1 after any other failure. After
an enforcement that nobody confirmed, nothing is enforced at further starts until `mtd confirm`, or a start with --policy dark.

Runs until SIGINT or SIGTERM, and then leaves nothing behind. If it ends in any other way (SIGKILL, a crash), the data plane
continues for as long as slots are loaded (`horizon`); the next `mtd run` takes it over.")]
pub(super) struct RunArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// What to do with packets for the protected prefixes that are not valid [default: as configured, or unchanged].
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    #[command(flatten)]
    enforce: EnforceArgs,
    /// File with a number of ns to add to the wall clock, read again at every tick (100 ms): to try out wrong clocks. A second
    /// number is a time in ns for which the host counts as having slept.
    #[arg(long, value_name = "FILE", hide = true)]
    wall_clock_offset_file: Option<PathBuf>,
    /// File that stands for the identifier of the virtual machine's generation, read again ten times a second: for rehearsals.
    #[arg(long, value_name = "FILE", hide = true)]
    vm_generation_file: Option<PathBuf>,
    /// BPF object to use instead of the built-in one, such as one whose programs write log lines (shown with -v).
    #[arg(long, value_name = "FILE", hide = true)]
    object: Option<PathBuf>,
}

/// Arguments of `mtd attach`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mtd attach eth0 --policy monitor        see with `mtd drops` what would be lost
  mtd attach eth0 --confirm-within 60s    try it for 60 seconds; `mtd confirm` keeps it
  mtd attach eth0

From then on everything towards the protected prefixes is dropped, even while no controller is running. `mtd run` adds the
sessions; when it ends, the prefixes stay dark until `mtd detach`.

Refuses to cut the SSH connection over which it is run. With --confirm-within the programs let everything pass again when
the time is over, even if every process of mtd has died by then.")]
pub(super) struct AttachArgs {
    /// The underlay interface; must be the one of the configuration.
    #[arg(value_name = "IFACE")]
    interface: String,
    /// What to do with packets for the protected prefixes that are not valid [default: as configured, or unchanged].
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    #[command(flatten)]
    enforce: EnforceArgs,
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Arguments of `mtd detach`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mtd detach eth0
  mtd detach --all            everything that is left of mtd in this network namespace; it is no error if nothing is
  mtd detach --all --force    the same, and end running controllers first

Removes programs, links, maps, control socket and tunnel device. Refuses while a controller is running: stop that first.")]
pub(super) struct DetachArgs {
    /// The underlay interface.
    #[arg(value_name = "IFACE", required_unless_present = "all")]
    interface: Option<String>,
    /// Remove everything of mtd in this network namespace, even if it is half removed already.
    #[arg(long, conflicts_with = "interface")]
    all: bool,
    /// End running controllers: ask them to stop, and kill them after ten seconds.
    #[arg(long, requires = "all")]
    force: bool,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let options = controller::Options {
        // Absolute, so that a reload finds the file whatever the working directory is then.
        config_file: Some(std::path::absolute(&args.config)?),
        wall_clock_offset_file: args.wall_clock_offset_file,
        vm_generation_file: args.vm_generation_file,
        enforcement: args.enforce.with(args.policy),
        object: args.object,
    };
    controller::run(config, options).await
}

pub(super) async fn attach(args: AttachArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    if config.interface != args.interface {
        bail!(
            "{} is about {}, not about {}; name another file with -c",
            args.config.display(),
            config.interface,
            args.interface
        );
    }
    let asked = Enforcement { again: true, ..args.enforce.with(args.policy) };
    if controller::attach(&config, &asked).await? {
        guard::spawn(&args.interface)?;
    }
    Ok(())
}

pub(super) async fn detach(args: DetachArgs) -> anyhow::Result<()> {
    if let Some(interface) = args.interface {
        if !controller::detach(&interface).await? {
            bail!("nothing of mtd is attached to {interface}");
        }
        return Ok(());
    }
    let (interfaces, devices) = controller::detach_all(args.force).await?;
    let detached = interfaces.iter().map(|interface| format!("detached from {interface}\n"));
    let removed = devices.iter().map(|device| format!("removed {device}\n"));
    let text = detached.chain(removed).collect::<Vec<_>>().concat();
    output::print(if text.is_empty() { "nothing of mtd is here\n" } else { &text })
}
