//! Tests of the configuration: the file itself and the key files beside it.

use std::fs::{Permissions, create_dir, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A folder with BASE and good keys for it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("mtd.toml"), BASE).unwrap();
    for name in ["laptop.key", "desk.key"] {
        write_key(
            &folder.path().join(name),
            SecretKey::generate_psk().unwrap().to_base64().as_bytes(),
            0o600,
        );
    }
    folder
}

fn write_key(path: &Path, content: &[u8], mode: u32) {
    write(path, content).unwrap();
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn load_errors(folder: &Path) -> String {
    let error = Config::load(&folder.join("mtd.toml")).map(|_| ()).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn load_reads_the_keys_from_beside_the_file() {
    let folder = folder();
    let config = Config::load(&folder.path().join("mtd.toml")).unwrap();
    for peer in &config.peers {
        assert_eq!(peer.key_file.parent(), Some(folder.path()));
        assert_eq!(peer.key, SecretKey::from_file(&peer.key_file).unwrap());
    }
    assert_ne!(config.peers[0].key, config.peers[1].key);
    assert!(!format!("{config:?}").contains(&*config.peers[0].key.to_base64()));
}

#[test]
fn load_shows_the_problems_of_all_key_files() {
    let folder = folder();
    let desk = folder.path().join("desk.key");
    set_permissions(&desk, Permissions::from_mode(0o644)).unwrap();
    std::fs::remove_file(folder.path().join("laptop.key")).unwrap();
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml:8:12: peer.key_file: cannot read laptop.key: No such file or directory (os error 2); copy the peer's key \
         there, or make one: (umask 077; mtd genpsk > laptop.key)\n\
         mtd.toml:17:12: peer.key_file: desk.key can be read or written by users other than its owner (mode 0644); run: chmod \
         600 desk.key"
    );
}

#[test]
fn load_refuses_one_key_for_two_peers_and_a_key_of_zeros() {
    let folder = folder();
    std::fs::copy(folder.path().join("laptop.key"), folder.path().join("desk.key")).unwrap();
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml:17:12: peer.key_file: desk.key holds the same key as that of peer laptop; give each peer a key of its \
         own, from mtd genpsk"
    );
    write_key(&folder.path().join("desk.key"), format!("{}=", "A".repeat(43)).as_bytes(), 0o600);
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml:17:12: peer.key_file: desk.key holds a key of zeros; make a key for both ends: (umask 077; mtd genpsk > \
         desk.key)"
    );
}

#[test]
fn load_names_the_way_out_when_the_file_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mtd.toml");
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml: cannot read the configuration: No such file or directory (os error 2); name another file with -c FILE, \
         or write one: packaging/mtd.toml.example shows every key"
    );
    create_dir(&path).unwrap();
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml: is not a regular file; name the configuration file itself with -c FILE"
    );
    std::fs::remove_dir(&path).unwrap();
    let comment = |length: u64| format!("#{}", "x".repeat(length as usize - 1));
    write(&path, comment(MAX_FILE_BYTES + 1)).unwrap();
    assert_eq!(
        load_errors(folder.path()),
        "mtd.toml: is longer than 1048576 bytes; is it a configuration of mtd? Name another file with -c FILE"
    );
    write(&path, comment(MAX_FILE_BYTES)).unwrap();
    assert!(load_errors(folder.path()).starts_with("mtd.toml:1:1: interface: is missing"));
    write(&path, b"interface = \"eth0\"\n\n# caf\xe9\n").unwrap();
    assert_eq!(load_errors(folder.path()), "mtd.toml: is not UTF-8 text in line 3; save it as UTF-8");
}
