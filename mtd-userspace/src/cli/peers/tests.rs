//! Tests of `mtd peers` and `mtd reload`.

use std::fs;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::control::tests::Running;
use crate::instance::Instance;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    peers: PeersArgs,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    let line = format!("peers {line}");
    Program::try_parse_from(line.split_whitespace()).map(|program| program.peers.command)
}

fn place_args(line: &str) -> PlaceArgs {
    match parse(&format!("list {line}")).unwrap() {
        Command::List { place, .. } => place,
        other => panic!("{other:?}"),
    }
}

fn key() -> PublicKey {
    SecretKey::generate().unwrap().public()
}

/// An empty run folder and no default configuration.
fn defaults(folder: &TempDir) -> Defaults {
    Defaults { run: folder.path().join("run"), config: folder.path().join("mtd.toml") }
}

/// A server's configuration, its keys and an empty folder of clients; the socket is in the folder, too.
fn configure(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("mtd.toml");
    let text = format!(
        "interface = \"eth0\"\nprefix = \"2001:db8:1::/64\"\naddress = \"fd00:6d74::1/64\"\nsocket = \"{}\"\n\
         private_key_file = \"private.key\"\n[listen]\n[[client]]\nname = \"tablet\"\npublic_key = \"{}\"\n",
        folder.path().join("eth0.sock").display(),
        key()
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_command_line_is_checked() {
    let key = key().to_string();
    assert!(parse(&format!("add laptop {key} -i eth0")).is_ok());
    assert!(parse("rm laptop --dir /x").is_ok() && parse("ls --json -c mtd.toml").is_ok());
    for (wrong, part) in [
        ("add laptop topsecret".to_owned(), "no public key"),
        (format!("add a/b {key}"), "no name for a peer"),
        (format!("add .a {key}"), "begins with a dot"),
        ("remove a/b".to_owned(), "no name for a peer"),
        ("list -i eth0 --dir /x".to_owned(), "cannot be used with"),
        ("list -c /x --socket /y".to_owned(), "cannot be used with"),
        (String::new(), "Usage"),
    ] {
        let error = parse(&wrong).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
        assert!(error.to_string().contains(part), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_folder_alone_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("clients");
    let place = place_args(&format!("--dir {}", dir.display())).only(&defaults(&folder)).unwrap();
    let key = key();
    let text = add(&place, "laptop".to_owned(), key).await.unwrap();
    let file = dir.join("laptop.pub");
    assert_eq!(
        text,
        format!(
            "registered laptop ({key}): {}; it may connect after the next mtd run or mtd reload\n",
            file.display()
        )
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{key}\n"));
    let (lists, failures) = list(std::slice::from_ref(&place)).await;
    assert!(failures.is_empty());
    assert_eq!((lists.len(), lists[0].peers[0].name.as_str()), (1, "laptop"));
    let value: serde_json::Value = serde_json::from_str(&status::json(lists).unwrap()).unwrap();
    assert_eq!(value["instances"][0]["interface"], serde_json::Value::Null);
    assert_eq!(value["instances"][0]["peers"][0]["public_key"], key.to_string());
    let error = add(&place, "laptop".to_owned(), key).await.unwrap_err();
    assert!(error.to_string().starts_with("laptop is registered already"), "{error}");
    assert!(remove(&place, "laptop", &Farewell::default()).await.unwrap().starts_with("removed laptop ("));
    assert!(!file.exists());
}

#[tokio::test]
async fn without_a_controller_the_folder_of_the_configuration_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = configure(&folder);
    // With the file named, and with the file as the default.
    for line in [format!("-c {}", path.display()), String::new()] {
        let place = place_args(&line).only(&defaults(&folder)).unwrap();
        assert_eq!(place.interface.as_deref(), Some("eth0"));
        add(&place, "laptop".to_owned(), key()).await.unwrap();
        assert!(folder.path().join("clients/laptop.pub").exists());
        let (lists, _) = list(std::slice::from_ref(&place)).await;
        let names: Vec<_> = lists[0].peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["laptop", "tablet"]);
        let text = human(&lists, Style::new(false));
        let row = text.lines().find(|line| line.contains("tablet")).unwrap();
        assert!(text.starts_with("registered clients at eth0:\n  name    public key "), "{text}");
        assert!(row.ends_with("  -        -          the configuration"), "{text}");
        let error = remove(&place, "tablet", &Farewell::default()).await.unwrap_err();
        assert!(error.to_string().contains("take its [[client]] out"), "{error}");
        remove(&place, "laptop", &Farewell::default()).await.unwrap();
    }
    // A client cannot have the server's own key.
    let own = SecretKey::generate().unwrap();
    let key_file = folder.path().join("private.key");
    fs::write(&key_file, own.to_base64().as_bytes()).unwrap();
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let place = place_args("").only(&defaults(&folder)).unwrap();
    let error = add(&place, "me".to_owned(), own.public()).await.unwrap_err();
    assert!(error.to_string().contains("public key of a server"), "{error}");

    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.find("[listen]").unwrap()]).unwrap();
    let error = place_args("").only(&defaults(&folder)).unwrap_err().to_string();
    assert!(error.contains("has no [listen]: that host takes no clients"), "{error}");
}

#[tokio::test]
async fn a_running_controller_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = configure(&folder);
    let elsewhere = tempfile::tempdir().unwrap();
    let running = Running::with_clients(elsewhere.path());
    std::os::unix::fs::symlink(running.socket(), folder.path().join("eth0.sock")).unwrap();
    let key = key();
    for line in [format!("-c {}", path.display()), format!("--socket {}", running.socket().display())] {
        let place = place_args(&line).only(&defaults(&folder)).unwrap();
        let text = add(&place, "laptop".to_owned(), key).await.unwrap();
        assert_eq!(text, format!("registered laptop ({key})\n"));
        assert!(elsewhere.path().join("laptop.pub").exists(), "the controller knows its folder");
        let error = add(&place, "copy".to_owned(), key).await.unwrap_err();
        assert!(error.to_string().contains("refused: the key is registered already, for laptop"), "{error}");
        assert_eq!(
            remove(&place, "laptop", &Farewell::default()).await.unwrap(),
            format!("removed laptop ({key})\n")
        );
    }
    assert!(!folder.path().join("clients").exists());

    fs::write(elsewhere.path().join("desk.pub"), key.to_string()).unwrap();
    fs::write(elsewhere.path().join("bad.pub"), "").unwrap();
    let gone = ControlSocket { interface: "eth1".to_owned(), path: folder.path().join("none.sock") };
    let sockets = [ControlSocket { interface: "eth0".to_owned(), path: running.socket() }, gone];
    let (reloads, failures) = reload_all(&sockets).await;
    assert_eq!((reloads.len(), failures.len()), (1, 1));
    let text = reloads[0].text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "eth0: added desk");
    assert!(
        lines[1].starts_with("eth0: left out: ") && lines[1].contains("bad.pub: holds no public key"),
        "{text}"
    );
    assert_eq!(lines.len(), 2);
    fs::remove_file(elsewhere.path().join("bad.pub")).unwrap();
    assert_eq!(reload_all(&sockets).await.0[0].text(), "eth0: nothing has changed\n");
}

#[tokio::test]
async fn what_to_change_must_be_clear() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = defaults(&folder);
    let error = place_args("").only(&defaults).unwrap_err().to_string();
    assert!(error.starts_with("no controller is running for any interface"), "{error}");
    assert!(error.ends_with("or name the folder of public keys with -c FILE or --dir DIR"), "{error}");
    let place = place_args("-i eth7").only(&defaults).unwrap();
    let error = add(&place, "laptop".to_owned(), key()).await.unwrap_err().to_string();
    assert!(error.starts_with("no controller is running for ") && error.ends_with("--dir DIR"), "{error}");

    fs::create_dir(&defaults.run).unwrap();
    for interface in ["eth0", "eth1"] {
        let name = format!("{}.sock", Instance::of(interface).unwrap().name());
        fs::write(defaults.run.join(name), "").unwrap();
    }
    let error = place_args("").only(&defaults).unwrap_err().to_string();
    assert_eq!(error, "controllers run for eth0 and eth1; name one with -i");
    assert_eq!(place_args("").all(&defaults).unwrap().len(), 2);
}
