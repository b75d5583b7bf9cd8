//! Outer paths with a smaller MTU than the interface: routes into the tunnel device that must be narrower.

use ipnet::IpNet;
use mtd_common::control_record::ControlRecord;
use mtd_common::packet::OVERHEAD;
use tracing::{debug, info, warn};

use super::paths::Path;
use super::{Maps, OriginId, Sessions};
use crate::device::TunnelDevice;
use crate::events::PathChange;
use crate::model::{BootNs, PeerNumber, SessionIndex};
use crate::proto::clock::Reading;
use crate::status;

impl<M: Maps> Sessions<M> {
    /// A router has reported, as checked by the receive program, that a packet of a session was too long.
    pub(super) fn handle_too_big(&mut self, record: &ControlRecord, now: Reading) {
        let Some(outer) = record.too_big() else { return };
        let Some(installed) = self.table.at(SessionIndex(record.session), record.generation) else {
            return debug!("packet too big of a session that is over");
        };
        let (key, number) = (installed.key, installed.peer);
        let usual = self.told.inner_mtu + OVERHEAD as u32;
        if !self.paths.note(number, outer, usual, now.boot) {
            return;
        }
        let mut configured = self.origins.configured.peers();
        let peer = configured.find(|(id, _)| (OriginId::Configured, *id) == key);
        let name = peer.map(|(_, peer)| peer.config.name.as_str()).or_else(|| self.observer.name_of(key));
        let who = name.map_or_else(String::new, |name| format!(" to {name}"));
        self.observer.path(name, PathChange::Narrow(outer));
        let Some(path) = self.paths.get(number) else { return };
        if path.is_too_small() {
            warn!(
                "the path{who} carries packets of up to {outer} bytes only; mtd needs {}: long ones will be lost",
                path.inner() + OVERHEAD as u32
            );
        } else {
            info!(
                "the path{who} carries packets of up to {outer} bytes: inside they get {} at most",
                path.inner()
            );
        }
    }

    /// Forgets old reports, so that larger packets are tried again.
    pub(super) fn forget_paths(&mut self, now: BootNs) {
        for _ in self.paths.forget(now) {
            info!("the MTU of a path that was small is tried again");
            self.observer.path(None, PathChange::TriedAgain);
        }
    }

    /// Whether [`Sessions::tunnel`] has changed since the last call. (Changes by servers are reported by
    /// [`super::Effect::Device`].)
    pub(crate) fn take_tunnel_changed(&mut self) -> bool {
        let paths = self.paths.take_changed();
        std::mem::take(&mut self.mtu_due) || paths
    }

    /// The tunnel device as it should be now: as configured, with the additions of sessions and their paths.
    pub(crate) fn tunnel(&self, configured: &TunnelDevice) -> TunnelDevice {
        let mut device = TunnelDevice { mtu: self.told.inner_mtu, ..configured.clone() };
        for (local, remote) in self.origins.clients.iter().filter_map(|connection| connection.tunnel) {
            device.addresses.extend(local.iter().map(IpNet::from));
            device.routes.extend(remote.iter().map(IpNet::from));
        }
        for installed in self.table.iter() {
            // The device may have become narrower than the path.
            let narrow = self.paths.get(installed.peer).map(Path::inner).filter(|mtu| *mtu < device.mtu);
            if let Some(mtu) = narrow {
                device.narrow.extend(installed.inner_networks().into_iter().map(|network| (network, mtu)));
            }
        }
        device
    }

    /// The longest outer packet in bytes that the path to a peer carries; `None`: what the interface carries.
    pub(super) fn path_mtu(&self, peer: PeerNumber) -> Option<u32> {
        self.paths.get(peer).map(|path| path.outer)
    }

    /// The number of paths that are known to carry less than the interface.
    pub(super) fn path_counts(&self) -> status::Paths {
        let mut counts = status::Paths::default();
        for path in self.paths.all() {
            counts.narrow += 1;
            counts.too_small += u64::from(path.is_too_small());
        }
        counts
    }
}
