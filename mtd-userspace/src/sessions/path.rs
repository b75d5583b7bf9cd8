//! Outer paths with a smaller MTU than the interface: probing them, and what must be shorter therefore: routes into the tunnel
//! device, and what the send program cuts.

use ipnet::IpNet;
use mtd_common::control_record::ControlRecord;
use mtd_common::packet::{IPV6, OVERHEAD};
use tracing::{debug, info, warn};

use super::installed::Installed;
use super::paths::Change;
use super::probers::PER_TICK;
use super::{Key, Maps, OriginId, Sessions};
use crate::device::TunnelDevice;
use crate::events::PathChange;
use crate::model::{BootNs, PeerNumber, SessionIndex};
use crate::proto::clock::Reading;
use crate::proto::exchange::random_u64;
use crate::proto::messages::Control;
use crate::proto::path_probe::{Prober, Seen};
use crate::proto::session::nanoseconds;
use crate::status::{self, PathSource};

impl<M: Maps> Sessions<M> {
    /// Bytes of the longest outer packet that the interface carries.
    fn usual(&self) -> u32 {
        self.told.inner_mtu + OVERHEAD as u32
    }

    /// A router has reported, as checked by the receive program, that a packet of a session was too long.
    pub(super) fn handle_too_big(&mut self, record: &ControlRecord, now: Reading) {
        let Some(outer) = record.too_big() else { return };
        let Some(installed) = self.table.at(SessionIndex(record.session), record.generation) else {
            return debug!("packet too big of a session that is over");
        };
        let (key, number) = (installed.key, installed.peer);
        if !self.paths.note(number, outer, self.usual(), now.boot) {
            return;
        }
        if let Some(prober) = self.probers.get_mut(number) {
            prober.handle_told(outer);
        }
        self.report_path(key, PathChange::Narrow(outer), "says a router");
        self.shorten(number);
    }

    /// A control message about the path. False: it is another one.
    pub(super) fn handle_path_message(&mut self, key: Key, message: &[u8], now: Reading) -> bool {
        match Control::decode(message) {
            Some(Control::PathProbe { id }) => {
                self.send_control(key.0, key.1, None, &Control::PathProbeAnswer { id }.encode());
                true
            }
            Some(Control::PathProbeAnswer { id }) => {
                let peer = self.table.get(key).map(|installed| installed.peer);
                let prober = peer.and_then(|peer| self.probers.get_mut(peer));
                if !prober.is_some_and(|prober| prober.handle_answer(id, now.boot)) {
                    debug!("the answer to a probe that was not sent");
                }
                if let Some(peer) = peer {
                    self.take_found(peer, key);
                }
                true
            }
            _ => false,
        }
    }

    /// This session carries its peer's traffic from now on.
    pub(super) fn set_carrier(&mut self, key: Key, now: Reading) {
        let Some(installed) = self.table.get(key).filter(|installed| !installed.is_introduction()) else {
            return;
        };
        let (peer, session) = (installed.peer, &installed.session);
        let prober = Prober::new(self.usual(), nanoseconds(self.config.mtu_expires), now.boot);
        let ends = [session.local.network, session.remote.network];
        self.probers.set_carrier(peer, key, ends, now.boot, prober);
        self.shorten(peer);
    }

    /// The same for sessions that were there before this controller.
    pub(super) fn set_carriers(&mut self, now: Reading) {
        let mut carriers: Vec<_> =
            self.table.iter().map(|installed| (installed.started, installed.key)).collect();
        // The newest session of each peer is the last one.
        carriers.sort_unstable();
        for (_, key) in carriers {
            self.set_carrier(key, now);
        }
    }

    /// Sends the probes that are due.
    pub(super) fn probe_paths(&mut self, now: Reading) {
        let mut sent = 0;
        for peer in self.probers.due(now.boot) {
            if sent >= PER_TICK {
                break;
            }
            sent += self.probe_path(peer, now);
        }
    }

    /// Sends the probes of a path that are due, and returns how many.
    fn probe_path(&mut self, peer: PeerNumber, now: Reading) -> usize {
        let most = self.usual();
        let Some(probing) = self.probers.turn(peer) else { return 0 };
        if self.table.get(probing.key).is_none() {
            let Some(other) = self.table.carrier(peer) else {
                self.probers.remove(peer);
                self.paths.abandon(peer, now.boot);
                return 0;
            };
            probing.key = other;
        }
        let key = probing.key;
        let Some(installed) = self.table.get(key).filter(|installed| !installed.resting) else { return 0 };
        let index = installed.index();
        let seen = Seen {
            most,
            long: self.table.maps.long_sent(index),
            heard: BootNs(self.table.maps.traffic(index).last_valid).happened(),
        };
        let random = &mut self.random;
        let probes = probing.prober.poll(seen, now.boot, &mut || random_u64(random));
        for probe in &probes {
            let message = Control::path_probe(probe.id, probe.size as usize - OVERHEAD - IPV6);
            self.send_control(key.0, key.1, None, &message);
        }
        self.take_found(peer, key);
        probes.len()
    }

