//! Nodes of the DHT that have answered, kept for the next start: with them, this host finds the network again when no
//! bootstrap node answers.
//!
//! The file contains addresses of public nodes, and nothing secret. Nothing in it is believed: a wrong node costs a packet.

use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::files;

/// Version of the file.
const VERSION: u32 = 1;

/// Number of nodes that are kept.
pub(super) const MAX_NODES: usize = 64;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// Number of kept nodes with which a node begins, beside the bootstrap nodes. More would be asked in every search: the crate
/// asks all nodes to begin with whenever it knows fewer others.
const BEGIN_WITH: usize = 8;

/// Shortest interval at which the list is brought up to date.
const INTERVAL: Duration = Duration::from_mins(10);

/// When the list is brought up to date, from the first success on: a new node knows few others at first, and there may not be
/// another success for a long time.
pub(super) const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(3), Duration::from_secs(30)];

/// How long reading the file may take. Without it, there are still the bootstrap nodes.
const READING: Duration = Duration::from_secs(2);

/// The nodes that have answered, those that answered last first.
#[derive(Debug, Default)]
pub(super) struct Known {
    nodes: Vec<SocketAddrV4>,
    next: Option<Instant>,
}

impl Known {
    /// Whether the list should be brought up to date. If so, it is not due again for a while.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            self.next = Some(now + INTERVAL);
        }
        due
    }

    /// Puts nodes in front of the list. Returns the list if it is another one now.
    pub(super) fn add(&mut self, nodes: impl IntoIterator<Item = SocketAddrV4>) -> Option<Vec<SocketAddrV4>> {
        let mut list: Vec<SocketAddrV4> = Vec::new();
        for node in nodes.into_iter().chain(self.nodes.iter().copied()).filter(|node| is_plausible(*node)) {
            if list.len() < MAX_NODES && !list.contains(&node) {
                list.push(node);
            }
        }
        let changed = list != self.nodes;
        self.nodes = list;
        changed.then(|| self.nodes.clone())
    }

    /// Number of nodes in the list.
    pub(super) const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Some of the nodes, others for another `random`: should these be dead, the next ones are not.
    pub(super) fn some(&self, random: u64) -> Vec<SocketAddrV4> {
        let length = self.nodes.len();
        let start = (random % length.max(1) as u64) as usize;
        self.nodes.iter().cycle().skip(start).take(BEGIN_WITH.min(length)).copied().collect()
    }
}

/// Whether a node can have this address.
fn is_plausible(node: SocketAddrV4) -> bool {
    let ip = node.ip();
    node.port() != 0 && !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    nodes: Vec<SocketAddrV4>,
}

/// Reads the content of the file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<Vec<SocketAddrV4>, String> {
    let Content { version, nodes } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version {version} instead of {VERSION}"));
    }
    Ok(nodes.into_iter().filter(|node| is_plausible(*node)).take(MAX_NODES).collect())
}

/// The file, read and written by threads of their own, since a disk may hang.
#[derive(Debug)]
pub(super) struct NodeFile {
    path: PathBuf,
    writing: Arc<AtomicBool>,
}

impl NodeFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writing: Arc::default() }
    }

    /// The nodes in the file; none if there is no file, or if it cannot be used, which is logged.
    pub(super) async fn read(&self) -> Vec<SocketAddrV4> {
        let (sender, receiver) = oneshot::channel();
        let path = self.path.clone();
        let read = move || {
            // Nobody may wait for it any more.
            let _ = sender.send(load(&path));
        };
        let started = thread::Builder::new().name("mtd-nodes".to_owned()).spawn(read);
        let why = match (started, timeout(READING, receiver).await) {
            (Ok(_), Ok(Ok(Ok(nodes)))) => return nodes,
            (Ok(_), Ok(Ok(Err(why)))) => why,
            (Err(error), _) => error.to_string(),
            (Ok(_), _) => "it cannot be read in time".to_owned(),
        };
        warn!(
            "the nodes of the DHT in {} are not used: {why}; others are found and kept",
            self.path.display()
        );
        Vec::new()
    }

    /// Replaces the file, unless the last writing has not ended.
    pub(super) fn write(&self, nodes: Vec<SocketAddrV4>) {
        if self.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, writing) = (self.path.clone(), Arc::clone(&self.writing));
        let write = move || {
            if let Err(error) = save(&path, nodes) {
                warn!("nodes of the DHT cannot be kept in {}: {error}", path.display());
            }
            writing.store(false, Ordering::Release);
        };
        if let Err(error) = thread::Builder::new().name("mtd-nodes".to_owned()).spawn(write) {
            warn!("nodes of the DHT are not kept: {error}");
            self.writing.store(false, Ordering::Release);
        }
    }
}

