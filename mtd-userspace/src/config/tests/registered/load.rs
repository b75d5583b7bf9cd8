//! Tests of the configuration: the own key beside the file.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A folder with FILE and a good key for it.
fn folder() -> (tempfile::TempDir, SecretKey) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("mtd.toml"), FILE).unwrap();
    let key = SecretKey::generate().unwrap();
    write_key(&folder, "private.key", &key);
    (folder, key)
}

fn write_key(folder: &tempfile::TempDir, name: &str, key: &SecretKey) {
    let path = folder.path().join(name);
    write(&path, key.to_base64().as_bytes()).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn load_errors(folder: &tempfile::TempDir) -> String {
    let error = Config::load(&folder.path().join("mtd.toml")).map(|_| ()).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn load_reads_the_own_key_and_joins_the_paths() {
    let (folder, key) = folder();
    let path = folder.path().join("mtd.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(
        config.identity,
        Some(Identity { key_file: folder.path().join("private.key"), key: key.clone() })
    );
    assert_eq!(config.listen.as_ref().unwrap().clients_dir, folder.path().join("who"));
    assert!(!format!("{config:?}").contains(&*key.to_base64()));
    // What needs no secrets can be read without them.
    std::fs::remove_file(folder.path().join("private.key")).unwrap();
    let read = Config::read(&path).unwrap();
    assert_eq!((&read.listen, &read.servers), (&config.listen, &config.servers));
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: cannot read private.key: No such file or directory (os error 2); make one: (umask \
         077; mtd genkey > private.key)"
    );
}

#[test]
fn load_refuses_keys_that_are_zero_or_somebody_elses() {
    let (folder, key) = folder();
    write_key(&folder, "private.key", &SecretKey::from_bytes([0; 32]));
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: private.key holds a key of zeros; make one: (umask 077; mtd genkey > private.key)"
    );
    write_key(&folder, "private.key", &key);
    let text = FILE.replace(KEYS[0], &key.public().to_string());
    write(folder.path().join("mtd.toml"), &text).unwrap();
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:30:14: client.public_key: is this host's own public key; write the public key of the other end, which mtd \
         pubkey prints there"
    );
    let peer = &BASE[BASE.find("[[peer]]").unwrap()..BASE.rfind("[[peer]]").unwrap()];
    write(folder.path().join("mtd.toml"), format!("{FILE}{peer}")).unwrap();
    write_key(&folder, "laptop.key", &key);
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: private.key holds the pre-shared key of peer laptop; make one: (umask 077; mtd \
         genkey > private.key)"
    );
    write(
        folder.path().join("mtd.toml"),
        FILE.replace("\"private.key\"", &format!("\"{}\"", *key.to_base64())),
    )
    .unwrap();
    let found = load_errors(&folder);
    assert!(
        found.starts_with("mtd.toml:4:20: private_key_file: is a key, not the name")
            && !found.contains(&key.to_base64()[..8]),
        "{found}"
    );
}
