//! Looking at an attached data plane from outside: when no controller runs.

use std::net::Ipv6Addr;
use std::path::Path;

use aya::maps::{Array, Map, MapData, PerCpuArray};
use ipnet::Ipv6Net;
use mtd_common::abi::{self, Dataplane, FLAG_ON_LINK, FLAG_SHARED, Prefix};
use nix::net::if_::if_indextoname;

use super::error::Error;
use super::maps::count;

use crate::model::{Counts, Guard, LinkMode};

/// What the maps of an attached data plane tell.
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
    /// What is done with what is no valid packet.
    pub guard: Guard,
    /// What the programs counted.
    pub counts: Counts,
}

fn settings(pins: &Path) -> Option<Array<MapData, Dataplane>> {
    let map = Map::Array(MapData::from_pin(pins.join("maps").join("DATAPLANE")).ok()?);
    Array::try_from(map).ok()
}

fn dataplane(pins: &Path) -> Option<Dataplane> {
    settings(pins)?.get(&0, 0).ok()
}

/// Changes what the programs pinned under `pins` do with what is no valid packet. Nobody else may change their settings
/// meanwhile: the caller holds the lock of the instance.
///
/// # Errors
/// When nothing is pinned that this version of mtd knows, or the kernel refuses.
pub fn set_guard(pins: &Path, guard: &Guard) -> Result<(), Error> {
    let mut map = settings(pins).ok_or(Error::NothingPinned)?;
    let mut value = map.get(&0, 0).map_err(Error::map("DATAPLANE"))?;
    if value.version != abi::VERSION {
        return Err(Error::NothingPinned);
    }
    guard.write(&mut value);
    map.set(0, value, 0).map_err(Error::map("DATAPLANE"))
}

/// Layout version of the maps pinned under `pins`.
pub(super) fn version(pins: &Path) -> Option<u32> {
    Some(dataplane(pins)?.version)
}

/// The data plane pinned under `pins`. `None`: nothing is attached, or by another version of mtd.
pub fn view(pins: &Path) -> Option<View> {
    let found = dataplane(pins).filter(|found| found.version == abi::VERSION)?;
    let array = |name: &str| -> Option<PerCpuArray<MapData, u64>> {
        PerCpuArray::try_from(Map::PerCpuArray(MapData::from_pin(pins.join("maps").join(name)).ok()?)).ok()
    };
    let name = |index: u32| if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    let inside = name(found.tunnel_ifindex).unwrap_or_default();
    Some(View {
        underlay: name(found.underlay_ifindex).unwrap_or_default(),
        device: inside.strip_suffix('x').unwrap_or_default().to_owned(),
        prefixes: found.prefixes.iter().take(found.prefix_count as usize).filter_map(prefix).collect(),
        link: link(found.flags),
        inner_mtu: found.inner_mtu,
        guard: Guard::read(&found),
        counts: count(&array("DROPS")?, &array("COUNTERS")?).ok()?,
    })
}

const fn link(flags: u32) -> LinkMode {
    if flags & FLAG_SHARED != 0 {
        LinkMode::Shared
    } else if flags & FLAG_ON_LINK != 0 {
        LinkMode::OnLink
    } else {
        LinkMode::Routed
    }
}

fn prefix(prefix: &Prefix) -> Option<Ipv6Net> {
    let [high, low] = [prefix.high, prefix.low].map(|half| u128::from(half.to_be()));
    let length = 64 + prefix.mask.to_be().leading_ones() as u8;
    Ipv6Net::new(Ipv6Addr::from(high << 64 | low), length).ok()
}
