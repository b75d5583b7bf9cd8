//! ChaCha20-Poly1305 (RFC 8439) over a packet in place, in one pass together with the sum for the UDP checksum.
//!
//! The same code runs in the programs and on the host. It respects the limits of BPF: 512 bytes of stack, no 128-bit
//! products (hence Poly1305 in limbs of 26 bits), loops that a verifier can bound, memory that is reached through
//! checked 64-byte blocks ([`Text`]). No branch and no memory access depends on secrets.
//!
//! mtd uses two shapes of the RFC's construction:
//! * *encrypt*: the inner packet is the plaintext, no associated data;
//! * *authenticate*: the inner packet is the associated data, no plaintext.

use crate::bytes::{le64, part_mut};
use crate::chacha20::{self, KeyStream};
use crate::keystream::Ready;
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

/// The operation on the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Encrypt, and authenticate the result.
    Seal,
    /// Authenticate, and decrypt.
    Open,
    /// Authenticate only; sender and receiver do the same.
    Authenticate,
}

/// The result of a pass over a text.
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

/// Where a pass gets its key stream from.
pub trait Source {
    /// Poly1305's key: the first half of block 0.
    fn authenticator(&mut self) -> [u32; 8];
    /// Advances to the block with this number. Blocks are numbered from 1 and taken in order. `last`: no block follows.
    fn reach(&mut self, number: usize, last: bool);
    /// Encrypts or decrypts a block of text with the block of this number, which is the one last advanced to. `None`:
    /// there is none.
    fn apply(&self, number: usize, text: &mut [u8; BLOCK]) -> Option<()>;
}

/// The cipher itself.
impl Source for KeyStream {
    #[inline(always)]
    fn authenticator(&mut self) -> [u32; 8] {
        *self.blocks[0].first_chunk().unwrap_or(&[0; 8])
    }

    #[inline(always)]
    fn reach(&mut self, number: usize, last: bool) {
        if !number.is_multiple_of(chacha20::BLOCKS) {
            return;
        }
        if last {
            opaque::mutable(self).one();
        } else {
            // Four blocks even if fewer remain: that would save little, and the verifier walks each choice from here
            // to the end.
            opaque::mutable(self).four();
        }
    }

    #[inline(always)]
    fn apply(&self, number: usize, text: &mut [u8; BLOCK]) -> Option<()> {
        let block = &opaque::reference(self).blocks[number % chacha20::BLOCKS];
        let two = |word: usize| block[word] as u64 | (block[word + 1] as u64) << 32;
        apply_eight::<0>(two(0), text);
        apply_eight::<8>(two(2), text);
        apply_eight::<16>(two(4), text);
        apply_eight::<24>(two(6), text);
        apply_eight::<32>(two(8), text);
        apply_eight::<40>(two(10), text);
        apply_eight::<48>(two(12), text);
        apply_eight::<56>(two(14), text);
        Some(())
    }
}

/// Encrypts or decrypts the 8 bytes from `AT` with as many bytes of key stream.
#[inline(always)]
pub(crate) const fn apply_eight<const AT: usize>(stream: u64, text: &mut [u8; BLOCK]) {
    let eight = part_mut::<AT, 8, BLOCK>(text);
    *eight = (le64::<0, 8>(eight) ^ stream).to_le_bytes();
}

/// Working memory of a pass: given by the caller, since a BPF stack has no room for it.
#[derive(Debug, Default)]
pub struct Pass {
    stream: KeyStream,
    sums: Running,
}

/// The state of a pass.
#[derive(Debug)]
struct Running {
    poly: Poly1305,
    checksum: u64,
    /// The bytes after the last whole block, then zeros.
    tail: [u8; BLOCK],
}

impl Default for Running {
    #[inline(always)]
    fn default() -> Self {
        Self { poly: Poly1305::default(), checksum: 0, tail: [0; BLOCK] }
    }
}

impl Running {
    /// Works on a whole block, `number` of the key stream.
    #[inline(always)]
    fn full_block(
        &mut self,
        operation: Operation,
        source: &impl Source,
        number: usize,
        text: &mut [u8; BLOCK],
    ) -> Option<()> {
        if let Operation::Seal = operation {
            source.apply(number, text)?;
        }
        // Opaque, so that the compiler keeps no second copy of key stream and state on the stack.
        let sums = opaque::mutable(self);
        sums.checksum += sums.poly.blocks(text);
        if let Operation::Open = operation {
            source.apply(number, text)?;
        }
        Some(())
    }

    /// Works on the last `length` (1–63) bytes, which are in `tail`.
    #[inline(always)]
    fn part_block(
        &mut self,
        operation: Operation,
        source: &impl Source,
        number: usize,
        length: usize,
    ) -> Option<()> {
        if let Operation::Seal = operation {
            source.apply(number, &mut self.tail)?;
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
            source.apply(number, &mut opaque::mutable(self).tail)?;
        }
        Some(())
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
/// memory; its previous contents do not matter.
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
    pass.stream.start(key, nonce);
    pass.stream.generate(if matches!(operation, Operation::Authenticate) { BLOCK } else { BLOCK + length });
    let pass = opaque::mutable(pass);
    run(operation, &mut pass.stream, text, length, &mut pass.sums)
}

/// [`pass`] with key stream that was made before.
#[inline(always)]
pub fn pass_ready(
    operation: Operation,
    mut ready: Ready,
    text: &mut impl Text,
    length: usize,
    pass: &mut Pass,
) -> Option<Sums> {
    run(operation, &mut ready, text, length, &mut pass.sums)
}

#[inline(always)]
fn run(
    operation: Operation,
    source: &mut impl Source,
    text: &mut impl Text,
    length: usize,
    sums: &mut Running,
) -> Option<Sums> {
    if length > MAX_TEXT {
        return None;
    }
    let encrypted = !matches!(operation, Operation::Authenticate);
    let (full, rest) = (length / BLOCK, length % BLOCK);
    sums.poly = Poly1305::new(source.authenticator());
    sums.checksum = 0;
    let mut index = 0;
    while index < MAX_FULL_BLOCKS {
        if index >= full {
            break;
        }
        let number = index + 1;
        if encrypted {
            source.reach(number, false);
        }
        opaque::mutable(sums).full_block(operation, source, number, text.block(index * BLOCK)?)?;
        index += 1;
    }
    if rest > 0 {
        let number = full + 1;
        if encrypted {
            source.reach(number, true);
        }
        let offset = length - rest;
        sums.tail = [0; BLOCK];
        text.load(offset, rest, &mut sums.tail)?;
        opaque::mutable(sums).part_block(operation, source, number, rest)?;
        if encrypted {
            text.store(offset, rest, &sums.tail)?;
        }
    }
    let sums = opaque::mutable(sums);
    match operation {
        Operation::Authenticate => sums.poly.block([length as u32, 0, 0, 0]),
        Operation::Seal | Operation::Open => sums.poly.block([0, 0, length as u32, 0]),
    }
    Some(Sums { tag: sums.poly.finish(), checksum: sums.checksum })
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
mod tests;
