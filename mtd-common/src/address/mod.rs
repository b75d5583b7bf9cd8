//! Derivation of addresses and ports (requirements MT-01 … MT-07). Runs in user space only: the programs see the
//! results.

use sha2::{Digest, Sha256};

/// Length in bits of a protected prefix: 64 to 112 (requirement MT-06).
pub const PREFIX_LENGTHS: core::ops::RangeInclusive<u8> = 64..=112;

/// Length in bits of the prefix of an end that has a single address, so that its ports alone move.
pub const SINGLE_ADDRESS: u8 = 128;

/// Whether an end can have a prefix of this length in bits.
pub const fn is_prefix_length(length: u8) -> bool {
    *PREFIX_LENGTHS.start() <= length && length <= *PREFIX_LENGTHS.end() || length == SINGLE_ADDRESS
}

/// Lowest port that is derived (requirement MT-02).
pub const MIN_PORT: u16 = 1024;

/// How many candidates for an address are tried. The probability that all of them are unfit is below 2^-60.
const CANDIDATES: u8 = 8;

/// The routing prefix of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Address bytes; host bits zero.
    pub prefix: [u8; 16],
    /// Prefix length in bits: see [`is_prefix_length`].
    pub length: u8,
}

impl Network {
    /// Ones for the host bits of the lower half of an address, as a big-endian integer.
    const fn host_mask(self) -> u64 {
        self.host_bits(u64::MAX)
    }

    /// The leading bits of an identifier, as many as there are host bits, at their place in the lower half of an address.
    const fn host_bits(self, iid: u64) -> u64 {
        match iid.checked_shr(self.length as u32 - 64) {
            Some(host) => host,
            None => 0,
        }
    }

    /// The address with this identifier: the identifier's leading bits fill the host bits (requirement MT-06).
    fn address(self, iid: u64) -> [u8; 16] {
        let [prefix_high, prefix_low] = halves(self.prefix);
        let host = self.host_bits(iid);
        let mut address = [0; 16];
        address[..8].copy_from_slice(&prefix_high.to_be_bytes());
        address[8..].copy_from_slice(&(prefix_low & !self.host_mask() | host).to_be_bytes());
        address
    }

    /// Whether the address is reserved in every subnet: the subnet-router anycast address (RFC 4291 section 2.6.1),
    /// the 128 highest identifiers (RFC 2526), those of RFC 5453's registry. A single address is what it is.
    fn reserved(self, address: [u8; 16]) -> bool {
        if self.length == SINGLE_ADDRESS {
            return false;
        }
        let mask = self.host_mask();
        let host = halves(address)[1] & mask;
        host == 0
            || host >= mask - 0x7f
            || self.length == 64
                && ((0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff).contains(&host)
                    || (0x0200_5eff_fe00_0000..=0x0200_5eff_feff_ffff).contains(&host))
    }
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let address = u128::from_be_bytes(address);
    [(address >> 64) as u64, address as u64]
}

/// One end of a session: where it is, and the identifier that its addresses are derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Routing prefix.
    pub network: Network,
    /// Seed interface identifier, 8 bytes.
    pub seed: [u8; 8],
}

/// Address and UDP port of one end in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// IPv6 address.
    pub address: [u8; 16],
    /// UDP port, host order.
    pub port: u16,
}

/// `SHA-256(seed || key || slot)` for candidate 0 (requirement MT-01); for candidate n > 0 one more byte, with the
/// value n, is hashed.
fn digest(seed: [u8; 8], key: &[u8; 32], slot: u64, candidate: u8) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed);
    hash.update(key);
    hash.update(slot.to_be_bytes());
    if candidate > 0 {
        hash.update([candidate]);
    }
    hash.finalize().into()
}

fn endpoint(network: Network, digest: &[u8; 32]) -> Endpoint {
    let (Some(iid), Some(port)) = (digest.first_chunk::<8>(), digest[8..].first_chunk::<4>()) else {
        unreachable!("a digest has 32 bytes")
    };
    // Bytes 8–11, scaled to the range: the bias is below 2^-16 (requirement MT-02).
    let span = u64::from(u16::MAX - MIN_PORT) + 1;
    let scaled = (u64::from(u32::from_be_bytes(*port)) * span) >> 32;
    Endpoint { address: network.address(u64::from_be_bytes(*iid)), port: MIN_PORT + scaled as u16 }
}

/// The endpoints of both ends in a slot. `first` is the end with the lower seed, `key` the 32-byte addressing key.
///
/// An end skips candidates that both ends can recognise as unfit (requirement MT-07): addresses that are reserved,
/// and, for the second end, the first end's address. Equal addresses of *different* sessions are not skipped:
/// the receiver tells them apart by the peer's address and ports (`crate::table`).
pub fn endpoints(first: &End, second: &End, key: &[u8; 32], slot: u64) -> (Endpoint, Endpoint) {
    let derive = |end: &End, taken: Option<[u8; 16]>| {
        let mut candidate = 0;
        loop {
            let found = endpoint(end.network, &digest(end.seed, key, slot, candidate));
            let unfit = end.network.reserved(found.address) || Some(found.address) == taken;
            if !unfit || candidate == CANDIDATES {
                return found;
            }
            candidate += 1;
        }
    };
    let a = derive(first, None);
    let b = derive(second, Some(a.address));
    (a, b)
}

#[cfg(test)]
mod tests;
