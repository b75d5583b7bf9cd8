//! Key stream that is computed before its packets come (`docs/keystream.md`).
//!
//! ChaCha20 in BPF costs several times what it costs in user space, which has vector instructions; and the key stream
//! of a session's next packets is known, since their nonces count up. So a thread of the controller computes it for a
//! few busy sessions and writes it to the array map `KEYSTREAM`. Each direction of such a session has a *lane*, a
//! ring of [`RING`] elements. A packet whose
//! element is not there is sealed or opened by the cipher in BPF.
//!
//! An element is used only if it is marked for this very packet, and is still the same when the packet is done: a packet
//! never goes out under the key stream of another one.

use core::mem::{offset_of, size_of};

use crate::aead::{self, BLOCK, MAX_TEXT};
use crate::bytes::{ne64, part};
use crate::opaque;

/// Number of elements of a lane: a packet's element has the index sequence number modulo this.
pub const RING: u64 = 512;

/// How far key stream is made ahead of the last number that is known to be used, in packets. The rest of the ring lies
/// behind, for packets that other CPUs are processing, or that arrive out of order.
pub const AHEAD: u64 = RING / 4 * 3;

/// Number of lanes of a data plane that has any.
pub const LANES: u32 = 8;

/// Packets of one direction of a session between two records for the thread ([`Wanted`]).
pub const STEP: u64 = 64;

/// A record is made only if that many packets came within this time in ns: at 16,000 packets a second or more.
const BUSY: u64 = 4_000_000;

/// Blocks of key stream for the longest text.
const BLOCKS: usize = MAX_TEXT.div_ceil(BLOCK);

/// Element of the array map `KEYSTREAM`, at index `lane * RING + sequence % RING`: all of the cipher's output that sealing
/// or opening one packet needs. As secret as the session's key.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Element {
    /// 0 while the rest must not be used; otherwise a number that no element had before.
    pub stamp: u64,
    /// Sequence number of the packet.
    pub sequence: u64,
    /// Low 32 bits of the slot number, then index of the session, from the lowest bit on.
    pub slot_session: u64,
    /// Generation of the session, then [`Direction`], from the lowest bit on.
    pub generation_direction: u64,
    /// Poly1305's key: the first half of the key stream's block 0.
    pub authenticator: [u64; 4],
    /// The blocks from number 1 on.
    pub text: [[u64; BLOCK / 8]; BLOCKS],
}

/// Words of an [`Element`].
pub const WORDS: usize = size_of::<Element>() / 8;

/// The words after the stamp of an [`Element`], which identify its packet.
pub type Packet = [u64; 3];

/// The keys of a session, by direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Those that open.
    Receive = 0,
    /// Those that seal.
    Send = 1,
}

/// Record of the ring buffer `WANTED`: a packet of a busy session has been sealed, or opened and found valid. It asks
/// for key stream for the packets that follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its sequence number.
    pub sequence: u64,
    /// Low 32 bits of its slot number.
    pub slot: u32,
    /// Index of the session.
    pub session: u32,
    /// Generation of the session.
    pub generation: u32,
    /// [`Direction`].
    pub direction: u32,
}

impl Wanted {
    /// Reads a record; `None`: the bytes are not a record.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let record: &[u8; 24] = record.try_into().ok()?;
        let number = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
        Some(Self {
            sequence: ne64::<0, 24>(record),
            slot: number(part::<8, 4, 24>(record)),
            session: number(part::<12, 4, 24>(record)),
            generation: number(part::<16, 4, 24>(record)),
            direction: number(part::<20, 4, 24>(record)),
        })
    }

    /// The words that an element for this packet has after its stamp.
    #[inline(always)]
    pub const fn packet(&self) -> Packet {
        [
            self.sequence,
            self.slot as u64 | (self.session as u64) << 32,
            self.generation as u64 | (self.direction as u64) << 32,
        ]
    }
}

/// Index of the element for a sequence number.
#[inline(always)]
pub const fn index(lane: u32, sequence: u64) -> u32 {
    lane.wrapping_mul(RING as u32).wrapping_add((sequence % RING) as u32)
}

/// Whether the packet that follows `packets` others in its direction makes a record.
#[inline(always)]
pub const fn is_turn(packets: u64) -> bool {
    packets % STEP == STEP - 1
}

/// Whether the packets between two records, at these boot times (ns), came fast enough.
#[inline(always)]
pub const fn is_busy(last: u64, now: u64) -> bool {
    now.saturating_sub(last) < BUSY
}

/// The key stream in an element, for [`aead::pass_ready`]. The element may change meanwhile: every word is read once, and
/// the result is valid only if the stamp is still the same afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Ready(*const Element);

impl Ready {
    /// # Safety
    /// `element` must point to an element, aligned to 8 bytes, that can be read as long as the value is used.
    #[inline(always)]
    pub const unsafe fn new(element: *const Element) -> Self {
        Self(element)
    }

    /// The packet that the element is for.
    #[inline(always)]
    pub fn packet(self) -> Packet {
        // SAFETY: fields of the element, aligned (contract of `new`); volatile, since they may change.
        unsafe {
            [
                (&raw const (*self.0).sequence).read_volatile(),
                (&raw const (*self.0).slot_session).read_volatile(),
                (&raw const (*self.0).generation_direction).read_volatile(),
            ]
        }
    }
}

impl aead::Source for Ready {
    #[inline(always)]
    fn authenticator(&mut self) -> [u32; 8] {
        let mut key = [0; 8];
        let mut word = 0;
        while word < 4 {
            // SAFETY: inside the element, aligned (contract of `new`); volatile, since it may change.
            let two = unsafe { (&raw const (*self.0).authenticator[word]).read_volatile() };
            (key[2 * word], key[2 * word + 1]) = (two as u32, (two >> 32) as u32);
            word += 1;
        }
        key
    }

    #[inline(always)]
    fn reach(&mut self, _number: usize, _last: bool) {}

    #[inline(always)]
    fn apply(&self, number: usize, text: &mut [u8; BLOCK]) -> Option<()> {
        let nth = opaque::value(number).wrapping_sub(1);
        if nth >= BLOCKS {
            return None;
        }
        // SAFETY: inside the element (checked).
        let block = unsafe { (&raw const (*self.0).text).cast::<[u64; BLOCK / 8]>().add(nth) };
        // SAFETY: a word of the block, aligned (contract of `new`); volatile, since it may change.
        let word = |n: usize| unsafe { block.cast::<u64>().add(n).read_volatile() };
        aead::apply_eight::<0>(word(0), text);
        aead::apply_eight::<8>(word(1), text);
        aead::apply_eight::<16>(word(2), text);
        aead::apply_eight::<24>(word(3), text);
        aead::apply_eight::<32>(word(4), text);
        aead::apply_eight::<40>(word(5), text);
        aead::apply_eight::<48>(word(6), text);
        aead::apply_eight::<56>(word(7), text);
        Some(())
    }
}

const _: () = {
    assert!(RING.is_power_of_two() && STEP.is_power_of_two());
    assert!(size_of::<Element>() == 1536);
    assert!(offset_of!(Element, sequence) == 8);
    assert!(offset_of!(Element, slot_session) == 16);
    assert!(offset_of!(Element, generation_direction) == 24);
    assert!(offset_of!(Element, authenticator) == 32);
    assert!(offset_of!(Element, text) == 64);
    assert!(size_of::<Wanted>() == 24);
};

// SAFETY: `repr(C)`, no padding (asserted above), every bit pattern is a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Element {}
