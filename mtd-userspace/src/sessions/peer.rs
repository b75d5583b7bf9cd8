//! One peer: its session, where it is in the maps, what is known of its packets.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use mtd_common::DropReason;
use mtd_common::abi::{self, Route, SessionState};
use mtd_common::packet::inner::mapped;
use mtd_common::slot;

use super::tables::Destination;
use crate::config;
use crate::model::Traffic;
use crate::proto::clock::{self, Reading};
use crate::proto::session::Session;
use crate::proto::slots::{Loader, Place};
use crate::status;

/// A peer never counts as silent before this, however short its slots are: people pause.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// A configured peer with its session.
pub(super) struct Peer {
    pub(super) config: config::Peer,
    /// Number of the peer in the maps: its place in the configuration, from 1 on.
    pub(super) number: u32,
    pub(super) session: Session,
    pub(super) place: Place,
    pub(super) loader: Loader,
    /// Session time minus boot time, in ns.
    pub(super) offset: u64,
    /// Boot time in ns since which `offset` is what it is.
    pub(super) since: u64,
    /// Dropped packets that came from the peer's prefix.
    dropped: BTreeMap<DropReason, u64>,
    /// Sequence numbers below this one are noted in the state file as used.
    pub(super) reserved: u64,
    /// Sequence numbers used with this clock.
    current: Range<u64>,
    /// Sequence numbers used with the clocks before.
    used: Vec<Range<u64>>,
}

/// Sequence numbers that are noted as used ahead of time: a crash costs at most these.
const RESERVE: u64 = 1 << 28;

/// Ranges that are kept; more are made into one.
const MAX_RANGES: usize = 32;

impl Peer {
    /// A session whose slots `loader` loads, whose clock has `offset`, and that sends from `sequence` on.
    pub(super) fn new(
        config: config::Peer,
        number: u32,
        session: Session,
        loader: Loader,
        offset: u64,
        sequence: u64,
        now: Reading,
    ) -> Self {
        Self {
            config,
            number,
            session,
            place: loader.place(),
            loader,
            offset,
            since: now.boot,
            dropped: BTreeMap::new(),
            reserved: sequence + RESERVE,
            current: sequence..sequence,
            used: Vec::new(),
        }
    }

    /// The same session under a new generation, with another clock.
    pub(super) fn restart(&mut self, generation: u32, offset: u64, sequence: u64, now: Reading) {
        self.place.generation = generation;
        self.loader = Loader::new(self.place, self.loader.not_before());
        self.offset = offset;
        self.since = now.boot;
        self.used.push(std::mem::replace(&mut self.current, sequence..sequence));
        if self.used.len() > MAX_RANGES {
            let (first, second) = (self.used.remove(0), &mut self.used[0]);
            *second = first.start.min(second.start)..first.end.max(second.end);
        }
    }

    /// Notes that all numbers below `sequence` are used.
    pub(super) fn note_sent(&mut self, sequence: u64) {
        self.current.end = self.current.end.max(sequence);
    }

    /// The lowest number from `seed` on that lies in no used range, and not shortly before one. Numbers must not be
    /// used twice, also when a clock goes back and slots come again.
    pub(super) fn unused_from(&self, seed: u64) -> u64 {
        let mut from = seed;
        let mut ranges: Vec<&Range<u64>> = self.used.iter().chain([&self.current]).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        for range in ranges {
            // A range that begins within the reserve ahead would be reached.
            if from < range.end && range.start < from.saturating_add(RESERVE) {
                from = range.end;
            }
        }
        from
    }

    /// Whether numbers beyond those noted may soon be used.
    pub(super) fn reserve_is_low(&self) -> bool {
        self.current.end + RESERVE / 2 > self.reserved
    }

    /// Takes more numbers as used.
    pub(super) fn reserve(&mut self) {
        self.reserved = self.reserved.max(self.current.end + RESERVE);
    }

    /// Counts a dropped packet that came from the peer's prefix.
    pub(super) fn note_drop(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// Session time in ns.
    pub(super) const fn time(&self, now: Reading) -> u64 {
        now.boot.wrapping_add(self.offset)
    }

    /// The element for the session table.
    pub(super) fn element(&self) -> abi::Session {
        let mut peer_tunnel = [[0; 16]; 2];
        let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        for (element, net) in peer_tunnel.iter_mut().zip(self.config.allowed_ips.iter().filter(single)) {
            *element = inner_address(*net);
        }
        self.session.element(self.place.generation, self.offset, self.number, peer_tunnel)
    }

    /// The inner prefixes of the peer, as the routing map has them.
    pub(super) fn routes(&self) -> impl Iterator<Item = (Destination, Route)> + '_ {
        let Place { index, generation } = self.place;
        let route = Route { session: index, generation, peer: self.number, reserved: 0 };
        self.config.allowed_ips.iter().map(move |net| (route_key(*net), route))
    }

