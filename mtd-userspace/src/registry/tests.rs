//! Tests of the registry, with folders of their own.

use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::http::{Reason, Refusal};
use crate::keys::SecretKey;

fn key() -> PublicKey {
    SecretKey::generate().unwrap().public()
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

fn sources(folder: &TempDir) -> Sources {
    Sources::of_folder(folder.path())
}

fn load(sources: Sources) -> (Registry, Vec<String>) {
    let (registry, warnings) = Registry::load(sources).unwrap();
    (registry, warnings.iter().map(ToString::to_string).collect())
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn client(name: &str, public_key: PublicKey) -> Client {
    let addresses = TunnelAddresses { v6: None, v4: Some([10, 66, 0, 9].into()) };
    Client { name: name.to_owned(), public_key, addresses, slot: None, filter: None }
}

#[test]
fn clients_are_found_by_key_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (key(), key());
    let path = write(&folder, "laptop.pub", format!("{a}\n"));
    write(&folder, "a.b_c-D9.pub", b.to_string());
    // None of these is a client's.
    for other in ["README", "laptop.pub~", ".hidden.pub", ".pub", "laptop.key"] {
        write(&folder, other, "x");
    }
    let (registry, warnings) = load(sources(&folder));
    assert_eq!((registry.len(), warnings.len()), (2, 0), "{warnings:?}");
    let laptop = registry.by_key(&a).unwrap();
    assert_eq!((laptop.name.as_str(), laptop.file.as_ref()), ("laptop", Some(&path)));
    assert_eq!(registry.by_name("a.b_c-D9").unwrap().public_key, b);
    assert!(registry.by_key(&key()).is_none() && registry.by_name("README").is_none());
    let document = registry.document();
    assert_eq!(
        document.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(),
        ["a.b_c-D9", "laptop"]
    );
}

#[test]
fn a_bad_file_is_a_warning_and_keeps_no_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let good = key();
    write(&folder, "m-good.pub", format!("{good}\n"));
    let bad = [
        ("a b.pub", key().to_string(), "is not named after a possible name"),
        ("empty.pub", String::new(), "holds no public key"),
        ("garbled.pub", "topsecret".to_owned(), "holds no public key; write the 44 characters"),
        ("long.pub", format!("{}{}", key(), " ".repeat(300)), "is longer than 256 bytes"),
        ("twokeys.pub", format!("{}\n{}\n", key(), key()), "holds no public key"),
        ("twice.pub", good.to_string(), "holds the key of m-good"),
        ("weak.pub", PublicKey::from_bytes([0; 32]).to_string(), "holds no public key"),
    ];
    for (name, content, _) in &bad {
        write(&folder, name, content);
    }
    fs::create_dir(folder.path().join("folder.pub")).unwrap();
    symlink("/nonexistent", folder.path().join("dangling.pub")).unwrap();
    symlink("/dev/zero", folder.path().join("device.pub")).unwrap();
    nix::unistd::mkfifo(&folder.path().join("fifo.pub"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let open = write(&folder, "open.pub", key().to_string());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o664)).unwrap();

    let (registry, warnings) = load(sources(&folder));
    assert_eq!(names(&registry.entries().cloned().collect::<Vec<_>>()), ["m-good"]);
    let others = [
        ("folder.pub", "is not a regular file"),
        ("dangling.pub", "cannot be read: No such file"),
        ("device.pub", "is not a regular file"),
        ("fifo.pub", "is not a regular file"),
        ("open.pub", "can be written by users other than its owner (mode 0664); run: chmod go-w on it"),
    ];
    let expected = bad.iter().map(|(name, _, what)| (*name, *what)).chain(others);
    for (name, what) in expected {
        let start = format!("{}: {what}", folder.path().join(name).display());
        assert_eq!(
            warnings.iter().filter(|warning| warning.starts_with(&start)).count(),
            1,
            "{start}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), bad.len() + others.len());
    assert!(!warnings.concat().contains("topsecret"), "what a file holds is not shown");
}

#[test]
fn the_configuration_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let (own, fixed) = (key(), key());
    write(&folder, "tablet.pub", key().to_string());
    write(&folder, "copy.pub", fixed.to_string());
    write(&folder, "mirror.pub", own.to_string());
    write(&folder, "office.pub", key().to_string());
    let sources = Sources {
        clients: vec![client("tablet", fixed)],
        names: HashSet::from(["office".to_owned()]),
        ..sources(&folder).with_own_key(own)
    };
    let (mut registry, warnings) = load(sources);
    assert_eq!((registry.len(), warnings.len()), (1, 4), "{warnings:?}");
    let tablet = registry.by_name("tablet").unwrap();
    assert_eq!((tablet.public_key, tablet.file.as_ref()), (fixed, None));
    assert_eq!(tablet.addresses.v4, Some([10, 66, 0, 9].into()));
    let error = registry.remove("tablet").unwrap_err();
    assert!(error.to_string().contains("take its [[client]] out there, then run mtd reload"), "{error}");
    assert_eq!(Refusal::from(error).reason, Reason::Conflict);
    assert!(matches!(registry.add("office", key()), Err(RegistryError::NameTaken { .. })));
    assert!(matches!(registry.add("me", own), Err(RegistryError::KeyOfServer)));
}

#[test]
fn clients_are_added_and_removed_with_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("not/there/yet");
    let (mut registry, warnings) = load(Sources::of_folder(&dir));
    assert!(registry.is_empty());
    assert_eq!(warnings, [format!("{}: is not there; `mtd peers add` makes it", dir.display())]);
    let laptop = key();
    let entry = registry.add("laptop", laptop).unwrap();
    let path = dir.join("laptop.pub");
    assert_eq!(entry.file.as_ref(), Some(&path));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{laptop}\n"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft is left");
    assert_eq!(load(Sources::of_folder(&dir)).0.by_key(&laptop), Some(&entry));

    let refused = |result: Result<Entry, RegistryError>, reason, part: &str| {
        let refusal = Refusal::from(result.unwrap_err());
        assert_eq!(refusal.reason, reason, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
    };
    refused(registry.add("laptop", key()), Reason::Conflict, "laptop is registered already");
    refused(registry.add("copy", laptop), Reason::Conflict, "registered already, for laptop");
    refused(registry.add("../laptop", key()), Reason::Invalid, "no name for a peer");
    refused(registry.add(".laptop", key()), Reason::Invalid, "begins with a dot");
    refused(registry.add("weak", PublicKey::from_bytes([0; 32])), Reason::Invalid, "no public key");
    refused(registry.remove("desk"), Reason::NotFound, "no client desk is registered");
    fs::write(dir.join("desk.pub"), "").unwrap();
    refused(registry.add("desk", key()), Reason::Conflict, "desk.pub is there already");
    assert_eq!(registry.len(), 1);

    assert_eq!(registry.remove("laptop").unwrap(), entry);
    assert!(!path.exists() && registry.is_empty() && registry.by_name("laptop").is_none());
    // Of one whose file is gone, the registry still has to be told.
    registry.add("laptop", laptop).unwrap();
    fs::remove_file(&path).unwrap();
    registry.remove("laptop").unwrap();
    assert!(registry.by_key(&laptop).is_none());
}