    /// Uses what the prober of a peer has found out.
    fn take_found(&mut self, peer: PeerNumber, key: Key) {
        let usual = self.usual();
        let Some(prober) = self.probers.get(peer).filter(|prober| prober.answers()) else { return };
        // As long as it has found nothing, what routers say counts.
        if !prober.is_sure() && prober.size() >= usual {
            return;
        }
        let told = self.paths.get(peer).is_some_and(|path| path.source == PathSource::Told);
        if told && !prober.is_sure() && self.path_mtu(peer) == Some(prober.size()) {
            return;
        }
        let found = self.paths.found(peer, prober.size(), prober.is_too_small(), usual);
        match found {
            None => return,
            Some(Change::Full) => self.report_path(key, PathChange::TriedAgain, "found by probes"),
            Some(Change::Narrower(path) | Change::Wider(path)) => {
                self.report_path(key, PathChange::Narrow(path.outer), "found by probes");
                if path.too_small {
                    warn!("not even packets of {} bytes get through there: long ones are lost", path.outer);
                }
            }
        }
        self.shorten(peer);
    }

    /// Logs and publishes how the path to the peer of this session has changed.
    fn report_path(&self, key: Key, change: PathChange, why: &str) {
        let mut configured = self.origins.configured.peers();
        let peer = configured.find(|(id, _)| (OriginId::Configured, *id) == key);
        let name = peer.map(|(_, peer)| peer.config.name.as_str()).or_else(|| self.observer.name_of(key));
        let who = name.map_or_else(String::new, |name| format!(" to {name}"));
        self.observer.path(name, change);
        match change {
            PathChange::Narrow(outer) => info!(
                "the path{who} carries packets of up to {outer} bytes, {why}: inside they get {} at most",
                outer.saturating_sub(OVERHEAD as u32)
            ),
            PathChange::TriedAgain => info!("the path{who} carries long packets again, {why}"),
        }
    }

    /// Tells the send program how long packets to a peer may be.
    fn shorten(&mut self, peer: PeerNumber) {
        let bytes = self.paths.get(peer).map_or(0, super::paths::Path::longest);
        let all = self.table.iter().filter(|installed| installed.peer == peer).map(Installed::index);
        for index in all.collect::<Vec<_>>() {
            self.table.maps.set_longest(index, bytes);
        }
    }

    /// Forgets old reports, so that larger packets are tried again.
    pub(super) fn forget_paths(&mut self, now: BootNs) {
        for peer in self.paths.forget(now) {
            info!("the MTU of a path that was small is tried again");
            self.observer.path(None, PathChange::TriedAgain);
            self.shorten(peer);
        }
    }

    /// Whether [`Sessions::tunnel`] has changed since the last call. (Changes by servers are reported by
    /// [`super::Effect::Device`].)
    pub(crate) fn take_tunnel_changed(&mut self) -> bool {
        let paths = self.paths.take_changed();
        std::mem::take(&mut self.device_due) || paths
    }

    /// The tunnel device as it should be now: as configured, with the additions of sessions and their paths.
    pub(crate) fn tunnel(&self, configured: &TunnelDevice) -> TunnelDevice {
        let mut device = TunnelDevice { mtu: self.told.inner_mtu, ..configured.clone() };
        if let Some(bypass) = &mut device.bypass {
            bypass.outer = self.config.outer_networks(&self.told.prefixes);
        }
        for (local, remote) in self.origins.clients.iter().filter_map(|connection| connection.tunnel) {
            device.addresses.extend(local.iter().map(IpNet::from));
            device.routes.extend(remote.iter().map(IpNet::from));
        }
        for installed in self.table.iter() {
            let Some(path) = self.paths.get(installed.peer) else { continue };
            let networks = installed.inner_networks().into_iter();
            let narrow = networks.map(|network| (network, path.inner(network)));
            // The device may have become narrower than the path.
            device.narrow.extend(narrow.filter(|(_, mtu)| *mtu < device.mtu));
        }
        device
    }

    /// The longest outer packet in bytes that the path to a peer carries; `None`: what the interface carries.
    pub(super) fn path_mtu(&self, peer: PeerNumber) -> Option<u32> {
        self.paths.get(peer).map(|path| path.outer)
    }

    /// How it is known what the path to a peer carries.
    pub(super) fn path_source(&self, peer: PeerNumber) -> PathSource {
        match self.paths.get(peer) {
            Some(path) => path.source,
            None if self.probers.get(peer).is_some_and(Prober::is_sure) => PathSource::Probed,
            None => PathSource::Configured,
        }
    }

    /// The number of paths that are known to carry less than the interface.
    pub(super) fn path_counts(&self) -> status::Paths {
        let mut counts = status::Paths::default();
        for path in self.paths.all() {
            counts.narrow += 1;
            counts.too_small += u64::from(path.too_small);
        }
        counts
    }
}
