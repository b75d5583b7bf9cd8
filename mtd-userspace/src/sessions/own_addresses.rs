//! The own addresses of all sessions, now and soon: what neighbours on the link have to know.

use std::net::Ipv6Addr;

use mtd_common::slot;

use super::{Key, Maps, Sessions};
use crate::model::BootNs;

/// An own address of a session in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The session.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// The address.
    pub address: Ipv6Addr,
    /// The peer's address in this slot; `None`: anybody may send.
    pub peer: Option<Ipv6Addr>,
    /// When it is no longer live, in boot time.
    pub until: BootNs,
}

impl<M: Maps> Sessions<M> {
    /// The loaded addresses of all sessions in the present slot and in those that begin within the time in ns that `ahead`
    /// returns for a slot length in ns. Only those that are `due` are derived; that is asked for every one of them.
    pub fn own_addresses(
        &self,
        ahead: impl Fn(u64) -> u64,
        mut due: impl FnMut(Key, u64) -> bool,
    ) -> Vec<OwnAddress> {
        let now = self.clock.read().boot;
        let mut found = Vec::new();
        for installed in self.table.iter().filter(|installed| !installed.resting) {
            let session = &installed.session;
            let (phase, period) = (session.phase, session.period);
            let time = installed.offset.session(now);
            let current = slot::number(time.0, phase, period);
            let last = slot::number(time.0.saturating_add(ahead(period)), phase, period);
            let loaded = installed.loader.loaded();
            for slot in current.max(loaded.start)..(last + 1).min(loaded.end) {
                if !due(installed.key, slot) {
                    continue;
                }
                let (local, remote) = session.endpoints(slot);
                let (_, end) = slot::live(slot, phase, period);
                found.push(OwnAddress {
                    key: installed.key,
                    slot,
                    address: local.address.into(),
                    peer: (remote.port != 0).then(|| remote.address.into()),
                    until: now + end.saturating_sub(time.0),
                });
            }
        }
        found
    }
}