fn load(path: &Path) -> Result<Vec<SocketAddrV4>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let text = files::read_most(file, MAX_BYTES).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("more than {MAX_BYTES} bytes"));
    }
    parse(&text)
}

fn save(path: &Path, nodes: Vec<SocketAddrV4>) -> io::Result<()> {
    let text = serde_json::to_vec(&Content { version: VERSION, nodes })?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    files::replace(path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn node(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), 6881)
    }

    #[test]
    fn the_list_is_bounded_and_the_newest_come_first() {
        let mut known = Known::default();
        assert_eq!(known.some(7), []);
        assert_eq!(known.add((1..=5).map(node)).unwrap().len(), 5);
        assert_eq!(known.add([node(1), node(2)]), None, "nothing new");
        assert_eq!(known.add([node(9)]).unwrap()[..2], [node(9), node(1)]);
        let list = known.add((100..200).map(node)).unwrap();
        assert_eq!((list.len(), list[0], known.len()), (MAX_NODES, node(100), MAX_NODES));
        assert_eq!(known.some(63)[..2], [node(163), node(100)]);
        assert_eq!(known.some(3).len(), BEGIN_WITH);
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_brought_up_to_date_at_once_and_then_seldom() {
        let (mut known, start) = (Known::default(), Instant::now());
        let times: Vec<_> =
            (0..7200).filter(|second| known.is_due(start + Duration::from_secs(*second))).take(3).collect();
        assert_eq!(times, [0, 600, 1200]);
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_what_is_broken_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/nodes.json");
        let file = NodeFile::new(path.clone());
        assert_eq!(file.read().await, []);
        save(&path, vec![node(1), node(2)]).unwrap();
        assert_eq!(file.read().await, [node(1), node(2)]);
        for broken in [
            &b""[..],
            b"{",
            b"{\"version\":2,\"nodes\":[]}",
            b"{\"version\":1,\"nodes\":[\"[2001:db8::1]:1\"]}",
            b"{\"version\":1,\"nodes\":[\"192.0.2.1:66000\"]}",
            &vec![b' '; MAX_BYTES as usize + 1],
        ] {
            fs::write(&path, broken).unwrap();
            assert_eq!(
                file.read().await,
                [],
                "{:?}",
                String::from_utf8_lossy(&broken[..broken.len().min(60)])
            );
        }
    }

    #[test]
    fn addresses_that_no_node_can_have_are_left_out() {
        let text = br#"{"version":1,"nodes":["0.0.0.0:1","224.0.0.1:1","255.255.255.255:1","192.0.2.1:0","192.0.2.7:6881"]}"#;
        assert_eq!(parse(text).unwrap(), [node(7)]);
        let many: Vec<_> = (0..200).map(node).collect();
        let text = serde_json::to_vec(&Content { version: 1, nodes: many }).unwrap();
        assert_eq!(parse(&text).unwrap().len(), MAX_NODES);
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let good = serde_json::to_vec(&Content { version: 1, nodes: (1..9).map(node).collect() }).unwrap();
        for at in 0..good.len() {
            for byte in [0, b'"', b'9', b'{', 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = parse(&bad);
                let _ = parse(&bad[..at]);
            }
        }
    }
}
