//! `mtd run`, `mtd attach`, `mtd detach`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::config::Config;
use crate::controller;

/// Configuration file when none is named.
pub(super) const DEFAULT_CONFIG: &str = "/etc/mtd/mtd.toml";

/// Arguments of `mtd run`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mtd run -c /etc/mtd/mtd.toml

Runs until SIGINT or SIGTERM, and then leaves nothing behind. After any other end (SIGKILL, a crash) the data plane
goes on for as long as slots are loaded (`horizon`); the next `mtd run` takes it over.")]
pub(super) struct RunArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// File with a number of ns that is added to the wall clock, read again four times a second: for rehearsals.
    #[arg(long, value_name = "FILE", hide = true)]
    wall_clock_offset_file: Option<PathBuf>,
}

/// Arguments of `mtd attach`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mtd attach eth0

From then on everything towards the protected prefixes is dropped, also while no controller runs. `mtd run` adds the
sessions; when it ends, the prefixes stay dark until `mtd detach`.")]
pub(super) struct AttachArgs {
    /// The underlay interface; must be the one of the configuration.
    #[arg(value_name = "IFACE")]
    interface: String,
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Arguments of `mtd detach`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mtd detach eth0

Removes programs, links, maps and tunnel device of the interface. Refuses while a controller runs: stop that first.")]
pub(super) struct DetachArgs {
    /// The underlay interface.
    #[arg(value_name = "IFACE")]
    interface: String,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let options = controller::Options {
        // Also when this process is told to read it again, from wherever.
        config_file: Some(std::path::absolute(&args.config)?),
        wall_clock_offset_file: args.wall_clock_offset_file,
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
    controller::attach(&config).await?;
    Ok(())
}

pub(super) async fn detach(args: DetachArgs) -> anyhow::Result<()> {
    if !controller::detach(&args.interface).await? {
        bail!("nothing of mtd is attached to {}", args.interface);
    }
    Ok(())
}
