//! What can be reached through a session at the time.

use std::net::IpAddr;

use super::summary;
use super::{Maps, OriginId, Sessions};
use crate::model::BootNs;
use crate::proto::client::Phase;
use crate::status::PeerState;

impl<M: Maps> Sessions<M> {
    /// Whether an open session with a server or a configured peer leads to an inner address.
    pub fn reaches(&self, address: IpAddr) -> bool {
        let now = self.clock.read();
        let by_server = self.origins.clients.iter().any(|connection| {
            let remote = connection.tunnel.is_some_and(|(_, remote)| remote.iter().any(|own| own == address));
            let behind = connection.config.allowed_ips.iter().any(|net| net.contains(&address));
            connection.machine.phase() == Phase::Open && (remote || behind)
        });
        by_server
            || self.origins.configured.peers().any(|(id, peer)| {
                let last = BootNs(self.table.state((OriginId::Configured, id)).rx_last_valid);
                peer.config.allowed_ips.iter().any(|net| net.contains(&address))
                    && summary::peer_state(last, peer.session.period, now) == PeerState::Open
            })
    }
}
