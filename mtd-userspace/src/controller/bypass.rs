//! The mark of mtd's own packets: which one, and what earlier controllers have left of theirs.

use std::path::Path;

use tracing::warn;

use crate::config::Config;
use crate::control::own_interfaces;
use crate::dataplane::{self, View};
use crate::device::{self, Underlay, bpffs};
use crate::instance::Instance;
use crate::model::FwMark;
use crate::sessions::first_prefixes;

/// The mark for a controller with this configuration; 0: it needs none. That of an `earlier` data plane is kept, so that its
/// rules hold on without a gap.
///
/// # Errors
/// When the configured number is not mtd's to use, none is free, or the kernel refuses.
pub(super) async fn choose_mark(
    config: &Config,
    underlay: &Underlay,
    earlier: Option<&View>,
) -> device::Result<u32> {
    if !config.needs_mark(&first_prefixes(config, underlay)) {
        return Ok(0);
    }
    match (config.fwmark, earlier.map_or(0, |view| view.fwmark)) {
        (FwMark::Off, _) => Ok(0),
        (FwMark::Number(number), _) => device::require_own_table(number).await.map(|()| number),
        (FwMark::Auto, 0) => device::free_mark().await,
        (FwMark::Auto, before) => Ok(before),
    }
}

/// Removes rules and routes of controllers that are gone, with all that is known of them. Every data plane of this network
/// namespace names its mark before its rules are made.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn remove_left_bypasses(own: &Instance) -> anyhow::Result<()> {
    let mut used = Vec::new();
    let mut instances = vec![own.clone()];
    // Names in bpffs have colons for dots.
    for name in own_interfaces(&Path::new(bpffs::DEFAULT_PATH).join("mtd"), "")? {
        instances.push(Instance::of(&name.replace(':', "."))?);
    }
    for instance in instances {
        match dataplane::view(&instance.pins()) {
            Some(view) => used.push(view.fwmark),
            // Another version's: nobody knows what is its.
            None if instance.pins().exists() => return Ok(()),
            None => {}
        }
    }
    for number in device::remove_other_bypasses(&used).await? {
        warn!("removed what an earlier controller had left of its rules for the mark {number:#x}");
    }
    Ok(())
}
