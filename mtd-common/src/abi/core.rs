//! The sessions and their addresses: the layout of every session.

use core::mem::{offset_of, size_of};

use super::Steering;
use crate::bytes::part_mut;
use crate::heard;
use crate::meter::Meter;
use crate::packet::OVERHEAD;
use crate::table::Layout;
use crate::window::WINDOW_WORDS;

/// Version of the layouts in this module, of [`super::session_note`] and of [`crate::table`]. Up to 5, one version stood for
/// the layouts of all groups.
pub const VERSION: u32 = 7;

/// Most protected prefixes that one data plane serves.
pub const MAX_PREFIXES: usize = 4;

/// Most sessions that may have the same address at the same time (requirement MT-07).
pub const MAX_SHARED: usize = 4;

/// Settings of one attached data plane: the only element of the array map `DATAPLANE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dataplane {
    /// Interface index of `mtd0x`, the inside end of the veth pair, where opened packets are handed over.
    pub tunnel_ifindex: u32,
    /// Interface index of the underlay.
    pub underlay_ifindex: u32,
    /// Binary logarithm of the number of elements that each session has in `SLOTS`.
    pub ring_bits: u32,
    /// Number of valid elements of `prefixes`.
    pub prefix_count: u32,
    /// [`FLAG_ON_LINK`], [`FLAG_SHARED`], [`FLAG_SINGLE`].
    pub flags: u32,
    /// Longest inner packet in bytes that is sealed or opened.
    pub inner_mtu: u32,
    /// MAC address of `mtd0`: what the kernel must see as destination of an opened packet.
    pub tunnel_mac: [u8; 6],
    /// MAC address of the underlay, for neighbour advertisements.
    pub underlay_mac: [u8; 6],
    /// Mark of the outer packets, by which the kernel's routing rules know them; 0: they have none.
    pub fwmark: u32,
    /// Protected prefixes; the elements after `prefix_count` are zero.
    pub prefixes: [Prefix; MAX_PREFIXES],
    /// The table of addresses.
    pub table: Layout,
}

impl Dataplane {
    /// Whether neighbour solicitations for live addresses are answered.
    #[inline(always)]
    pub const fn answers_solicitations(&self) -> bool {
        self.flags & (FLAG_ON_LINK | FLAG_SHARED) != 0
    }

    /// Whether packets for addresses that are not live pass.
    #[inline(always)]
    pub const fn is_shared(&self) -> bool {
        self.flags & FLAG_SHARED != 0
    }

    /// Whether ports alone move.
    #[inline(always)]
    pub const fn has_single_addresses(&self) -> bool {
        self.flags & FLAG_SINGLE != 0
    }
}

/// Answer neighbour solicitations for live addresses ([`Dataplane::flags`], requirement MT-09).
pub const FLAG_ON_LINK: u32 = 1;

/// The prefixes are shared with ordinary hosts, and with ordinary addresses of this one ([`Dataplane::flags`]): packets for
/// addresses that are not live pass to the kernel. Solicitations for live addresses are answered, as with [`FLAG_ON_LINK`].
pub const FLAG_SHARED: u32 = 2;

/// The prefixes are single addresses of this host, of 128 bits: ports alone move ([`Dataplane::flags`], always with
/// [`FLAG_SHARED`]). What does not come from a live peer to a live port passes to the kernel, and the kernel answers
/// solicitations. The table of addresses goes by address and port ([`crate::table::with_port`]).
pub const FLAG_SINGLE: u32 = 4;

/// A protected prefix of 64 to 112 bits (requirement MT-06), or a single address ([`FLAG_SINGLE`]).
///
/// The fields hold the bytes of the address as they lie in memory (network order), read as native integers, so
/// that the programs compare without swapping bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes 0–7 of the prefix.
    pub high: u64,
    /// Bytes 8–15 of the prefix; host bits zero.
    pub low: u64,
    /// Mask over `low`: ones for the bits of the prefix.
    pub mask: u64,
}

/// Element of the array map `SLOTS`, at index `session << ring_bits | slot & (1 << ring_bits) - 1`: the addresses of one
/// slot of a session. Sending goes by the slot's number; for receiving, the table of addresses ([`crate::table`]) leads here.
/// The upper halves of the addresses are the session's ([`Session::local_high`], [`Session::peer_high`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Slot number.
    pub slot: u64,
    /// Bytes 8–15 of the own address, network order.
    pub local_low: [u8; 8],
    /// Bytes 8–15 of the peer's address, network order.
    pub peer_low: [u8; 8],
    /// Own UDP port, network order.
    pub local_port: [u8; 2],
    /// The peer's UDP port, network order.
    pub peer_port: [u8; 2],
    /// [`Session::generation`] that this element belongs to; another one means that the session has ended.
    pub generation: u32,
}

