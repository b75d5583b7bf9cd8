//! Reading and writing of integers in fixed-size arrays: no slice lengths that a verifier would have to follow.

/// The bytes `offset .. offset + N` of an array of `L` bytes; the bound is checked at compile time.
#[inline(always)]
pub const fn part<const OFFSET: usize, const N: usize, const L: usize>(bytes: &[u8; L]) -> &[u8; N] {
    const { assert!(OFFSET + N <= L) };
    // SAFETY: OFFSET + N <= L, so the part lies inside `bytes`; an array of bytes has alignment 1.
    unsafe { &*bytes.as_ptr().add(OFFSET).cast::<[u8; N]>() }
}

/// The mutable counterpart of [`part`].
#[inline(always)]
pub const fn part_mut<const OFFSET: usize, const N: usize, const L: usize>(
    bytes: &mut [u8; L],
) -> &mut [u8; N] {
    const { assert!(OFFSET + N <= L) };
    // SAFETY: OFFSET + N <= L, so the part lies inside `bytes`; an array of bytes has alignment 1.
    unsafe { &mut *bytes.as_mut_ptr().add(OFFSET).cast::<[u8; N]>() }
}

/// Reads a big-endian u16.
#[inline(always)]
pub const fn be16<const OFFSET: usize, const L: usize>(bytes: &[u8; L]) -> u16 {
    u16::from_be_bytes(*part::<OFFSET, 2, L>(bytes))
}

/// Reads a little-endian u32.
#[inline(always)]
pub const fn le32<const OFFSET: usize, const L: usize>(bytes: &[u8; L]) -> u32 {
    u32::from_le_bytes(*part::<OFFSET, 4, L>(bytes))
}

/// Reads a little-endian u64.
#[inline(always)]
pub const fn le64<const OFFSET: usize, const L: usize>(bytes: &[u8; L]) -> u64 {
    u64::from_le_bytes(*part::<OFFSET, 8, L>(bytes))
}

/// Reads a u64 in host order: for comparisons and sums, where the byte order does not matter.
#[inline(always)]
pub const fn ne64<const OFFSET: usize, const L: usize>(bytes: &[u8; L]) -> u64 {
    u64::from_ne_bytes(*part::<OFFSET, 8, L>(bytes))
}
