//! ChaCha20-Poly1305 (RFC 8439) over a packet in place, in one pass together with the sum for the UDP checksum.
//!
//! The same code runs in the programs and on the host. It keeps to what BPF offers: 512 bytes of stack, no 128-bit
//! products (hence Poly1305 in limbs of 26 bits), loops that a verifier can bound, memory that is reached through
//! checked 64-byte blocks ([`Text`]). It takes no branch that depends on secrets, and no look-up.
//!
//! mtd uses two shapes of the RFC's construction:
//! * *encrypt*: the inner packet is the plaintext, no associated data;
//! * *authenticate*: the inner packet is the associated data, no plaintext.

use crate::bytes::{le32, le64, part, part_mut};
use crate::{checksum, opaque};

/// Bytes of a ChaCha20 block.
pub const BLOCK: usize = 64;

/// Longest text in bytes. Bounds the loops: one more block is one more round for the verifier.
pub const MAX_TEXT: usize = 1428;

const MAX_FULL_BLOCKS: usize = MAX_TEXT / BLOCK;

/// A text of up to [`MAX_TEXT`] bytes that is sealed or opened in place.
pub trait Text {
    /// The 64 bytes from `offset`, or `None` where they are not all inside the text's memory.
    fn block(&mut self, offset: usize) -> Option<&mut [u8; BLOCK]>;
    /// Copies the `length` (1–63) bytes from `offset` to the front of `buffer`.
    fn load(&mut self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()>;
    /// Copies the first `length` (1–63) bytes of `buffer` to `offset`.
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()>;
}

/// What is done to the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Encrypt, and authenticate the result.
    Seal,
    /// Authenticate, and decrypt.
    Open,
    /// Authenticate only; sender and receiver do the same.
    Authenticate,
}

/// What comes of a pass over a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// The tag, as two little-endian words.
    pub tag: [u64; 2],
    /// Running Internet checksum of the text as it is on the wire ([`crate::checksum`]).
    pub checksum: u64,
}

/// A 96-bit nonce as three little-endian words.
///
/// mtd's nonce is the low 32 bits of the slot number, then the 64-bit sequence number: a packet sealed in one slot
/// does not open in another one.
#[inline(always)]
pub const fn nonce(slot: u32, sequence: u64) -> [u32; 3] {
    [slot, sequence as u32, (sequence >> 32) as u32]
}

/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

macro_rules! quarter_round {
    ($s:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $s[$a] = $s[$a].wrapping_add($s[$b]);
        $s[$d] = ($s[$d] ^ $s[$a]).rotate_left(16);
        $s[$c] = $s[$c].wrapping_add($s[$d]);
        $s[$b] = ($s[$b] ^ $s[$c]).rotate_left(12);
        $s[$a] = $s[$a].wrapping_add($s[$b]);
        $s[$d] = ($s[$d] ^ $s[$a]).rotate_left(8);
        $s[$c] = $s[$c].wrapping_add($s[$d]);
        $s[$b] = ($s[$b] ^ $s[$c]).rotate_left(7);
    };
}

/// The ChaCha20 block function (RFC 8439 section 2.3).
///
/// The key is read twice from its place rather than kept: the ten registers and 512 bytes of stack of BPF have no
/// room for it beside the state.
#[inline(always)]
fn chacha20(key: &[u8; 32], counter: u32, nonce: &[u32; 3], out: &mut [u32; 16]) {
    let mut s = [
        CONSTANTS[0],
        CONSTANTS[1],
        CONSTANTS[2],
        CONSTANTS[3],
        le32::<0, 32>(key),
        le32::<4, 32>(key),
        le32::<8, 32>(key),
        le32::<12, 32>(key),
        le32::<16, 32>(key),
        le32::<20, 32>(key),
        le32::<24, 32>(key),
        le32::<28, 32>(key),
        counter,
        nonce[0],
        nonce[1],
        nonce[2],
    ];
    let mut round = 0;
    while round < 10 {
        quarter_round!(s, 0, 4, 8, 12);
        quarter_round!(s, 1, 5, 9, 13);
        quarter_round!(s, 2, 6, 10, 14);
        quarter_round!(s, 3, 7, 11, 15);
        quarter_round!(s, 0, 5, 10, 15);
        quarter_round!(s, 1, 6, 11, 12);
        quarter_round!(s, 2, 7, 8, 13);
        quarter_round!(s, 3, 4, 9, 14);
        round += 1;
    }
    let key = opaque::reference(key);
    out[0] = s[0].wrapping_add(CONSTANTS[0]);
    out[1] = s[1].wrapping_add(CONSTANTS[1]);
    out[2] = s[2].wrapping_add(CONSTANTS[2]);
    out[3] = s[3].wrapping_add(CONSTANTS[3]);
    out[4] = s[4].wrapping_add(le32::<0, 32>(key));
    out[5] = s[5].wrapping_add(le32::<4, 32>(key));
    out[6] = s[6].wrapping_add(le32::<8, 32>(key));
    out[7] = s[7].wrapping_add(le32::<12, 32>(key));
    out[8] = s[8].wrapping_add(le32::<16, 32>(key));
    out[9] = s[9].wrapping_add(le32::<20, 32>(key));
    out[10] = s[10].wrapping_add(le32::<24, 32>(key));
    out[11] = s[11].wrapping_add(le32::<28, 32>(key));
    out[12] = s[12].wrapping_add(counter);
    out[13] = s[13].wrapping_add(nonce[0]);
    out[14] = s[14].wrapping_add(nonce[1]);
    out[15] = s[15].wrapping_add(nonce[2]);
}

