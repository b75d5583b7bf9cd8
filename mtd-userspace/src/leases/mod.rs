//! Tunnel addresses of registered clients: the same for a client each time, as long as it is registered and, while
//! there is room, beyond that.
//!
//! IPv6 addresses are derived from the client's public key; IPv4 addresses are the first free ones. Fixed addresses in the
//! configuration take precedence. Nothing here reads a clock: the time of a call is in Unix seconds.

mod file;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

use crate::keys::PublicKey;
use crate::model::{Pool, TunnelAddresses};

pub use file::LeaseFileError;

/// The label that separates this hash from others.
const LABEL: &[u8] = b"mtd v1 tunnel address";

/// Number of addresses that are derived from a key before the following ones are tried in order: all of them are taken only
/// in a pool that is nearly full.
const DERIVED: u32 = 64;

/// Number of addresses that are tried in order: more than there can be clients.
const IN_ORDER: u128 = 1 << 21;

/// Number of identifiers at the top of a subnet that are reserved (RFC 2526).
const RESERVED_TOP: u128 = 128;

/// No address is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {pool}; make the pool in [listen] larger, or remove clients")]
pub struct Exhausted {
    /// The pool without a free address.
    pub pool: IpNet,
}

/// Addresses of one client from the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lease {
    addresses: TunnelAddresses,
    /// Unix time in s since which the client is not registered any more.
    released: Option<u64>,
}

/// The tunnel addresses of all clients.
#[derive(Clone, Debug)]
pub struct Leases {
    pool: Pool,
    reserved: Reserved,
    fixed: HashMap<PublicKey, TunnelAddresses>,
    /// Without the families in which a client has a fixed address.
    leased: HashMap<PublicKey, Lease>,
    /// The client of each address, fixed or not.
    holders: HashMap<IpAddr, PublicKey>,
    /// Leases of clients that are not registered any more, the oldest first.
    released: BTreeSet<(u64, PublicKey)>,
    /// No IPv4 address below this one is free.
    first_v4: u32,
    /// Whether there are changes that are not in the file yet.
    changed: bool,
}

