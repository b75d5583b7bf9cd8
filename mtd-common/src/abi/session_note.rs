//! Elements of the array map `SESSION_NOTES`: the data that a controller needs to go on with a session that another one
//! negotiated. The programs do not read them.

use core::mem::{offset_of, size_of};

/// [`SessionNote::role`]: no session is noted.
pub const ROLE_NONE: u32 = 0;
/// [`SessionNote::role`]: this end was the client.
pub const ROLE_CLIENT: u32 = 1;
/// [`SessionNote::role`]: this end was the server.
pub const ROLE_SERVER: u32 = 2;

/// A negotiated session, in addition to its element of `SESSIONS`. All zero: none.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionNote {
    /// [`crate::abi::Session::generation`] of the session that this note describes; it is invalid for any other.
    pub generation: u32,
    /// [`ROLE_NONE`], [`ROLE_CLIENT`] or [`ROLE_SERVER`].
    pub role: u32,
    /// Key that addresses are derived from.
    pub address_key: [u8; 32],
    /// Public key of the peer.
    pub peer_key: [u8; 32],
    /// Own prefix; host bits zero.
    pub local_prefix: [u8; 16],
    /// The peer's prefix; host bits zero.
    pub remote_prefix: [u8; 16],
    /// Own seed.
    pub local_seed: [u8; 8],
    /// The peer's seed.
    pub remote_seed: [u8; 8],
    /// Length of the own prefix in bits.
    pub local_length: u8,
    /// Length of the peer's prefix in bits.
    pub remote_length: u8,
    /// Padding.
    pub reserved: [u8; 6],
    /// `CLOCK_BOOTTIME` in ns at which the session started.
    pub started: u64,
    /// Session time in ns after which no slot may be live.
    pub expires: u64,
    /// Own inner addresses: IPv6, then IPv4 as `::ffff:a.b.c.d`; zero: none.
    pub local_tunnel: [[u8; 16]; 2],
    /// The peer's inner addresses: IPv6, then IPv4 as `::ffff:a.b.c.d`; zero: none.
    pub remote_tunnel: [[u8; 16]; 2],
}

const _: () = {
    assert!(size_of::<SessionNote>() == 208);
    assert!(offset_of!(SessionNote, address_key) == 8);
    assert!(offset_of!(SessionNote, peer_key) == 40);
    assert!(offset_of!(SessionNote, local_prefix) == 72);
    assert!(offset_of!(SessionNote, local_seed) == 104);
    assert!(offset_of!(SessionNote, local_length) == 120);
    assert!(offset_of!(SessionNote, started) == 128);
    assert!(offset_of!(SessionNote, expires) == 136);
    assert!(offset_of!(SessionNote, local_tunnel) == 144);
    assert!(offset_of!(SessionNote, remote_tunnel) == 176);
};

/// Shows neither keys nor seeds.
impl core::fmt::Debug for SessionNote {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SessionNote")
            .field("generation", &self.generation)
            .field("role", &self.role)
            .field("started", &self.started)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

// SAFETY: `repr(C)`, no implicit padding (asserted above), every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SessionNote {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_shows_no_key() {
        let note = SessionNote {
            address_key: [0xab; 32],
            peer_key: [0xcd; 32],
            local_seed: [0xef; 8],
            remote_seed: [0xef; 8],
            ..SessionNote::default()
        };
        let text = format!("{note:?} {note:#x?}");
        for number in ["171", "205", "239", "0xab", "0xcd", "0xef"] {
            assert!(!text.contains(number), "{text}");
        }
    }
}