#[test]
fn a_reload_tells_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, gone, renamed, swapped, tablet) = (key(), key(), key(), key(), key());
    for (name, key) in [("kept", kept), ("gone", gone), ("old", renamed), ("swapped", swapped)] {
        write(&folder, &format!("{name}.pub"), key.to_string());
    }
    let configured = |clients| Sources { clients, ..sources(&folder) };
    let (mut registry, _) = load(configured(vec![client("tablet", tablet)]));
    assert_eq!(registry.reload(configured(vec![client("tablet", tablet)])).unwrap(), Change::default());

    fs::remove_file(folder.path().join("gone.pub")).unwrap();
    fs::rename(folder.path().join("old.pub"), folder.path().join("new.pub")).unwrap();
    let replacement = key();
    write(&folder, "swapped.pub", replacement.to_string());
    write(&folder, "bad.pub", "");
    let moved = Client { addresses: TunnelAddresses::default(), ..client("tablet", tablet) };
    let change = registry.reload(configured(vec![moved])).unwrap();
    assert_eq!(names(&change.added), ["swapped"]);
    assert_eq!(change.added[0].public_key, replacement);
    assert_eq!(names(&change.removed), ["gone", "swapped"]);
    assert_eq!(change.removed[1].public_key, swapped);
    assert_eq!(names(&change.changed), ["new", "tablet"]);
    assert_eq!(change.warnings.len(), 1);
    assert_eq!(registry.by_key(&renamed).unwrap().name, "new");
    assert!(registry.by_name("old").is_none() && registry.by_key(&gone).is_none());
    let document = change.document();
    assert_eq!(
        (document.removed, document.warnings.len()),
        (vec!["gone".to_owned(), "swapped".to_owned()], 1)
    );
}

#[test]
fn what_cannot_be_read_or_trusted_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "laptop.pub", key().to_string());
    let (mut registry, _) = load(sources(&folder));
    let file = folder.path().join("laptop.pub");
    let error = registry.reload(Sources::of_folder(&file)).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("cannot read the folder {}: ", file.display())),
        "{error}"
    );
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = registry.reload(sources(&folder)).unwrap_err();
    assert!(error.to_string().ends_with(&format!("run: chmod go-w {}", folder.path().display())), "{error}");
    assert!(matches!(registry.add("desk", key()), Err(RegistryError::Exposed { mode: 0o777, .. })));
    assert_eq!(registry.len(), 1);
    assert!(registry.by_name("laptop").is_some());
}

#[test]
fn sources_are_those_of_the_configuration() {
    let text = include_str!("../../../packaging/mtd.toml.example");
    let config = Config::parse(text, "example").unwrap();
    let sources = config.client_sources().unwrap();
    assert_eq!(sources.dir, Path::new("clients"));
    assert_eq!(sources.clients, config.listen.clone().unwrap().clients);
    assert_eq!(sources.names, ["office", "laptop"].map(str::to_owned).into());
    assert_eq!(sources.keys, HashSet::from([config.servers[0].public_key]));
    assert!(Config { listen: None, ..config }.client_sources().is_none());
}
