//! The ChaCha20 block function (RFC 8439 section 2.3), for up to four blocks side by side.
//!
//! A block is one long chain of dependent instructions; a CPU that can execute six per cycle is only busy with
//! several blocks. Their states are in memory given by the caller: BPF has ten registers, and 512 bytes of stack.

use crate::bytes::le32;
use crate::opaque;

/// Words of a block.
pub(crate) type Block = [u32; 16];

/// Most blocks that are computed side by side: a power of two.
pub(crate) const BLOCKS: usize = 4;

/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// 2^32 + 1: multiplying a word by it puts the word into both halves of a register.
const TWICE: u64 = 1 << 32 | 1;

/// A key stream: where it starts, and the newest blocks.
#[derive(Debug, Default)]
pub(crate) struct KeyStream {
    start: Block,
    /// The blocks, of which a call makes the first ones.
    pub(crate) blocks: [Block; BLOCKS],
}

/// One step on all blocks `$n`.
macro_rules! quarter_rounds {
    ($blocks:expr, $twice:ident, $a:literal $b:literal $c:literal $d:literal, $($n:literal)+) => {
        $( quarter_round::<$a, $b, $c, $d>(&mut $blocks[$n], $twice); )+
    };
}

/// A function that makes the next blocks of the key stream, into the places `$n`. In the programs it calls a global function,
/// `$symbol`: modes and directions share it, and the verifier walks it once, and not once for each call. Such a function takes
/// pointers, which may be null for all that the verifier knows, and returns a number.
macro_rules! generator {
    ($name:ident = $symbol:ident, $count:literal: $($n:literal)+) => {
        #[inline(always)]
        pub(crate) fn $name(&mut self) {
            Self::$symbol(self);
        }

        #[inline(never)]
        #[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
        extern "C" fn $symbol(this: *mut Self) -> u64 {
            // SAFETY: the reference of `$name`, which alone calls this.
            let Some(this) = (unsafe { this.as_mut() }) else { return 0 };
            let twice = opaque::value(TWICE as usize) as u64;
            $( this.begin::<$n>(); )+
            let mut round = 0;
            while round < 10 {
                quarter_rounds!(this.blocks, twice, 0 4 8 12, $($n)+);
                quarter_rounds!(this.blocks, twice, 1 5 9 13, $($n)+);
                quarter_rounds!(this.blocks, twice, 2 6 10 14, $($n)+);
                quarter_rounds!(this.blocks, twice, 3 7 11 15, $($n)+);
                quarter_rounds!(this.blocks, twice, 0 5 10 15, $($n)+);
                quarter_rounds!(this.blocks, twice, 1 6 11 12, $($n)+);
                quarter_rounds!(this.blocks, twice, 2 7 8 13, $($n)+);
                quarter_rounds!(this.blocks, twice, 3 4 9 14, $($n)+);
                round += 1;
            }
            $( this.end::<$n>(); )+
            this.start[12] = this.start[12].wrapping_add($count);
            0
        }
    };
}

impl KeyStream {
    /// Starts at block 0.
    #[inline(always)]
    pub(crate) const fn start(&mut self, key: &[u8; 32], nonce: [u32; 3]) {
        self.start = [
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
            0,
            nonce[0],
            nonce[1],
            nonce[2],
        ];
    }

    /// Computes the first blocks: as many as `bytes` need, at most as many as fit.
    #[inline(always)]
    pub(crate) fn generate(&mut self, bytes: usize) {
        if bytes > 2 * size_of::<Block>() {
            self.four();
        } else if bytes > size_of::<Block>() {
            self.two();
        } else {
            self.one();
        }
    }

    generator!(one = chacha20_one, 1: 0);
    generator!(two = chacha20_two, 2: 0 1);
    generator!(four = chacha20_four, 4: 0 1 2 3);

    #[inline(always)]
    const fn begin<const N: usize>(&mut self) {
        self.blocks[N] = self.start;
        self.blocks[N][12] = self.start[12].wrapping_add(N as u32);
    }

    #[inline(always)]
    const fn end<const N: usize>(&mut self) {
        let block = &mut self.blocks[N];
        let mut word = 0;
        while word < 16 {
            block[word] = block[word].wrapping_add(self.start[word]);
            word += 1;
        }
        block[12] = block[12].wrapping_add(N as u32);
    }
}

/// A quarter round on four words of a block.
///
/// For BPF in assembly. BPF has no rotation: with shifts it takes four instructions and a register. Multiplied by
/// 2^32 + 1 (`twice`), a word needs one shift more, and what is left above the 32 bits goes with the next 32-bit
/// instruction. And the compiler, left alone, mixes quarter rounds until their words no longer fit into registers.
#[inline(always)]
fn quarter_round<const A: usize, const B: usize, const C: usize, const D: usize>(
    block: &mut Block,
    twice: u64,
) {
    let (mut a, mut b, mut c, mut d) = (block[A], block[B], block[C], block[D]);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on registers that are named as in- and outputs.
    unsafe {
        core::arch::asm!(
            "w1 += w2", "w4 ^= w1", "r4 *= {twice}", "r4 >>= 16",
            "w3 += w4", "w2 ^= w3", "r2 *= {twice}", "r2 >>= 20",
            "w1 += w2", "w4 ^= w1", "r4 *= {twice}", "r4 >>= 24",
            "w3 += w4", "w2 ^= w3", "r2 *= {twice}", "r2 >>= 25",
            inout("w1") a, inout("w2") b, inout("w3") c, inout("w4") d, twice = in(reg) twice,
            // Not `nomem`: words are loaded and stored around each quarter round, not spilled to the stack.
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let rotate = |word: u32, by: u32| (u64::from(word).wrapping_mul(twice) >> (32 - by)) as u32;
        a = a.wrapping_add(b);
        d = rotate(d ^ a, 16);
        c = c.wrapping_add(d);
        b = rotate(b ^ c, 12);
        a = a.wrapping_add(b);
        d = rotate(d ^ a, 8);
        c = c.wrapping_add(d);
        b = rotate(b ^ c, 7);
    }
    (block[A], block[B], block[C], block[D]) = (a, b, c, d);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> KeyStream {
        let mut stream = KeyStream::default();
        let key = core::array::from_fn(|i| i as u8);
        stream.start(&key, [0x0900_0000, 0x4a00_0000, 0]);
        stream
    }

    /// RFC 8439 section 2.3.2: block 1.
    #[test]
    fn rfc_8439_block_function() {
        let mut stream = stream();
        stream.two();
        let block: Vec<u8> = stream.blocks[1].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(
            hex::encode(block),
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e\
             d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
        );
    }

    #[test]
    fn blocks_are_the_same_one_by_one_and_side_by_side() {
        let mut single = stream();
        let mut expected = Vec::new();
        for _ in 0..10 {
            single.one();
            expected.push(single.blocks[0]);
        }
        let mut stream = stream();
        for (bytes, numbers) in [(129, 0..4), (65, 4..6), (1, 6..7)] {
            stream.generate(bytes);
            assert_eq!(stream.blocks[..numbers.len()], expected[numbers]);
        }
    }
}