    /// The state as the control socket tells it; `path_mtu` as in [`status::Peer::path_mtu`].
    pub(super) fn status(&self, state: &SessionState, path_mtu: Option<u32>, now: Reading) -> status::Peer {
        let time = self.time(now);
        let number = slot::number(time, self.session.phase, self.session.period);
        let (local, remote) = self.session.endpoints(number);
        let endpoint = |end: mtd_common::address::Endpoint| status::Endpoint {
            address: end.address.into(),
            port: end.port,
        };
        let silent_for = (state.rx_last_valid > 0).then(|| now.boot.saturating_sub(state.rx_last_valid));
        let peer_state = self::state(state.rx_last_valid, self.session.period, now);
        status::Peer {
            name: self.config.name.clone(),
            state: peer_state,
            mode: self.config.mode.to_string(),
            period_seconds: self.config.period.as_secs_f64(),
            slot: number,
            local: endpoint(local),
            remote: endpoint(remote),
            slots_ahead: self.loader.loaded().end.saturating_sub(number + 1),
            last_valid_seconds: silent_for.map(|ns| ns as f64 / 1e9),
            clock_offset_seconds: clock::difference(self.offset, now) as f64 / 1e9,
            received: Traffic { packets: state.rx_packets, bytes: state.rx_bytes },
            sent: Traffic { packets: state.tx_packets, bytes: state.tx_bytes },
            path_mtu,
            dropped_from_prefix: self.dropped.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect(),
            hint: self.hint(peer_state, number),
        }
    }

    fn hint(&self, state: status::PeerState, number: u64) -> Option<String> {
        if self.loader.loaded().start > number {
            return Some(
                "the last stop was not a clean one: to be safe from replays, receiving starts with a slot that \
                 had not begun then"
                    .to_owned(),
            );
        }
        if state == status::PeerState::Open {
            return None;
        }
        let most = self.dropped.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| *reason);
        Some(match most {
            None => format!(
                "nothing has come from {}: is the peer running, is its prefix configured here as it is there, and \
                 does the network deliver our prefix {}?",
                self.config.prefix, self.config.local_prefix
            ),
            Some(DropReason::UnknownAddress) => "packets come from the peer's prefix, but to addresses that this \
                session never has: compare key, seeds, period, mode and prefixes on both ends, then both clocks"
                .to_owned(),
            Some(DropReason::StaleSlot) => {
                "packets come from the peer, but for other slots: the clocks of the two ends disagree".to_owned()
            }
            Some(reason) => format!("packets come from the peer's prefix, but are dropped: {}", reason.help()),
        })
    }
}

/// The state of a session with slots of `period` ns whose last valid packet came at boot time `last_valid` (0: none yet).
pub(super) fn state(last_valid: u64, period: u64, now: Reading) -> status::PeerState {
    let silent_for = now.boot.saturating_sub(last_valid);
    if last_valid == 0 {
        status::PeerState::Waiting
    } else if Duration::from_nanos(silent_for) > SILENT_AFTER && silent_for > clock::silence(period) {
        status::PeerState::Silent
    } else {
        status::PeerState::Open
    }
}

fn inner_address(net: IpNet) -> [u8; 16] {
    match net {
        IpNet::V4(net) => mapped(net.network().octets()),
        IpNet::V6(net) => net.network().octets(),
    }
}

/// Prefix length in bits of the key, and key, of an inner prefix.
pub(super) fn route_key(net: IpNet) -> Destination {
    let (version, skipped) = if matches!(net, IpNet::V4(_)) { (4, 96) } else { (6, 0) };
    (
        abi::ROUTE_KEY_FAMILY_BITS + skipped + u32::from(net.prefix_len()),
        abi::route_key(version, &inner_address(net)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_repeats_no_sequence_number() {
        let text = "interface = \"eth0\"\nprefix = \"2001:db8:1::/64\"\naddress = [\"fd00::1/64\"]\n[[peer]]\n\
                    name = \"p\"\nprefix = \"2001:db8:2::/64\"\nkey_file = \"k\"\nseed = \"0000000000000001\"\n\
                    peer_seed = \"0000000000000002\"\nallowed_ips = [\"fd00::2/128\"]\n";
        let parsed = config::Config::parse(text, "test").unwrap().peers.remove(0);
        let config = parsed.with_key(crate::keys::SecretKey::from_bytes([7; 32]));
        let session = Session::new(&config);
        let place = Place { index: 0, generation: 1 };
        let now = Reading { boot: 0, wall: 0 };
        let mut peer = Peer::new(config, 1, session, Loader::new(place, 0), 0, 1_000_000, now);
        peer.note_sent(1_500_000);
        assert_eq!(peer.unused_from(1_200_000), 1_500_000, "inside the range in use");
        assert_eq!(peer.unused_from(900_000), 1_500_000, "shortly before it");
        assert_eq!(peer.unused_from(2_000_000), 2_000_000, "behind it");
        peer.restart(2, 0, RESERVE * 10, now);
        peer.note_sent(RESERVE * 10 + 5);
        assert_eq!(peer.unused_from(1_200_000), 1_500_000, "also of clocks before the last one");
        assert_eq!(peer.unused_from(RESERVE * 10 - 1), RESERVE * 10 + 5);
        assert!(peer.reserve_is_low());
        peer.reserve();
        assert!(!peer.reserve_is_low());
        for n in 0..100 {
            peer.restart(3 + n, 0, RESERVE * (20 + u64::from(n)), now);
        }
        assert!(peer.used.len() <= MAX_RANGES);
        assert!(
            peer.unused_from(1_200_000) >= 1_500_000,
            "ranges made into one hold all that they were made of"
        );
    }

    #[test]
    fn prefixes_of_both_families_have_keys_of_their_own() {
        let (length, key) = route_key("::/0".parse().unwrap());
        assert_eq!((length, key[0]), (32, 6));
        let (length, key) = route_key("10.1.2.0/24".parse().unwrap());
        assert_eq!((length, key[0]), (32 + 96 + 24, 4));
        assert_eq!(key[14..], [0xff, 0xff, 10, 1, 2, 0]);
        let (length, _) = route_key("fd00::1/128".parse().unwrap());
        assert_eq!(length, 160);
    }
}