#[inline(always)]
const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const LIMB: u64 = 0x3ff_ffff;

/// Poly1305 (RFC 8439 section 2.5) over blocks of 16 bytes, limbs of 26 bits.
#[derive(Debug)]
struct Poly1305 {
    r: [u32; 5],
    h: [u32; 5],
    pad: [u64; 2],
}

impl Poly1305 {
    /// From the first 32 bytes of the key-stream block 0 (RFC 8439 section 2.6).
    #[inline(always)]
    const fn new(block: &[u32; 16]) -> Self {
        let low = join(block[0], block[1]);
        let high = join(block[2], block[3]);
        Self {
            r: [
                (low & 0x3ff_ffff) as u32,
                ((low >> 26) & 0x3ff_ff03) as u32,
                ((low >> 52 | high << 12) & 0x3ff_c0ff) as u32,
                ((high >> 14) & 0x3f0_3fff) as u32,
                ((high >> 40) & 0x00f_ffff) as u32,
            ],
            h: [0; 5],
            pad: [join(block[4], block[5]), join(block[6], block[7])],
        }
    }

    /// Takes in 16 bytes, given as two little-endian words.
    #[inline(always)]
    const fn block(&mut self, low: u64, high: u64) {
        let [r0, r1, r2, r3, r4] = self.r;
        let (r0, r1, r2, r3, r4) = (r0 as u64, r1 as u64, r2 as u64, r3 as u64, r4 as u64);
        let (s1, s2, s3, s4) = (r1 * 5, r2 * 5, r3 * 5, r4 * 5);
        let h0 = self.h[0] as u64 + (low & LIMB);
        let h1 = self.h[1] as u64 + ((low >> 26) & LIMB);
        let h2 = self.h[2] as u64 + ((low >> 52 | high << 12) & LIMB);
        let h3 = self.h[3] as u64 + ((high >> 14) & LIMB);
        let h4 = self.h[4] as u64 + (high >> 40 | 1 << 24);
        let d0 = h0 * r0 + h1 * s4 + h2 * s3 + h3 * s2 + h4 * s1;
        let d1 = h0 * r1 + h1 * r0 + h2 * s4 + h3 * s3 + h4 * s2 + (d0 >> 26);
        let d2 = h0 * r2 + h1 * r1 + h2 * r0 + h3 * s4 + h4 * s3 + (d1 >> 26);
        let d3 = h0 * r3 + h1 * r2 + h2 * r1 + h3 * r0 + h4 * s4 + (d2 >> 26);
        let d4 = h0 * r4 + h1 * r3 + h2 * r2 + h3 * r1 + h4 * r0 + (d3 >> 26);
        let h0 = (d0 & LIMB) + (d4 >> 26) * 5;
        let h1 = (d1 & LIMB) + (h0 >> 26);
        self.h = [(h0 & LIMB) as u32, h1 as u32, (d2 & LIMB) as u32, (d3 & LIMB) as u32, (d4 & LIMB) as u32];
    }

