//! Tests of the key types, their text form and the rules for key files.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

/// RFC 7748, section 6.1: the private and public keys of Alice and of Bob.
const RFC_7748: [(&str, &str); 2] = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
];

fn bytes(hex_digits: &str) -> [u8; KEY_BYTES] {
    hex::decode(hex_digits).unwrap().try_into().unwrap()
}

fn key_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.key");
    write(&path, content).unwrap();
    set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

#[test]
fn public_keys_are_those_of_rfc_7748() {
    for (private, public) in RFC_7748 {
        assert_eq!(SecretKey::from_bytes(bytes(private)).public(), PublicKey::from_bytes(bytes(public)));
    }
}

#[test]
fn a_generated_private_key_is_clamped_and_new_each_time() {
    let keys: Vec<_> = (0..64).map(|_| SecretKey::generate().unwrap()).collect();
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(key.as_bytes()[0] & 0b111, 0);
        assert_eq!(key.as_bytes()[31] >> 6, 0b01);
        assert!(keys[..index].iter().all(|earlier| earlier != key));
    }
}

#[test]
fn a_generated_pre_shared_key_is_not_clamped() {
    // Each of these five bits is 0 in all of 256 keys by chance with probability 2^-256.
    let keys: Vec<_> = (0..256).map(|_| SecretKey::generate_psk().unwrap()).collect();
    let first = keys.iter().fold(0, |seen, key| seen | key.as_bytes()[0]);
    let last = keys.iter().fold(0, |seen, key| seen | key.as_bytes()[31]);
    assert_eq!(first & 0b111, 0b111);
    assert_eq!(last & 0b1000_0000, 0b1000_0000);
}

#[test]
fn a_debug_print_shows_no_secret() {
    let key = SecretKey::from_bytes([0xab; KEY_BYTES]);
    assert_eq!(format!("{key:?}"), "SecretKey(..)");
    assert_eq!(format!("{:#?}", Some(&key)), "Some(\n    SecretKey(..),\n)");
}

#[test]
fn equality_looks_at_every_byte() {
    let key = SecretKey::from_bytes([7; KEY_BYTES]);
    for index in 0..KEY_BYTES {
        let mut other = [7; KEY_BYTES];
        other[index] ^= 0x80;
        assert_ne!(key, SecretKey::from_bytes(other));
    }
    assert_eq!(key, key.clone());
}

#[test]
fn texts_that_are_not_exactly_one_key_are_refused() {
    let good = SecretKey::from_bytes([0xff; KEY_BYTES]).to_base64();
    assert_eq!(&good[42..], "8=");
    let cases = [
        ("one character short", good[1..].to_owned()),
        ("one character long", format!("A{}", *good)),
        ("no padding", good[..43].to_owned()),
        ("padding replaced", format!("{}A", &good[..43])),
        ("two padding characters", format!("{}==", &good[..42])),
        ("bits set behind the last byte", format!("{}9=", &good[..42])),
        ("URL alphabet", good.replace('/', "_")),
        ("space inside", format!("{} {}", &good[..20], &good[21..])),
        ("space in front", format!(" {}", &good[1..])),
        ("newline behind, where no file is read", format!("{}\n", *good)),
        ("not ASCII", format!("é{}", &good[2..])),
    ];
    for (what, text) in cases {
        assert_eq!(text.parse::<SecretKey>(), Err(KeyTextError::Garbled), "{what}");
        assert_eq!(text.parse::<PublicKey>(), Err(KeyTextError::Garbled), "{what}");
    }
    assert_eq!("".parse::<SecretKey>(), Err(KeyTextError::Empty));
}

#[test]
fn a_key_file_may_end_in_white_space() {
    let key = SecretKey::generate_psk().unwrap();
    let text = key.to_base64();
    for end in ["", "\n", "\r\n", " \n\n"] {
        let (_folder, path) = key_file(format!("{}{end}", *text).as_bytes(), 0o600);
        assert_eq!(SecretKey::from_file(&path).unwrap(), key, "{end:?}");
    }
}