impl Leases {
    /// Starts without leases. Addresses in `reserved` (own addresses and networks of others) are never leased. A network in
    /// it that contains the whole pool is ignored.
    pub fn new(pool: Pool, reserved: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            pool,
            reserved: Reserved::new(pool, reserved),
            fixed: HashMap::new(),
            leased: HashMap::new(),
            holders: HashMap::new(),
            released: BTreeSet::new(),
            first_v4: 0,
            changed: false,
        }
    }

    /// Replaces the fixed addresses, which need not be in the pool. Returns the clients whose address from the pool now
    /// belongs to another client: their addresses are void, and [`Leases::lease`] gives them others.
    pub fn set_fixed(
        &mut self,
        fixed: impl IntoIterator<Item = (PublicKey, TunnelAddresses)>,
    ) -> Vec<PublicKey> {
        for (key, addresses) in std::mem::take(&mut self.fixed) {
            for address in addresses.iter() {
                self.free(address, &key);
            }
        }
        let mut evicted = Vec::new();
        for (key, addresses) in fixed {
            let leased = self.leased.get(&key).map(|lease| lease.addresses).unwrap_or_default();
            let superseded =
                leased.iter().filter(|old| addresses.iter().any(|a| a.is_ipv4() == old.is_ipv4()));
            for address in superseded {
                self.take_back(&key, address);
                self.free(address, &key);
            }
            for address in addresses.iter() {
                let holder = self.holders.get(&address).copied();
                if let Some(holder) = holder
                    && self.take_back(&holder, address)
                {
                    evicted.push(holder);
                }
                self.holders.insert(address, key);
            }
            self.fixed.insert(key, addresses);
        }
        evicted.sort_unstable();
        evicted.dedup();
        evicted
    }

    /// The addresses of a registered client: in each family its fixed address, otherwise one of the pool if the pool has the
    /// family.
    ///
    /// # Errors
    /// [`Exhausted`] when the pool has no address left, including those of clients that are not registered any more.
    pub fn lease(&mut self, key: &PublicKey) -> Result<TunnelAddresses, Exhausted> {
        self.claim(key);
        let fixed = self.fixed.get(key).copied().unwrap_or_default();
        let mut addresses = self.leased.get(key).map(|lease| lease.addresses).unwrap_or_default();
        if let (Some(pool), None, None) = (self.pool.v6, fixed.v6, addresses.v6) {
            let address = self.find(pool.into(), |leases| leases.free_v6(pool, key).map(IpAddr::V6))?;
            addresses = self.note(key, address);
        }
        if let (Some(pool), None, None) = (self.pool.v4, fixed.v4, addresses.v4) {
            let address = self.find(pool.into(), |leases| leases.free_v4(pool).map(IpAddr::V4))?;
            addresses = self.note(key, address);
        }
        Ok(TunnelAddresses { v6: fixed.v6.or(addresses.v6), v4: fixed.v4.or(addresses.v4) })
    }

    /// The present addresses of a client; no new ones are leased.
    pub fn get(&self, key: &PublicKey) -> TunnelAddresses {
        let fixed = self.fixed.get(key).copied().unwrap_or_default();
        let leased = self.leased.get(key).map(|lease| lease.addresses).unwrap_or_default();
        TunnelAddresses { v6: fixed.v6.or(leased.v6), v4: fixed.v4.or(leased.v4) }
    }

    /// Notes that a client is not registered any more: others may get its addresses, longest unregistered first.
    pub fn release(&mut self, key: &PublicKey, now: u64) {
        if let Some(lease) = self.leased.get_mut(key)
            && lease.released.is_none()
        {
            lease.released = Some(now);
            self.released.insert((now, *key));
            self.changed = true;
        }
    }

    /// Releases the leases of clients that are not registered: they may have been removed while no controller ran.
    pub fn release_all_but(&mut self, is_registered: impl Fn(&PublicKey) -> bool, now: u64) {
        let gone: Vec<_> = self.leased.keys().filter(|key| !is_registered(key)).copied().collect();
        for key in gone {
            self.release(&key, now);
        }
    }

    /// Whether there are changes that are not in the file yet.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The client is registered: it keeps its lease.
    fn claim(&mut self, key: &PublicKey) {
        if let Some(lease) = self.leased.get_mut(key)
            && let Some(since) = lease.released.take()
        {
            self.released.remove(&(since, *key));
            self.changed = true;
        }
    }

    /// An address of the pool that is free, or becomes free when the oldest released lease is given up.
    fn find(&mut self, pool: IpNet, free: impl Fn(&mut Self) -> Option<IpAddr>) -> Result<IpAddr, Exhausted> {
        if let Some(address) = free(self) {
            return Ok(address);
        }
        let of_pool = |addresses: TunnelAddresses| addresses.iter().find(|address| pool.contains(address));
        let released = self.released.iter().map(|(_, key)| *key);
        let mut reusable = released.filter_map(|key| Some((key, of_pool(self.leased.get(&key)?.addresses)?)));
        let (key, address) = reusable.next().ok_or(Exhausted { pool })?;
        self.take_back(&key, address);
        self.free(address, &key);
        Ok(address)
    }

    /// The first free address that is derived from the key.
    fn free_v6(&self, pool: Ipv6Net, key: &PublicKey) -> Option<Ipv6Addr> {
        let mask = u128::MAX >> pool.prefix_len();
        let address = |host: u128| Ipv6Addr::from(u128::from(pool.network()) | (host & mask));
        let mut last = 0;
        for attempt in 0..DERIVED {
            let hash = Sha256::new()
                .chain_update(LABEL)
                .chain_update(key.as_bytes())
                .chain_update(attempt.to_be_bytes())
                .finalize();
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hash[..16]);
            last = u128::from_be_bytes(bytes) & mask;
            if self.is_free_v6(mask, last, address(last)) {
                return Some(address(last));
            }
        }
        (1..=mask.min(IN_ORDER))
            .map(|step| last.wrapping_add(step) & mask)
            .find(|host| self.is_free_v6(mask, *host, address(*host)))
            .map(address)
    }

    fn is_free_v6(&self, mask: u128, host: u128, address: Ipv6Addr) -> bool {
        // The subnet-router anycast address (RFC 4291, section 2.6.1) and those of RFC 2526, in both forms.
        let low = host as u64;
        let reserved = host == 0
            || host > mask - RESERVED_TOP
            || mask == u128::from(u64::MAX) && (0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff).contains(&low);
        let address = IpAddr::V6(address);
        !reserved && !self.holders.contains_key(&address) && self.reserved.find(address).is_none()
    }

    /// The lowest address that is free.
    fn free_v4(&mut self, pool: Ipv4Net) -> Option<Ipv4Addr> {
        let last = u32::from(pool.broadcast()) - 1;
        let mut candidate = self.first_v4.max(u32::from(pool.network()) + 1);
        while candidate <= last {
            let address = IpAddr::V4(candidate.into());
            if let Some(end) = self.reserved.find(address) {
                candidate = end.checked_add(1)?;
            } else if self.holders.contains_key(&address) {
                candidate += 1;
            } else {
                self.first_v4 = candidate;
                return Some(candidate.into());
            }
        }
        self.first_v4 = candidate;
        None
    }

    /// Leases a free address to a client.
    fn note(&mut self, key: &PublicKey, address: IpAddr) -> TunnelAddresses {
        self.changed = true;
        self.holders.insert(address, *key);
        let lease = self.leased.entry(*key).or_default();
        match address {
            IpAddr::V6(v6) => lease.addresses.v6 = Some(v6),
            IpAddr::V4(v4) => lease.addresses.v4 = Some(v4),
        }
        lease.addresses
    }

    /// Removes an address from the lease of a client. False if the lease did not contain it.
    fn take_back(&mut self, key: &PublicKey, address: IpAddr) -> bool {
        let Some(lease) = self.leased.get_mut(key) else { return false };
        match address {
            IpAddr::V6(v6) if lease.addresses.v6 == Some(v6) => lease.addresses.v6 = None,
            IpAddr::V4(v4) if lease.addresses.v4 == Some(v4) => lease.addresses.v4 = None,
            _ => return false,
        }
        self.changed = true;
        if lease.addresses == TunnelAddresses::default() {
            let released = lease.released;
            self.leased.remove(key);
            if let Some(since) = released {
                self.released.remove(&(since, *key));
            }
        }
        true
    }

    /// Frees an address of this client.
    fn free(&mut self, address: IpAddr, key: &PublicKey) {
        if self.holders.get(&address) == Some(key) {
            self.holders.remove(&address);
            if let IpAddr::V4(v4) = address {
                self.first_v4 = self.first_v4.min(v4.into());
            }
        }
    }

    /// Restores a lease from the file, as far as it is still valid.
    fn restore(&mut self, key: PublicKey, lease: Lease) {
        for address in lease.addresses.iter() {
            let in_pool = self.pool.networks().any(|pool| pool.contains(&address));
            if in_pool && !self.holders.contains_key(&address) && self.reserved.find(address).is_none() {
                self.note(&key, address);
            }
        }
        if let Some(since) = lease.released {
            self.release(&key, since);
        }
    }
}

/// Addresses that are never leased.
#[derive(Clone, Debug)]
struct Reserved {
    hosts: HashSet<IpAddr>,
    networks: Vec<IpNet>,
}

impl Reserved {
    fn new(pool: Pool, reserved: impl IntoIterator<Item = IpNet>) -> Self {
        let (hosts, networks): (Vec<_>, Vec<_>) =
            reserved.into_iter().partition(|net| net.prefix_len() == net.max_prefix_len());
        let inside = |net: &IpNet| pool.networks().any(|pool| pool.contains(net) && pool != *net);
        Self {
            hosts: hosts.iter().map(IpNet::addr).collect(),
            networks: networks.into_iter().filter(inside).collect(),
        }
    }

    /// The end of the reserved range that contains an address: for IPv4 the last address, for IPv6 any number.
    fn find(&self, address: IpAddr) -> Option<u32> {
        let end = |address: IpAddr| if let IpAddr::V4(v4) = address { v4.into() } else { 0 };
        if self.hosts.contains(&address) {
            return Some(end(address));
        }
        self.networks.iter().find(|net| net.contains(&address)).map(|net| end(net.broadcast()))
    }
}

#[cfg(test)]
mod tests;
