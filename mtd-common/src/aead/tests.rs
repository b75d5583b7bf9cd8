//! The `chacha20poly1305` crate as oracle; the vectors of RFC 8439 stand with ChaCha20 and Poly1305.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use proptest::prelude::*;

use super::*;
use crate::bytes::le32;
use crate::checksum;
use crate::keystream::Element;

fn nonce_words(nonce: &[u8; 12]) -> [u32; 3] {
    [le32::<0, 12>(nonce), le32::<4, 12>(nonce), le32::<8, 12>(nonce)]
}

fn tag_bytes(tag: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&tag[0].to_le_bytes());
    bytes[8..].copy_from_slice(&tag[1].to_le_bytes());
    bytes
}

fn run(
    operation: Operation,
    key: &[u8; 32],
    nonce: [u32; 3],
    text: &mut [u8],
    length: usize,
) -> Option<Sums> {
    pass(operation, key, nonce, &mut Buffer(text), length, &mut Pass::default())
}

/// The same with key stream made ahead.
fn run_ready(
    operation: Operation,
    key: &[u8; 32],
    nonce: [u32; 3],
    text: &mut [u8],
    length: usize,
) -> Option<Sums> {
    let element = element(key, nonce);
    // SAFETY: an element, alive as long as the value.
    let ready = unsafe { Ready::new(&raw const element) };
    pass_ready(operation, ready, &mut Buffer(text), length, &mut Pass::default())
}

/// Key stream of one packet, made block by block.
fn element(key: &[u8; 32], nonce: [u32; 3]) -> Element {
    let mut stream = KeyStream::default();
    stream.start(key, nonce);
    let mut block = || -> [u64; 8] {
        stream.one();
        std::array::from_fn(|n| {
            u64::from(stream.blocks[0][2 * n]) | u64::from(stream.blocks[0][2 * n + 1]) << 32
        })
    };
    let first = block();
    Element {
        stamp: 1,
        sequence: 0,
        slot_session: 0,
        generation_direction: 0,
        authenticator: *first.first_chunk().unwrap(),
        text: std::array::from_fn(|_| block()),
    }
}

fn oracle_encrypt(key: [u8; 32], nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16] {
    ChaCha20Poly1305::new(&key.into()).encrypt_inout_detached(&nonce.into(), aad, text.into()).unwrap().into()
}

fn check_against_oracle(key: [u8; 32], nonce: [u8; 12], text: &[u8]) {
    let words = nonce_words(&nonce);
    let mut expected = text.to_vec();
    let expected_tag = oracle_encrypt(key, nonce, &[], &mut expected);

    let mut sealed = text.to_vec();
    let sums = run(Operation::Seal, &key, words, &mut sealed, text.len()).unwrap();
    assert_eq!(sealed, expected, "ciphertext of {} bytes", text.len());
    assert_eq!(tag_bytes(sums.tag), expected_tag, "tag over {} bytes", text.len());

    let opened = run(Operation::Open, &key, words, &mut sealed, text.len()).unwrap();
    assert_eq!(sealed, text);
    assert!(verify(opened.tag, sums.tag));
    assert_eq!(opened.checksum, sums.checksum, "both ends sum what is on the wire");
    assert_eq!(checksum::fold(sums.checksum), plain_sum(&expected));

    let expected_tag = oracle_encrypt(key, nonce, text, &mut []);
    let sums = pass(
        Operation::Authenticate,
        &key,
        words,
        &mut Buffer(&mut sealed),
        text.len(),
        &mut Pass::default(),
    )
    .unwrap();
    check_ready(&key, words, text);
    assert_eq!(sealed, text, "authenticate mode leaves the text alone");
    assert_eq!(tag_bytes(sums.tag), expected_tag);
    assert_eq!(checksum::fold(sums.checksum), plain_sum(text));
}

/// With key stream made ahead, everything is the same.
fn check_ready(key: &[u8; 32], nonce: [u32; 3], text: &[u8]) {
    for operation in [Operation::Seal, Operation::Open, Operation::Authenticate] {
        let (mut plain, mut ready) = (text.to_vec(), text.to_vec());
        let sums = run(operation, key, nonce, &mut plain, text.len()).unwrap();
        assert_eq!(run_ready(operation, key, nonce, &mut ready, text.len()), Some(sums), "{operation:?}");
        assert_eq!(plain, ready, "{operation:?} of {} bytes", text.len());
    }
}

fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    checksum::fold(sum)
}

#[test]
fn every_length_agrees_with_the_chacha20poly1305_crate() {
    let text: Vec<u8> = (0..MAX_TEXT).map(|i| (i * 7 + i / 256) as u8).collect();
    for length in 0..=MAX_TEXT {
        check_against_oracle([0x42; 32], *b"\x01\x02\x03\x04abcdefgh", &text[..length]);
    }
}

proptest! {
    #[test]
    fn random_texts_agree_with_the_chacha20poly1305_crate(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        text in prop::collection::vec(any::<u8>(), 0..=MAX_TEXT),
    ) {
        check_against_oracle(key, nonce, &text);
    }

    #[test]
    fn any_flipped_bit_changes_the_tag(
        text in prop::collection::vec(any::<u8>(), 1..=MAX_TEXT),
        bit in any::<prop::sample::Index>(),
    ) {
        let bit = bit.index(text.len() * 8);
        for operation in [Operation::Open, Operation::Authenticate] {
            let tag = |mut text: Vec<u8>| {
                let length = text.len();
                run(operation, &[7; 32], [1, 2, 3], &mut text, length).unwrap().tag
            };
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify(tag(text.clone()), tag(flipped)));
        }
    }
}

#[test]
fn a_text_longer_than_its_memory_or_the_limit_is_refused() {
    let mut long = vec![0; MAX_TEXT + 1];
    let length = long.len();
    assert_eq!(run(Operation::Seal, &[0; 32], [0; 3], &mut long, length), None);
    assert_eq!(run_ready(Operation::Seal, &[0; 32], [0; 3], &mut long, length), None);
    let mut short = [0; 100];
    assert_eq!(run_ready(Operation::Seal, &[0; 32], [0; 3], &mut short, 101), None);
    assert_eq!(run(Operation::Seal, &[0; 32], [0; 3], &mut short, 101), None);
    assert_eq!(run(Operation::Seal, &[0; 32], [0; 3], &mut short, 200), None);
}

/// The nonce is the slot, then the sequence number, both little-endian.
#[test]
fn nonce_layout() {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
    bytes[4..].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
    assert_eq!(nonce(0xa1b2_c3d4, 0x0102_0304_0506_0708), nonce_words(&bytes));
}
