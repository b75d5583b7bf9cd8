//! The bytes that the generators send.

/// A text that ordinary traffic does not contain.
pub const MARKER: &[u8; 24] = b"MTD-TEST-PLAINTEXT-MARK:";

/// Bytes of a block of TCP contents; each begins with [`MARKER`].
pub const BLOCK: usize = 512;

/// Length of marker, stream and index, in bytes.
pub(super) const HEADER_LEN: usize = MARKER.len() + 16;

/// Whether `data` contains [`MARKER`].
pub fn contains_marker(data: &[u8]) -> bool {
    let [first, ..] = *MARKER;
    let mut rest = data;
    while let Some(at) = rest.iter().position(|&byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(MARKER) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Fills a block (at least [`HEADER_LEN`] bytes): marker, stream, index, then bytes that depend on all three.
pub(super) fn fill(stream: u64, index: u64, block: &mut [u8]) {
    let (header, filler) = block.split_at_mut(HEADER_LEN);
    header[..24].copy_from_slice(MARKER);
    header[24..32].copy_from_slice(&stream.to_be_bytes());
    header[32..40].copy_from_slice(&index.to_be_bytes());
    let mut state = stream.rotate_left(32) ^ index;
    for part in filler.chunks_mut(8) {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        part.copy_from_slice(&state.to_be_bytes()[..part.len()]);
    }
}

/// The index of a block, if the block belongs to `stream` and is complete and unchanged.
pub(super) fn check(stream: u64, block: &[u8], scratch: &mut Vec<u8>) -> Option<u64> {
    let index = u64::from_be_bytes(block.get(32..HEADER_LEN)?.try_into().ok()?);
    scratch.resize(block.len(), 0);
    fill(stream, index, scratch);
    (scratch.as_slice() == block).then_some(index)
}

/// The mixing function of `SplitMix64`.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