    /// The tag, as two little-endian words.
    #[inline(always)]
    const fn finish(&self) -> [u64; 2] {
        let [h0, h1, h2, h3, h4] = self.h;
        let (h0, h1, h2, h3, h4) = (h0 as u64, h1 as u64, h2 as u64, h3 as u64, h4 as u64);
        let h2 = h2 + (h1 >> 26);
        let h1 = h1 & LIMB;
        let h3 = h3 + (h2 >> 26);
        let h2 = h2 & LIMB;
        let h4 = h4 + (h3 >> 26);
        let h3 = h3 & LIMB;
        let h0 = h0 + (h4 >> 26) * 5;
        let h4 = h4 & LIMB;
        let h1 = h1 + (h0 >> 26);
        let h0 = h0 & LIMB;
        // h - p, where p = 2^130 - 5; taken when it is not negative.
        let g0 = h0 + 5;
        let g1 = h1 + (g0 >> 26);
        let g2 = h2 + (g1 >> 26);
        let g3 = h3 + (g2 >> 26);
        let g4 = (h4 + (g3 >> 26)).wrapping_sub(1 << 26);
        let take_h = 0_u64.wrapping_sub(g4 >> 63);
        let take_g = !take_h;
        let h0 = (h0 & take_h) | (g0 & LIMB & take_g);
        let h1 = (h1 & take_h) | (g1 & LIMB & take_g);
        let h2 = (h2 & take_h) | (g2 & LIMB & take_g);
        let h3 = (h3 & take_h) | (g3 & LIMB & take_g);
        let h4 = (h4 & take_h) | (g4 & LIMB & take_g);
        // h mod 2^128, plus the pad: 32 bits at a time, so that the carries stay in reach.
        let w0 = (h0 | h1 << 26) & 0xffff_ffff;
        let w1 = (h1 >> 6 | h2 << 20) & 0xffff_ffff;
        let w2 = (h2 >> 12 | h3 << 14) & 0xffff_ffff;
        let w3 = (h3 >> 18 | h4 << 8) & 0xffff_ffff;
        let f0 = w0 + (self.pad[0] & 0xffff_ffff);
        let f1 = w1 + (self.pad[0] >> 32) + (f0 >> 32);
        let f2 = w2 + (self.pad[1] & 0xffff_ffff) + (f1 >> 32);
        let f3 = w3 + (self.pad[1] >> 32) + (f2 >> 32);
        [(f0 & 0xffff_ffff) | f1 << 32, (f2 & 0xffff_ffff) | f3 << 32]
    }
}

/// Ones where the bytes of a tail of `length` are, when read from `64 - length`.
static TAIL_MASK: [u8; 2 * BLOCK] = {
    let mut mask = [0; 2 * BLOCK];
    let mut i = 0;
    while i < BLOCK {
        mask[i] = 0xff;
        i += 1;
    }
    mask
};

/// Working memory of a pass: given by the caller, since a BPF stack has no room for it.
#[derive(Debug)]
pub struct Pass {
    poly: Poly1305,
    checksum: u64,
    /// The key stream of the block at hand.
    stream: [u32; 16],
    /// The bytes behind the last whole block, then zeros.
    tail: [u8; BLOCK],
}

impl Default for Pass {
    #[inline(always)]
    fn default() -> Self {
        Self {
            poly: Poly1305 { r: [0; 5], h: [0; 5], pad: [0; 2] },
            checksum: 0,
            stream: [0; 16],
            tail: [0; BLOCK],
        }
    }
}

impl Pass {
    /// Works on the 16 bytes `words`, which are the `PAIR`th ones of their block; `mask` has ones where there is text.
    #[inline(always)]
    fn sixteen<const PAIR: usize>(&mut self, operation: Operation, words: &mut [u8; 16], mask: [u64; 2]) {
        let old = [le64::<0, 16>(words), le64::<8, 16>(words)];
        let wire = match operation {
            Operation::Authenticate => old,
            Operation::Seal | Operation::Open => {
                let stream = &self.stream;
                let new = [
                    (old[0] ^ join(stream[4 * PAIR], stream[4 * PAIR + 1])) & mask[0],
                    (old[1] ^ join(stream[4 * PAIR + 2], stream[4 * PAIR + 3])) & mask[1],
                ];
                *part_mut::<0, 8, 16>(words) = new[0].to_le_bytes();
                *part_mut::<8, 8, 16>(words) = new[1].to_le_bytes();
                if let Operation::Seal = operation { new } else { old }
            }
        };
        self.poly.block(wire[0], wire[1]);
        self.checksum = checksum::add64(checksum::add64(self.checksum, wire[0].to_le()), wire[1].to_le());
    }

    #[inline(always)]
    fn full_block(&mut self, operation: Operation, text: &mut [u8; BLOCK]) {
        const ALL: [u64; 2] = [u64::MAX; 2];
        self.sixteen::<0>(operation, part_mut::<0, 16, BLOCK>(text), ALL);
        opaque::mutable(self).sixteen::<1>(operation, part_mut::<16, 16, BLOCK>(text), ALL);
        opaque::mutable(self).sixteen::<2>(operation, part_mut::<32, 16, BLOCK>(text), ALL);
        opaque::mutable(self).sixteen::<3>(operation, part_mut::<48, 16, BLOCK>(text), ALL);
    }

