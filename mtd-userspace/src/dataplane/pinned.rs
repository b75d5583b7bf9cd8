//! Inspecting an attached data plane while no controller runs.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData, PerCpuArray};
use ipnet::Ipv6Net;
use mtd_common::abi::{Dataplane, GuardSettings};
use nix::net::if_::if_indextoname;

use super::error::Error;
use super::groups::{DATAPLANE, GUARD, Group};
use super::maps::count;
use super::pins::maps;
use super::settings;
use crate::model::{Counts, Guard, LinkMode};

/// The settings of an attached data plane.
#[derive(Clone, Debug)]
pub struct View {
    /// Name of the underlay interface.
    pub underlay: String,
    /// Name of the tunnel device.
    pub device: String,
    /// Protected prefixes.
    pub prefixes: Vec<Ipv6Net>,
    /// How packets for the prefixes reach this host.
    pub link: LinkMode,
    /// Longest inner packet in bytes.
    pub inner_mtu: u32,
    /// Mark of the outer packets; 0: they have none.
    pub fwmark: u32,
    /// How packets that are not valid are handled.
    pub guard: Guard,
}

/// A pinned array map of a group, if it has this version's layout.
fn array<V: Pod>(pins: &Path, group: Group, name: &str) -> Option<Array<MapData, V>> {
    let map = MapData::from_pin(group.pin(&maps(pins), name)).ok()?;
    Array::try_from(Map::Array(map)).ok()
}

fn per_cpu(pins: &Path, name: &str) -> Option<PerCpuArray<MapData, u64>> {
    let map = MapData::from_pin(Group::Counters.pin(&maps(pins), name)).ok()?;
    PerCpuArray::try_from(Map::PerCpuArray(map)).ok()
}

/// Changes how the programs pinned under `pins` handle packets that are not valid. The caller holds the lock of the
/// instance, so that nobody else changes the settings meanwhile.
///
/// # Errors
/// When this version of mtd recognises no pins, or the kernel refuses.
pub fn set_guard(pins: &Path, guard: &Guard) -> Result<(), Error> {
    let mut map = array::<GuardSettings>(pins, Group::Guard, GUARD).ok_or(Error::NothingPinned)?;
    map.set(0, guard.settings(), 0).map_err(Error::map(GUARD))
}

/// The data plane pinned under `pins`. `None`: nothing is attached, or this version of mtd cannot read the settings.
pub fn view(pins: &Path) -> Option<View> {
    let found = array::<Dataplane>(pins, Group::Core, DATAPLANE)?.get(&0, 0).ok()?;
    let guard = array::<GuardSettings>(pins, Group::Guard, GUARD)?.get(&0, 0).ok()?;
    let name = |index: u32| if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    let inside = name(found.tunnel_ifindex).unwrap_or_default();
    Some(View {
        underlay: name(found.underlay_ifindex).unwrap_or_default(),
        device: inside.strip_suffix('x').unwrap_or_default().to_owned(),
        prefixes: settings::prefixes(&found),
        link: settings::link(&found),
        inner_mtu: found.inner_mtu,
        fwmark: found.fwmark,
        guard: Guard::read(&guard),
    })
}

/// The counters of the programs pinned under `pins`. `None`: as for [`view`].
pub fn counts(pins: &Path) -> Option<Counts> {
    count(&per_cpu(pins, "DROPS")?, &per_cpu(pins, "COUNTERS")?).ok()
}
