//! Networks in which the DHT is hard to find, or out of reach: names that lead to a wrong place, bootstrap nodes that are
//! gone, UDP that is dropped; and a clock that is wrong when the host starts.

mod blocked;
mod carried;
mod clock;
mod names;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{Network, Rendezvous, Warning};
use mtd_tests::wait_until;

use crate::rendezvous::world::{Who, World};

/// How long something may take on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a host says of the rendezvous.
fn rendezvous(world: &World, who: Who) -> Result<Rendezvous> {
    world.status(who)?.rendezvous.with_context(|| format!("{who:?} says nothing of a rendezvous"))
}

/// Waits until a host says this of the DHT.
fn wait_network(world: &World, who: Who, network: Network) -> Result<()> {
    wait_until(
        "the host to say how the DHT does",
        PATIENCE,
        || Ok(rendezvous(world, who)?.network == network),
    )
    .with_context(|| format!("{who:?} {network:?}: {}", world.explain()))
}

/// Waits until a host warns of this, and returns the warning.
fn wait_warning(world: &World, who: Who, code: &str) -> Result<Warning> {
    let mut found = None;
    wait_until("a warning", PATIENCE, || {
        found = world.status(who)?.warnings.into_iter().find(|warning| warning.code == code);
        Ok(found.is_some())
    })
    .with_context(|| format!("{who:?} {code}: {}", world.explain()))?;
    found.context("a warning")
}

/// That `mtd status`, as people see it, says all of this on a host.
fn require_shown(world: &World, who: Who, texts: &[&str]) -> Result<()> {
    let shown = world.mtd(who, &["status"])?;
    let plain = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in texts {
        ensure!(plain.contains(text), "{who:?}: no \"{text}\" in\n{shown}");
    }
    Ok(())
}