#[test]
fn a_key_file_that_others_can_reach_is_refused_with_the_remedy() {
    let text = SecretKey::generate_psk().unwrap().to_base64();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666] {
        let (_folder, path) = key_file(text.as_bytes(), mode);
        let error = SecretKey::from_file(&path).unwrap_err();
        assert!(matches!(error.kind(), KeyFileErrorKind::Exposed(seen) if *seen == mode));
        assert_eq!(error.remedy(), format!("run: chmod 600 {}", path.display()));
        assert!(error.to_string().contains(&format!("mode {mode:04o}")), "{error}");
    }
    for mode in [0o600, 0o400] {
        let (_folder, path) = key_file(text.as_bytes(), mode);
        assert!(SecretKey::from_file(&path).is_ok());
    }
}

#[test]
fn what_counts_is_the_file_behind_a_symbolic_link() {
    let text = SecretKey::generate_psk().unwrap().to_base64();
    let (folder, path) = key_file(text.as_bytes(), 0o600);
    let link = folder.path().join("link.key");
    symlink(&path, &link).unwrap();
    assert!(SecretKey::from_file(&link).is_ok());
    set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(SecretKey::from_file(&link).unwrap_err().kind(), KeyFileErrorKind::Exposed(0o644)));
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
        let error = SecretKey::from_file(path).unwrap_err();
        assert!(matches!(error.kind(), KeyFileErrorKind::NotRegular), "{error}");
    }
}

#[test]
fn a_missing_key_file_tells_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.key");
    let error = SecretKey::from_file(&path).unwrap_err();
    assert!(error.to_string().contains(&format!("mtd genpsk > {}", path.display())), "{error}");
}

#[test]
fn a_garbled_key_file_is_refused_without_a_word_of_its_content() {
    let text = SecretKey::from_bytes([0x5a; KEY_BYTES]).to_base64();
    let cases = [
        format!("{}{}", *text, *text),
        format!("{}\nmore", *text),
        format!("key = {}", *text),
        format!("{}{}", *text, "\n".repeat(MAX_INPUT)),
        format!("{}=", &text[..43].to_lowercase()[1..]),
    ];
    for content in cases {
        let (_folder, path) = key_file(content.as_bytes(), 0o600);
        let error = SecretKey::from_file(&path).unwrap_err();
        assert!(
            matches!(error.kind(), KeyFileErrorKind::Text(KeyTextError::Garbled)),
            "{content:?}: {error}"
        );
        let shown = format!("{error} {error:?}").to_lowercase();
        assert!(!shown.contains(&text[..8].to_lowercase()), "{shown}");
    }
    for content in ["", "\n", "  \n"] {
        let (_folder, path) = key_file(content.as_bytes(), 0o600);
        let error = SecretKey::from_file(&path).unwrap_err();
        assert!(matches!(error.kind(), KeyFileErrorKind::Text(KeyTextError::Empty)), "{content:?}: {error}");
    }
}

proptest! {
    #[test]
    fn the_text_form_goes_there_and_back(bytes in any::<[u8; KEY_BYTES]>()) {
        let key = SecretKey::from_bytes(bytes);
        let text = key.to_base64();
        prop_assert_eq!(text.len(), KEY_CHARACTERS);
        prop_assert_eq!(text.parse::<SecretKey>().unwrap(), key);
        let public = PublicKey::from_bytes(bytes);
        prop_assert_eq!(public.to_string(), text.as_str());
        prop_assert_eq!(text.parse::<PublicKey>().unwrap(), public);
    }
}

#[test]
fn public_keys_that_nobody_can_have_are_told_from_others() {
    let agreement = |key: &PublicKey| {
        x25519_dalek::StaticSecret::from([7; KEY_BYTES]).diffie_hellman(&(*key.as_bytes()).into())
    };
    for bytes in LOW_ORDER {
        let key = PublicKey::from_bytes(bytes);
        assert!(!key.is_usable(), "{key}");
        assert!(!agreement(&key).was_contributory(), "{key} is of low order");
    }
    let mut prime = [0xff; KEY_BYTES];
    (prime[0], prime[KEY_BYTES - 1]) = (0xed, 0x7f);
    let mut above = prime;
    above[0] = 0xf7;
    for second_form in [prime, above, [0xff; KEY_BYTES]] {
        assert!(!PublicKey::from_bytes(second_form).is_usable());
    }
    for _ in 0..100 {
        let public = SecretKey::generate().unwrap().public();
        assert!(public.is_usable() && agreement(&public).was_contributory());
        let mut high_bit = *public.as_bytes();
        high_bit[KEY_BYTES - 1] |= 0x80;
        assert!(!PublicKey::from_bytes(high_bit).is_usable(), "the same point in a second form");
    }
}
