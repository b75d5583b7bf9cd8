//! `mtd dht serve`, `get` and `put` as processes, on loopback.

use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mtd::keys::SecretKey;
use mtd::proto::rendezvous::{DEFAULT_WINDOW, Introduction, Rendezvous, Shared, window_start};
use mtd::rendezvous::{DhtConfig, Encoding, Item, Lookup, MainlineStore, Store as _};
use mtd_common::address::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aaaa1:y1:qe";

/// A DHT of one node.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn start() -> Self {
        let [_, _, b, c] = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, b.max(1), c, 1);
        let process = mtd()
            .args(["dht", "serve", "--alone", "--port", "6881", "--address", &host.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("mtd starts");
        let node = Self { process, address: format!("{host}:6881") };
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        probe.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            probe.send_to(PING, (host, 6881)).expect("loopback is up");
            if probe.recv_from(&mut [0; 512]).is_ok() {
                return node;
            }
            assert!(Instant::now() < deadline, "the node does not answer");
        }
    }

    /// Whether it ended well.
    fn stop(mut self) -> bool {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        self.process.wait().expect("it is ours").success()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn mtd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mtd"))
}

fn run(arguments: &[&str]) -> Output {
    mtd().args(arguments).stdin(Stdio::null()).output().expect("mtd starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A key file, and the key.
fn key(folder: &Path, name: &str) -> (PathBuf, SecretKey) {
    let (path, key) = (folder.join(name), SecretKey::generate().expect("random numbers"));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("a new file");
    file.write_all(key.to_base64().as_bytes()).expect("room for a key");
    (path, key)
}

fn utf8(output: Vec<u8>) -> String {
    String::from_utf8(output).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What a server has published in the present window for a client.
struct Published {
    rendezvous: Rendezvous,
    sealed: Vec<u8>,
    window: u64,
    at_ms: u64,
}

/// Publishes an introduction at the node, as a server does.
fn publish(node: &Node, server: &SecretKey, client: &SecretKey) -> Published {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    let published_ms = u64::try_from(now.as_millis()).expect("milliseconds of 64 bits");
    let mut prefix = [0; 16];
    prefix[..6].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 9]);
    let introduction = Introduction {
        network: Network { prefix, length: 64 },
        seed: [7; 8],
        key: SecretKey::from_bytes([0xc5; 32]),
        rot: Duration::from_secs(3),
        slot: Duration::from_secs(10),
        published_ms,
    };
    let shared = Shared::new(server, &client.public()).expect("a good key");
    // A window may end while this runs: the next one is then the present one, and this one is looked at as well.
    let window = window_start(now.as_secs(), DEFAULT_WINDOW);
    let rendezvous = shared.rendezvous(&server.public(), &client.public(), window);
    let sealed = introduction.seal(&rendezvous, [1; 24]).expect("an introduction").to_vec();
    let store =
        MainlineStore::new(DhtConfig { bootstrap: vec![node.address.clone()], ..DhtConfig::default() });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let item = Item::new(&rendezvous, sealed.clone(), published_ms);
    let stored = runtime.block_on(store.publish(item, Encoding::Item)).expect("the node answers");
    assert_eq!(stored.copies, Some(1));
    Published { rendezvous, sealed, window, at_ms: published_ms }
}

/// `mtd dht get` with a key file, as a client of this server or as a server of this client (`role`).
fn get(address: &str, file: &Path, role: &str, peer: &SecretKey, more: &[&str]) -> Output {
    let (file, peer) = (text(file), peer.public().to_string());
    run(&[&["dht", "get", "--key", file, role, &peer, "--bootstrap", address][..], more].concat())
}

/// Whether all windows of a report are in this state.
fn all_are(output: &Output, state: &str) -> bool {
    json(output)["windows"].as_array().expect("windows").iter().all(|window| window["state"] == state)
}

/// An end of the published introduction sees it, without its key.
fn is_shown(published: &Published, get: impl Fn(&[&str]) -> Output) {
    let output = get(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    let windows = report["windows"].as_array().expect("windows");
    assert_eq!(windows.len(), 3);
    let found = windows.iter().find(|report| report["window"] == published.window).expect("this window");
    assert_eq!(found["state"], "found");
    assert_eq!(found["introduction"]["prefix"], "2001:db8:9::/64");
    assert_eq!(found["introduction"]["published_ms"], published.at_ms);
    assert_eq!(found["introduction"]["slot_ms"], 3000);
    assert_eq!(windows.iter().filter(|report| report["state"] == "absent").count(), 2);
    assert_eq!(report["counters"]["fetched"], 1);
    let text = utf8(get(&[]).stdout);
    assert!(text.contains("2001:db8:9::/64") && text.contains(" ago)"), "{text}");
    for output in [utf8(output.stdout), text] {
        assert!(!output.contains("c5c5c5") && !output.contains("xcXFxc"), "the introduction key: {output}");
    }
}

/// What is put is stored, unless there is a newer one or it is too long.
fn items_can_be_put(node: &Node, folder: &Path) {
    let signing = key(folder, "signing").0;
    let arguments = ["dht", "put", "--bootstrap", &node.address, "--json", "--key", text(&signing)];
    let value = folder.join("value");
    std::fs::write(&value, b"hello").expect("room for a file");
    let put = json(&run(&[&arguments[..], &["--seq", "5", text(&value)]].concat()));
    assert_eq!(
        (put["bytes"].as_u64(), put["copies"].as_u64(), put["seq"].as_u64()),
        (Some(5), Some(1), Some(5))
    );
    let older = run(&[&arguments[..], &["--seq", "4", text(&value)]].concat());
    assert_eq!(older.status.code(), Some(1));
    assert!(utf8(older.stderr).contains("a newer item already"));
    std::fs::write(&value, [0; 997]).expect("room for a file");
    let large = run(&[&arguments[..], &[text(&value)]].concat());
    assert!(utf8(large.stderr).contains("at most 996 bytes"));
}

#[test]
fn what_is_published_is_shown_to_its_client_and_its_server_only() {
    let (node, folder) = (Node::start(), tempfile::tempdir().unwrap());
    let [(server_file, server), (client_file, client), (other_file, _)] =
        ["server", "client", "other"].map(|name| key(folder.path(), name));
    let published = publish(&node, &server, &client);
    let address = node.address.clone();
    for (file, role, peer) in [(&client_file, "--server", &server), (&server_file, "--client", &client)] {
        is_shown(&published, |more| get(&address, file, role, peer, more));
    }
    let other = get(&address, &other_file, "--server", &server, &["--json"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(all_are(&other, "absent"));
    assert!(utf8(other.stderr).contains("has published nothing for this client"));

    let item_key = hex::encode(Lookup::new(&published.rendezvous).item_key);
    let raw = json(&run(&["dht", "get", "--raw", &item_key, "--bootstrap", &address, "--json"]));
    assert_eq!(raw["items"][0]["value"], hex::encode(&published.sealed));

    items_can_be_put(&node, folder.path());

    assert!(node.stop(), "SIGTERM is a good end");
    let quick = ["--request-timeout", "300ms", "--json"];
    let gone = get(&address, &client_file, "--server", &server, &quick);
    assert_eq!(gone.status.code(), Some(1));
    assert!(all_are(&gone, "failed"));
    assert!(utf8(gone.stderr).contains("the DHT is out of reach"));
}
