//! `mtd detach`: removes everything that is attached, however incomplete it is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use tracing::{info, warn};

use super::lock::{Holder, Lock};
use crate::control::own_interfaces;
use crate::dataplane::{self, remove_pins};
use crate::device::{self, bpffs};
use crate::enforcement::unlink_note;
use crate::instance::{Instance, NOTE_SUFFIX, RUN_DIR, WEB_SUFFIX};

/// How long a process that was told to end may take to clean up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is checked meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// `mtd detach`: removes whatever is attached to an interface. False when nothing was.
///
/// # Errors
/// When a controller runs, or something cannot be removed.
pub async fn detach(interface: &str) -> anyhow::Result<bool> {
    let instance = Instance::of(interface)?;
    let lock = Lock::take(&instance)?;
    take_away(&instance, &lock).await
}

/// `mtd detach --all`: removes everything of mtd in this network namespace. Returns the interfaces that it was attached to
/// or had left something on, and the tunnel devices that belonged to none of them.
///
/// # Errors
/// When a controller runs (unless `force`: then it is ended), or something cannot be removed.
pub async fn detach_all(force: bool) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut locks = Vec::new();
    let mut held = Vec::new();
    for interface in interfaces()? {
        let instance = Instance::of(&interface)?;
        match Lock::try_take(&instance)? {
            Ok(lock) => locks.push((interface, instance, lock)),
            Err(holder) => held.push((interface, instance, holder)),
        }
    }
    if !held.is_empty() && !force {
        let running: Vec<_> =
            held.iter().map(|(interface, _, holder)| format!("{interface} ({holder})")).collect();
        bail!("a controller runs for {}; stop it first, or end it with --force", running.join(", "));
    }
    for (interface, instance, holder) in held {
        let lock = end(&interface, &instance, holder).await?;
        locks.push((interface, instance, lock));
    }
    let mut names = Vec::new();
    for (interface, instance, lock) in locks {
        take_away(&instance, &lock).await.with_context(|| interface.clone())?;
        names.push(interface);
    }
    device::remove_other_bypasses(&[]).await?;
    Ok((names, device::remove_marked().await?))
}

/// The interfaces that mtd is attached to or has left something of.
fn interfaces() -> anyhow::Result<BTreeSet<String>> {
    let (pins, run) = (Path::new(bpffs::DEFAULT_PATH).join("mtd"), Path::new(RUN_DIR));
    let mut found = BTreeSet::new();
    // Names in bpffs have colons in place of dots.
    found.extend(own_interfaces(&pins, "")?.into_iter().map(|name| name.replace(':', ".")));
    for suffix in [".sock", ".lock", WEB_SUFFIX, NOTE_SUFFIX] {
        found.extend(own_interfaces(run, suffix)?);
    }
    Ok(found)
}

/// Ends the process that holds the lock of an instance, by force if it must be. Returns the lock.
async fn end(interface: &str, instance: &Instance, holder: Holder) -> anyhow::Result<Lock> {
    let Some(pid) = holder.pid else {
        bail!("{interface}: it cannot be told which process runs its controller; stop it first");
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        info!("ending the controller of {interface} (process {pid}, {signal})");
        if let Err(error) = kill(pid, signal) {
            warn!("process {pid}: {error}");
        }
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Ok(lock) = Lock::try_take(instance)? {
                return Ok(lock);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    bail!("{interface}: process {pid} does not end")
}

/// Removes what an instance has left. False when there was nothing.
pub(super) async fn take_away(instance: &Instance, _lock: &Lock) -> anyhow::Result<bool> {
    let pins = instance.pins();
    let view = dataplane::view(&pins);
    let mut found = remove_pins(&pins)?;
    match view {
        Some(view) => {
            if view.fwmark != 0 {
                found |= device::remove_bypass(view.fwmark).await?;
            }
            found |= device::remove(&view.device).await?;
        }
        // The pins of another version do not name the device. Without any other instance, a marked device must be this
        // one's.
        None if own_interfaces(&Path::new(bpffs::DEFAULT_PATH).join("mtd"), "")?.is_empty() => {
            found |= !device::remove_other_bypasses(&[]).await?.is_empty();
            found |= !device::remove_marked().await?.is_empty();
        }
        None => {}
    }
    // A killed controller has left it, and we hold the lock: nobody serves it.
    found |= remove_sockets(instance)?;
    found |= unlink_note(instance)?;
    Ok(found)
}

/// Removes the control socket, also one that a killed controller had not yet renamed into place, and the link to the web
/// view.
fn remove_sockets(instance: &Instance) -> anyhow::Result<bool> {
    let socket = instance.socket();
    let link = instance.web_link();
    let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = false;
    let entries = match fs::read_dir(RUN_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.context(RUN_DIR)?,
    };
    for entry in entries {
        let path = entry.context(RUN_DIR)?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = file.strip_prefix(&format!("{name}.")).is_some_and(|id| id.parse::<u32>().is_ok());
        if *file == name || temporary || path == link {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
            found = true;
        }
    }
    Ok(found)
}