/// Keys of one direction of a session. All zero once the session has ended.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectionKeys {
    /// ChaCha20-Poly1305 key.
    pub seal: [u8; 32],
    /// SipHash-2-4 key that masks the sequence number.
    pub mask: [u8; 16],
}

/// Says only that there are keys: a debug print must never show them.
impl core::fmt::Debug for DirectionKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DirectionKeys(..)")
    }
}

/// Element of the array map `SESSIONS`; written by the controller only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// 0: no session in this element. Never used twice for one index during the lifetime of the maps.
    pub generation: u32,
    /// [`MODE_ENCRYPT`], [`MODE_AUTHENTICATE`] or [`MODE_INTRODUCTION`].
    pub mode: u32,
    /// Number of the peer, the same in all sessions with it, so that packets of an old session pass when routes already name
    /// the new one. 0: no peer; only the inner sources of `peer_tunnel` are allowed.
    pub peer: u32,
    /// [`FLAG_ANYBODY`], [`FLAG_HEARD`].
    pub flags: u32,
    /// Session time in ns = `CLOCK_BOOTTIME` in ns + this (wrapping).
    pub clock_offset: u64,
    /// Slot length in ns; never 0 in a session.
    pub period: u64,
    /// Added to the session time before the division by `period`.
    pub phase: u64,
    /// Session time in ns from which on no slot is live.
    pub until: u64,
    /// Bytes 0–7 of the own addresses, network order: no prefix is shorter than 64 bits.
    pub local_high: [u8; 8],
    /// Bytes 0–7 of the peer's addresses, network order.
    pub peer_high: [u8; 8],
    /// Keys that open what the peer sends.
    pub rx: DirectionKeys,
    /// Keys that seal what we send.
    pub tx: DirectionKeys,
    /// Up to two inner addresses of the peer (IPv4 as `::ffff:a.b.c.d`, zero: none), which saves most packets a
    /// look-up in `ROUTES`.
    pub peer_tunnel: [[u8; 16]; 2],
}

/// [`Session::flags`]: any address and any port may send: the server's end of an introduction, which does not know its
/// clients' prefixes, and of a session whose client a router translates. Nothing is sent but to where it was heard.
pub const FLAG_ANYBODY: u32 = 1;

/// [`Session::flags`]: the peer asks to be answered where it was heard ([`crate::heard`]), since something on its side lets in
/// only answers. Packets go out in the newest slot up to the present one in which it was heard, at most one back.
pub const FLAG_HEARD: u32 = 2;

/// [`Session::mode`]: inner packets are encrypted and authenticated.
pub const MODE_ENCRYPT: u32 = 1;
/// [`Session::mode`]: inner packets are readable on the wire, and authenticated.
pub const MODE_AUTHENTICATE: u32 = 2;
/// [`Session::mode`]: an introduction. Encrypted as with [`MODE_ENCRYPT`]; sequence numbers are random, replays are
/// recognised by their tag, and nothing but control messages is carried.
pub const MODE_INTRODUCTION: u32 = 3;

/// Element of the array map `SESSION_STATE`; written by the programs, by atomic operations only, except for fields marked as
/// written by the controller. Sending and receiving have cache lines of their own.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Next sequence number to send.
    pub tx_sequence: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Written by the controller: the lane in which the key stream of packets to send is made ahead, plus 1; 0: none
    /// (see [`crate::keystream`]).
    pub tx_lane: u64,
    /// `CLOCK_BOOTTIME` in ns at which key stream for packets to send was last due ([`crate::keystream::is_turn`]).
    pub tx_turn: u64,
    /// The same for packets received. It is in this cache line because it is seldom written, and the next one is full.
    pub rx_turn: u64,
    /// Written by the controller: bytes of the longest inner packet that the path to the peer carries; 0: whatever the
    /// interface carries. A longer inner IPv6 packet is cut in two.
    pub tx_longest: u64,
    /// Inner packets sent that the least path of IPv6 would not carry ([`LEAST_PATH`]); control messages do not count.
    pub tx_long: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// `CLOCK_BOOTTIME` in ns of the last valid packet; 0: none yet.
    pub rx_last_valid: u64,
    /// Written by the controller: slots before this one are never loaded, since an earlier controller whose memory is lost
    /// may have accepted packets for them. It is here so that the next controller finds it too.
    pub rx_not_before: u64,
    /// The limit on control messages ([`CONTROL_METER`]): `CLOCK_BOOTTIME` in ns at which it will be unused again.
    pub rx_control: u64,
    /// Packets that another CPU has taken over from the receiving one: see [`Steering::handed`].
    pub rx_taken: u64,
    /// The highest sequence number received: see [`crate::window`].
    pub rx_highest: u64,
    /// Written by the controller: as `tx_lane`, for packets received.
    pub rx_lane: u64,
    /// Which sequence numbers are used: see [`crate::window`].
    pub window: [u64; WINDOW_WORDS],
    /// State for the choice of the CPU on which packets are opened.
    pub steering: Steering,
    /// Fills the cache line.
    pub reserved: u64,
    /// In which slots the peer was heard, and where from.
    pub heard: heard::Ring,
}

