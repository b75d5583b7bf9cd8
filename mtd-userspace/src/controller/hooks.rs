//! Commands of the administrator, run when the data plane comes and goes.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Config, Hooks};

/// After this time a command is killed: a controller that waits for ever protects nobody.
const LIMIT: Duration = Duration::from_secs(30);

/// When commands are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Before anything on the host is changed.
    PreUp,
    /// When the programs are attached.
    PostUp,
    /// Before anything is undone.
    PreDown,
    /// After everything is undone.
    PostDown,
}

impl When {
    const fn name(self) -> &'static str {
        match self {
            Self::PreUp => "pre_up",
            Self::PostUp => "post_up",
            Self::PreDown => "pre_down",
            Self::PostDown => "post_down",
        }
    }

    fn commands(self, hooks: &Hooks) -> &[String] {
        match self {
            Self::PreUp => &hooks.pre_up,
            Self::PostUp => &hooks.post_up,
            Self::PreDown => &hooks.pre_down,
            Self::PostDown => &hooks.post_down,
        }
    }
}

/// Runs the commands, one after the other.
///
/// # Errors
/// The first one that fails; those after it are not run.
pub(super) async fn run(config: &Config, when: When) -> anyhow::Result<()> {
    for command in when.commands(&config.hooks) {
        info!("{}: {command}", when.name());
        one(config, when, command).await.with_context(|| format!("{}: {command}", when.name()))?;
    }
    Ok(())
}

/// The same at the stop: failures are only logged, since the rest must be undone all the same.
pub(super) async fn run_all(config: &Config, when: When) {
    for command in when.commands(&config.hooks) {
        info!("{}: {command}", when.name());
        if let Err(error) = one(config, when, command).await {
            warn!("{}: {command}: {error:#}", when.name());
        }
    }
}

async fn one(config: &Config, when: When, command: &str) -> anyhow::Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("MTD_HOOK", when.name())
        .env("MTD_INTERFACE", &config.interface)
        .env("MTD_DEVICE", &config.device)
        // Only the controller itself may notify the service manager.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start /bin/sh")?;
    let Ok(status) = timeout(LIMIT, child.wait()).await else {
        child.kill().await?;
        bail!("not done after {LIMIT:?}; start what takes longer in the background")
    };
    let status = status?;
    ensure!(status.success(), "{status}");
    Ok(())
}
