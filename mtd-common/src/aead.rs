//! ChaCha20-Poly1305 (RFC 8439) over a packet in place, in one pass together with the sum for the UDP checksum.
//!
//! The same code runs in the programs and on the host. It keeps to what BPF offers: 512 bytes of stack, no 128-bit
//! products (hence Poly1305 in limbs of 26 bits), loops that a verifier can bound, memory that is reached through
//! checked 64-byte blocks ([`Text`]). It takes no branch that depends on secrets, and no look-up.
//!
//! mtd uses two shapes of the RFC's construction:
//! * *encrypt*: the inner packet is the plaintext, no associated data;
//! * *authenticate*: the inner packet is the associated data, no plaintext.

use crate::bytes::{le64, part_mut};
use crate::chacha20::{self, KeyStream};
use crate::opaque;
use crate::poly1305::{Poly1305, sum, words};

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
    stream: KeyStream,
    /// The bytes behind the last whole block, then zeros.
    tail: [u8; BLOCK],
}

impl Default for Pass {
    #[inline(always)]
    fn default() -> Self {
        Self { poly: Poly1305::default(), checksum: 0, stream: KeyStream::default(), tail: [0; BLOCK] }
    }
}

/// Encrypts or decrypts a block.
/// Encrypts or decrypts the 8 bytes from `AT`, which are the words of the block from `WORD`.
#[inline(always)]
const fn apply_eight<const AT: usize, const WORD: usize>(stream: &chacha20::Block, text: &mut [u8; BLOCK]) {
    let eight = part_mut::<AT, 8, BLOCK>(text);
    let key = stream[WORD] as u64 | (stream[WORD + 1] as u64) << 32;
    *eight = (le64::<0, 8>(eight) ^ key).to_le_bytes();
}

/// Encrypts or decrypts a block.
#[inline(always)]
const fn apply(stream: &chacha20::Block, text: &mut [u8; BLOCK]) {
    apply_eight::<0, 0>(stream, text);
    apply_eight::<8, 2>(stream, text);
    apply_eight::<16, 4>(stream, text);
    apply_eight::<24, 6>(stream, text);
    apply_eight::<32, 8>(stream, text);
    apply_eight::<40, 10>(stream, text);
    apply_eight::<48, 12>(stream, text);
    apply_eight::<56, 14>(stream, text);
}

impl Pass {
    /// Works on a whole block, `number` of the key stream.
    #[inline(always)]
    fn full_block(&mut self, operation: Operation, number: usize, text: &mut [u8; BLOCK]) {
        let place = number % chacha20::BLOCKS;
        if let Operation::Seal = operation {
            apply(&self.stream.blocks[place], text);
        }
        // Opaque, so that the compiler does not hold key stream and state on the stack once more.
        let pass = opaque::mutable(self);
        pass.checksum += pass.poly.blocks(text);
        if let Operation::Open = operation {
            apply(&opaque::mutable(pass).stream.blocks[place], text);
        }
    }

    /// Works on the last `length` (1–63) bytes, which are in `tail`.
    #[inline(always)]
    fn part_block(&mut self, operation: Operation, number: usize, length: usize) {
        let place = number % chacha20::BLOCKS;
        if let Operation::Seal = operation {
            apply(&self.stream.blocks[place], &mut self.tail);
            self.clear_behind::<0>(length);
            self.clear_behind::<16>(length);
            self.clear_behind::<32>(length);
            self.clear_behind::<48>(length);
        }
        opaque::mutable(self).authenticate_sixteen::<0>();
        if length > 16 {
            opaque::mutable(self).authenticate_sixteen::<16>();
        }
        if length > 32 {
            opaque::mutable(self).authenticate_sixteen::<32>();
        }
        if length > 48 {
            opaque::mutable(self).authenticate_sixteen::<48>();
        }
        if let Operation::Open = operation {
            let pass = opaque::mutable(self);
            apply(&pass.stream.blocks[place], &mut pass.tail);
        }
    }

    #[inline(always)]
    const fn authenticate_sixteen<const AT: usize>(&mut self) {
        let words = words::<AT>(&self.tail);
        self.poly.block(words);
        self.checksum += sum(words);
    }

    /// Clears those of the 16 bytes of `tail` from `AT` that lie behind its `length` bytes.
    #[inline(always)]
    fn clear_behind<const AT: usize>(&mut self, length: usize) {
        let mask = tail_mask::<AT>(length);
        let words = part_mut::<AT, 16, BLOCK>(&mut self.tail);
        let masked = [le64::<0, 16>(words) & mask[0], le64::<8, 16>(words) & mask[1]];
        *part_mut::<0, 8, 16>(words) = masked[0].to_le_bytes();
        *part_mut::<8, 8, 16>(words) = masked[1].to_le_bytes();
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
    let (full, rest) = (length / BLOCK, length % BLOCK);
    pass.stream.start(key, nonce);
    // Block 0 of the key stream is Poly1305's key.
    pass.stream.generate(if encrypted { BLOCK + length } else { BLOCK });
    let pass = opaque::mutable(pass);
    pass.poly = Poly1305::new(&pass.stream.blocks[0]);
    pass.checksum = 0;
    let mut index = 0;
    while index < MAX_FULL_BLOCKS {
        if index >= full {
            break;
        }
        let number = index + 1;
        if encrypted && number % chacha20::BLOCKS == 0 {
            // Never fewer, which would save little: the verifier walks each choice from here to the end.
            opaque::mutable(pass).stream.four();
        }
        opaque::mutable(pass).full_block(operation, number, text.block(index * BLOCK)?);
        index += 1;
    }
    if rest > 0 {
        let number = full + 1;
        if encrypted && number % chacha20::BLOCKS == 0 {
            opaque::mutable(pass).stream.one();
        }
        let offset = length - rest;
        pass.tail = [0; BLOCK];
        text.load(offset, rest, &mut pass.tail)?;
        opaque::mutable(pass).part_block(operation, number, rest);
        if encrypted {
            text.store(offset, rest, &pass.tail)?;
        }
    }
    let pass = opaque::mutable(pass);
    match operation {
        Operation::Authenticate => pass.poly.block([length as u32, 0, 0, 0]),
        Operation::Seal | Operation::Open => pass.poly.block([0, 0, length as u32, 0]),
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