/// Bytes of the longest inner packet that any outer path carries: 1,280 (RFC 8200, section 5) without mtd's headers.
pub const LEAST_PATH: usize = 1280 - OVERHEAD;

/// Limit on the control messages of one session that reach the controller: 20 a second, 40 at once. A client that keeps to
/// the protocol sends one every few seconds; a session that floods does not delay the messages of others.
pub const CONTROL_METER: Meter = Meter { interval: 50_000_000, burst: 40 };

impl Default for SessionState {
    fn default() -> Self {
        Self {
            tx_sequence: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_lane: 0,
            tx_turn: 0,
            rx_turn: 0,
            tx_longest: 0,
            tx_long: 0,
            rx_packets: 0,
            rx_bytes: 0,
            rx_last_valid: 0,
            rx_not_before: 0,
            rx_control: 0,
            rx_taken: 0,
            rx_highest: 0,
            rx_lane: 0,
            window: [0; WINDOW_WORDS],
            steering: Steering::default(),
            reserved: 0,
            heard: heard::Ring::default(),
        }
    }
}

/// Key of the longest-prefix map `ROUTES`: the IP version, so that `::/0` holds no IPv4 address, three zeros, which
/// keep words aligned on the stack of the programs, then 16 address bytes (IPv4 as `::ffff:a.b.c.d`).
pub type RouteKey = [u8; 20];

/// Number of bits of a [`RouteKey`] before the address.
pub const ROUTE_KEY_FAMILY_BITS: u32 = 32;

/// The key of an inner address.
#[inline(always)]
pub const fn route_key(version: u8, address: &[u8; 16]) -> RouteKey {
    let mut key = [0; 20];
    key[0] = version;
    *part_mut::<4, 16, 20>(&mut key) = *address;
    key
}

/// Value of the longest-prefix map `ROUTES`: the session to which an inner destination is sent, and the peer from which an
/// inner source may come, in any session with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Index into `SESSIONS`.
    pub session: u32,
    /// [`Session::generation`].
    pub generation: u32,
    /// [`Session::peer`].
    pub peer: u32,
    /// Padding.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<Prefix>() == 24);
    assert!(size_of::<Dataplane>() == 168);
    assert!(offset_of!(Dataplane, tunnel_mac) == 24);
    assert!(offset_of!(Dataplane, fwmark) == 36);
    assert!(offset_of!(Dataplane, prefixes) == 40);
    assert!(offset_of!(Dataplane, table) == 136);
    assert!(size_of::<Slot>() == 32);
    assert!(offset_of!(Slot, peer_low) == 16);
    assert!(offset_of!(Slot, generation) == 28);
    assert!(size_of::<DirectionKeys>() == 48);
    assert!(size_of::<Session>() == 192);
    assert!(offset_of!(Session, peer) == 8);
    assert!(offset_of!(Session, clock_offset) == 16);
    assert!(offset_of!(Session, until) == 40);
    assert!(offset_of!(Session, peer_high) == 56);
    assert!(offset_of!(Session, rx) == 64);
    assert!(offset_of!(Session, tx) == 112);
    assert!(offset_of!(Session, peer_tunnel) == 160);
    assert!(size_of::<SessionState>() == 576);
    assert!(offset_of!(SessionState, tx_lane) == 24);
    assert!(offset_of!(SessionState, rx_packets) == 64);
    assert!(offset_of!(SessionState, rx_control) == 96);
    assert!(offset_of!(SessionState, rx_taken) == 104);
    assert!(offset_of!(SessionState, rx_highest) == 112);
    assert!(offset_of!(SessionState, rx_lane) == 120);
    assert!(offset_of!(SessionState, window) == 128);
    assert!(offset_of!(SessionState, steering) == 392);
    assert!(offset_of!(SessionState, heard) == 448);
    assert!(size_of::<Route>() == 16);
    assert!(offset_of!(Route, peer) == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_shows_no_key() {
        let keys = DirectionKeys { seal: [0xab; 32], mask: [0xcd; 16] };
        let text = format!("{:?}", Session { rx: keys, tx: keys, ..Session::default() });
        assert!(!text.contains("171") && !text.contains("205") && !text.to_lowercase().contains("ab, "));
    }
}