    /// Works on the last `length` (1–63) bytes, which are in `tail`.
    #[inline(always)]
    fn part_block(&mut self, operation: Operation, length: usize) {
        self.tail_sixteen::<0, 0>(operation, length);
        if length > 16 {
            opaque::mutable(self).tail_sixteen::<1, 16>(operation, length);
        }
        if length > 32 {
            opaque::mutable(self).tail_sixteen::<2, 32>(operation, length);
        }
        if length > 48 {
            opaque::mutable(self).tail_sixteen::<3, 48>(operation, length);
        }
    }

    #[inline(always)]
    fn tail_sixteen<const PAIR: usize, const AT: usize>(&mut self, operation: Operation, length: usize) {
        let mut words = *part::<AT, 16, BLOCK>(&self.tail);
        self.sixteen::<PAIR>(operation, &mut words, tail_mask::<AT>(length));
        *part_mut::<AT, 16, BLOCK>(&mut self.tail) = words;
    }
}

/// Ones for those of the 16 bytes from `AT` that lie inside a tail of `length` bytes.
#[inline(always)]
fn tail_mask<const AT: usize>(length: usize) -> [u64; 2] {
    // The bound holds for every tail; it is there, and hidden from the compiler, for the verifier.
    let from = opaque::value(BLOCK - length) & (BLOCK - 1);
    match TAIL_MASK[from + AT..].first_chunk::<16>() {
        Some(mask) => [le64::<0, 16>(mask), le64::<8, 16>(mask)],
        None => [0; 2],
    }
}

/// One pass over the first `length` bytes of `text`: seals, opens or authenticates them in place. `pass` is working
/// memory; what it held before is of no matter.
///
/// Opening decrypts before the tag can be compared: the caller must not use the text unless [`verify`] says so.
/// Returns `None` when the text is longer than [`MAX_TEXT`] or than its memory.
///
/// `operation` should be a constant at the call, so that each call compiles to a loop without branches on it.
#[inline(always)]
pub fn pass(
    operation: Operation,
    key: &[u8; 32],
    nonce: [u32; 3],
    text: &mut impl Text,
    length: usize,
    pass: &mut Pass,
) -> Option<Sums> {
    if length > MAX_TEXT {
        return None;
    }
    let encrypted = !matches!(operation, Operation::Authenticate);
    chacha20(key, 0, &nonce, &mut pass.stream);
    let pass = opaque::mutable(pass);
    pass.poly = Poly1305::new(&pass.stream);
    pass.checksum = 0;
    let full = length / BLOCK;
    let mut index = 0;
    while index < MAX_FULL_BLOCKS {
        if index >= full {
            break;
        }
        if encrypted {
            chacha20(key, index as u32 + 1, &nonce, &mut pass.stream);
        }
        // Opaque, so that the compiler does not hold key stream and limbs on the stack once more.
        opaque::mutable(pass).full_block(operation, text.block(index * BLOCK)?);
        index += 1;
    }
    let rest = length % BLOCK;
    if rest > 0 {
        if encrypted {
            chacha20(key, full as u32 + 1, &nonce, &mut pass.stream);
        }
        let offset = length - rest;
        pass.tail = [0; BLOCK];
        text.load(offset, rest, &mut pass.tail)?;
        opaque::mutable(pass).part_block(operation, rest);
        if encrypted {
            text.store(offset, rest, &pass.tail)?;
        }
    }
    let pass = opaque::mutable(pass);
    match operation {
        Operation::Authenticate => pass.poly.block(length as u64, 0),
        Operation::Seal | Operation::Open => pass.poly.block(0, length as u64),
    }
    Some(Sums { tag: pass.poly.finish(), checksum: pass.checksum })
}

/// Compares two tags in constant time.
#[inline(always)]
pub const fn verify(computed: [u64; 2], received: [u64; 2]) -> bool {
    (computed[0] ^ received[0]) | (computed[1] ^ received[1]) == 0
}

/// A text in ordinary memory: for tests, and for other ends in user space.
#[derive(Debug)]
pub struct Buffer<'a>(pub &'a mut [u8]);

impl Text for Buffer<'_> {
    fn block(&mut self, offset: usize) -> Option<&mut [u8; BLOCK]> {
        self.0.get_mut(offset..)?.first_chunk_mut()
    }

    fn load(&mut self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        buffer.get_mut(..length)?.copy_from_slice(self.0.get(offset..)?.get(..length)?);
        Some(())
    }

    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        self.0.get_mut(offset..)?.get_mut(..length)?.copy_from_slice(buffer.get(..length)?);
        Some(())
    }
}

#[cfg(test)]
#[path = "aead_tests.rs"]
mod tests;
