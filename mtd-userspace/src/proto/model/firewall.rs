//! A stateful firewall of the model: it lets in answers only, and forgets.

use std::collections::HashMap;

use crate::proto::exchange::SECOND;

/// Both addresses and ports of a packet, seen from inside.
type Flow = [u8; 36];

/// A stateful firewall in front of a host.
#[derive(Default)]
pub(in crate::proto) struct Firewall {
    /// When each flow was last used.
    flows: HashMap<Flow, u64>,
    /// Packets that were held back.
    pub(in crate::proto) held_back: u64,
}

/// How long a flow without packets is remembered.
const MEMORY: u64 = 30 * SECOND;

fn flow(packet: &[u8], [source, destination, from, to]: [usize; 4]) -> Flow {
    let mut flow = [0; 36];
    flow[..16].copy_from_slice(&packet[source..source + 16]);
    flow[16..32].copy_from_slice(&packet[destination..destination + 16]);
    flow[32..34].copy_from_slice(&packet[from..from + 2]);
    flow[34..].copy_from_slice(&packet[to..to + 2]);
    flow
}

impl Firewall {
    /// A packet goes out.
    pub(super) fn out(&mut self, packet: &[u8], now: u64) {
        self.flows.insert(flow(packet, [8, 24, 40, 42]), now);
    }

    /// Whether a packet may come in.
    pub(super) fn passes(&mut self, packet: &[u8], now: u64) -> bool {
        let last = self.flows.get_mut(&flow(packet, [24, 8, 42, 40])).filter(|last| now - **last <= MEMORY);
        self.held_back += u64::from(last.is_none());
        last.map(|last| *last = now).is_some()
    }

    /// Flows that are remembered.
    pub(in crate::proto) fn entries(&self, now: u64) -> usize {
        self.flows.values().filter(|last| now - **last <= MEMORY).count()
    }
}
