//! `mtd run`, `mtd attach`, `mtd detach`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::guard::{self, EnforceArgs, PolicyArg};
use super::output;
use crate::config::Config;
use crate::controller;
use crate::model::Enforcement;

/// Configuration file when none is named.
pub(super) const DEFAULT_CONFIG: &str = "/etc/mtd/mtd.toml";

/// Arguments of `mtd run`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mtd run -c /etc/mtd/mtd.toml

Exit status: 0 when told to stop, 5 when nobody confirmed in time (see --confirm-within), 1 after any other failure. After
an enforcement that nobody confirmed, nothing is enforced at further starts until `mtd confirm`, or a start with --policy dark.

Runs until SIGINT or SIGTERM, and then leaves nothing behind. After any other end (SIGKILL, a crash) the data plane
goes on for as long as slots are loaded (`horizon`); the next `mtd run` takes it over.")]
pub(super) struct RunArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// What is done to packets for the protected prefixes that are not valid [default: as configured, or as it is].
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    #[command(flatten)]
    enforce: EnforceArgs,
    /// File with a number of ns that is added to the wall clock, read again at every tick (100 ms): for rehearsals.
    #[arg(long, value_name = "FILE", hide = true)]
    wall_clock_offset_file: Option<PathBuf>,
    /// File that stands for the identifier of the virtual machine's generation, read again ten times a second: for rehearsals.
    #[arg(long, value_name = "FILE", hide = true)]
    vm_generation_file: Option<PathBuf>,
    /// Another BPF object than the one that is built in, such as one whose programs write log lines (read with -v).
    #[arg(long, value_name = "FILE", hide = true)]
    object: Option<PathBuf>,
}

/// Arguments of `mtd attach`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mtd attach eth0 --policy monitor        see with `mtd drops` what would be lost
  mtd attach eth0 --confirm-within 60s    try it; `mtd confirm` keeps it
  mtd attach eth0

From then on everything towards the protected prefixes is dropped, also while no controller runs. `mtd run` adds the
sessions; when it ends, the prefixes stay dark until `mtd detach`.

Where that would cut the SSH connection that this is typed over, it is refused. With --confirm-within the programs open
by themselves when the time is over, whatever else has died by then.")]
pub(super) struct AttachArgs {
    /// The underlay interface; must be the one of the configuration.
    #[arg(value_name = "IFACE")]
    interface: String,
    /// What is done to packets for the protected prefixes that are not valid [default: as configured, or as it is].
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
  mtd detach --all            whatever is left of mtd in this network namespace; nothing is no error
  mtd detach --all --force    and ends controllers that run

Removes programs, links, maps, control socket and tunnel device. Refuses while a controller runs: stop that first.")]
pub(super) struct DetachArgs {
    /// The underlay interface.
    #[arg(value_name = "IFACE", required_unless_present = "all")]
    interface: Option<String>,
    /// Everything of mtd in this network namespace, also what is half removed.
    #[arg(long, conflicts_with = "interface")]
    all: bool,
    /// End controllers that run: ask first, kill after ten seconds.
    #[arg(long, requires = "all")]
    force: bool,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let options = controller::Options {
        // Also when this process is told to read it again, from wherever.
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
