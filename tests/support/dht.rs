//! Private Mainline DHTs: nodes that speak the real protocol, one for each address, on loopback or in a network namespace;
//! and nodes that lie.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mainline::async_dht::AsyncDht;
use mainline::{Dht, MutableItem, RequestFilter, RequestSpecific, ServerSettings};

use crate::netns::Netns;

/// UDP port of every node.
pub const PORT: u16 = 6881;

/// How long a node waits for another one. Short, so that dead nodes cost little time.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the nodes may take to learn of each other.
const READY: Duration = Duration::from_mins(1);

/// Addresses in a bucket. A node that knows as many other nodes knows enough.
const BUCKET: usize = 20;

/// A private DHT. Each node has all others as bootstrap nodes, and knows all of them when this has been constructed.
#[derive(Debug)]
pub struct PrivateDht {
    addresses: Vec<SocketAddrV4>,
    nodes: Vec<Option<Member>>,
    /// A socket in the network namespace of the nodes.
    probe: UdpSocket,
}

#[derive(Debug)]
struct Member {
    dht: AsyncDht,
    frozen: Arc<AtomicBool>,
}

impl PrivateDht {
    /// Nodes on addresses of 127.0.0.0/8 in the network namespace of the caller, apart from those of other calls and
    /// processes.
    ///
    /// # Errors
    /// When the nodes do not start, or do not find each other in time.
    pub fn on_loopback(count: u8) -> Result<Self> {
        static CALLS: AtomicU16 = AtomicU16::new(0);
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let net = u16::try_from(std::process::id() % 0x7fff)?.wrapping_mul(7).wrapping_add(call);
        let [b, c] = net.to_be_bytes();
        let addresses: Vec<_> = (1..=count).map(|host| Ipv4Addr::new(127, b.max(1), c, host)).collect();
        Self::start(&addresses)
    }

    /// Starts nodes on `count` addresses from `first` on, which are added to the namespace's loopback interface. To reach
    /// them from another namespace, add a route.
    ///
    /// # Errors
    /// When the addresses cannot be set, the nodes do not start, or do not find each other in time.
    pub fn in_namespace(netns: &Netns, first: Ipv4Addr, count: u32) -> Result<Self> {
        let addresses: Vec<_> = (0..count).map(|n| Ipv4Addr::from(u32::from(first) + n)).collect();
        for address in &addresses {
            netns.run(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        // The nodes' threads, and therefore their sockets, are in the namespace of the thread that starts them.
        netns.enter(|| Self::start(&addresses))?
    }

    fn start(addresses: &[Ipv4Addr]) -> Result<Self> {
        let addresses: Vec<_> = addresses.iter().map(|address| SocketAddrV4::new(*address, PORT)).collect();
        let nodes = addresses.iter().map(|own| member(*own, &addresses).map(Some)).collect::<Result<_>>()?;
        let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        probe.set_read_timeout(Some(Duration::from_millis(100)))?;
        let this = Self { addresses, nodes, probe };
        this.wait_ready()?;
        Ok(this)
    }

    /// Waits until every living node knows all others, or at least as many as fit into one bucket.
    fn wait_ready(&self) -> Result<()> {
        let living: Vec<_> = self.nodes.iter().flatten().map(|member| member.dht.clone()).collect();
        let enough = (living.len() - 1).min(BUCKET);
        blocking(async move {
            let deadline = Instant::now() + READY;
            for node in living {
                loop {
                    let known = node.to_bootstrap().await.len();
                    if known >= enough {
                        break;
                    }
                    ensure!(
                        Instant::now() < deadline,
                        "a DHT node knows {known} of {enough} others after {READY:?}"
                    );
                    node.bootstrapped().await;
                }
            }
            Ok(())
        })?
    }

    /// All nodes, including dead ones, as `host:port`, as a configuration names them.
    pub fn bootstrap(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// Number of living nodes.
    pub fn living(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// Ends up to `count` of the living nodes, and returns when nothing answers at their addresses any more.
    ///
    /// # Errors
    /// When a node continues to answer.
    pub fn kill(&mut self, count: usize) -> Result<()> {
        let living = self.nodes.iter_mut().zip(&self.addresses).filter(|(node, _)| node.is_some());
        let mut killed = Vec::new();
        for (node, address) in living.take(count) {
            *node = None;
            killed.push(*address);
        }
        // A node's thread checks only occasionally whether it should end.
        let deadline = Instant::now() + READY;
        for address in killed {
            while answers(&self.probe, address)? {
                ensure!(Instant::now() < deadline, "the DHT node on {address} does not end");
            }
        }
        Ok(())
    }

    /// Freezes the first `count` living nodes: they keep their items, and drop every request to store something.
    pub fn freeze(&self, count: usize) {
        for member in self.nodes.iter().flatten().take(count) {
            member.frozen.store(true, Ordering::Relaxed);
        }
    }

    /// All addresses in the tables of any node.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn known(&self) -> Result<BTreeSet<String>> {
        let living: Vec<_> = self.nodes.iter().flatten().map(|member| member.dht.clone()).collect();
        blocking(async move {
            let mut known = BTreeSet::new();
            for node in living {
                known.extend(node.to_bootstrap().await);
            }
            known
        })
    }
}

/// Whether a node answers a ping within the time that the socket waits.
fn answers(probe: &UdpSocket, address: SocketAddrV4) -> Result<bool> {
    probe.send_to(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aaaa1:y1:qe", address)?;
    loop {
        match probe.recv_from(&mut [0; 512]) {
            Ok((_, from)) if from == SocketAddr::V4(address) => return Ok(true),
            // A late answer of another node.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn member(own: SocketAddrV4, all: &[SocketAddrV4]) -> Result<Member> {
    let frozen = Arc::new(AtomicBool::new(false));
    let settings = ServerSettings {
        // The default keeps 1,000 items: too few for many clients.
        max_mutable_values: 100_000,
        max_info_hashes: 20_000,
        filter: Box::new(Freezer(Arc::clone(&frozen))),
        ..ServerSettings::default()
    };
    let others: Vec<_> = all.iter().filter(|other| **other != own).copied().collect();
    let dht = Dht::builder()
        .server_mode()
        .server_settings(settings)
        .bootstrap(&others)
        .bind_address(*own.ip())
        .port(own.port())
        .request_timeout(REQUEST_TIMEOUT)
        .build()
        .with_context(|| format!("no DHT node on {own}"))?;
    Ok(Member { dht: dht.as_async(), frozen })
}

/// Runs a future on a separate thread, since the caller may be inside a runtime.
fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<T> {
            Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
        });
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// Drops requests to store something while the flag is set.
#[derive(Clone, Debug)]
struct Freezer(Arc<AtomicBool>);

impl RequestFilter for Freezer {
    fn allow_request(&self, request: &RequestSpecific, _: SocketAddrV4) -> bool {
        // The crate exports the type of a request, but not the names of its variants.
        !(self.0.load(Ordering::Relaxed) && format!("{:?}", request.request_type).starts_with("Put("))
    }
}

/// A node that lies: it answers every request for an item with this item, and accepts every item that is to be stored but
/// forgets it. It claims an identifier next to the item's target, so that every search for the target ends at this node.
#[derive(Debug)]
pub struct Sybil {
    address: SocketAddrV4,
    told: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sybil {
    /// Starts the node on 127.0.0.1 in the network namespace of the caller.
    ///
    /// # Errors
    /// When no socket can be bound, or no thread started.
    pub fn start(item: MutableItem) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let SocketAddr::V4(address) = socket.local_addr()? else { unreachable!("bound to an IPv4 address") };
        let (told, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&told), Arc::clone(&stop));
        let thread = thread::Builder::new().name("sybil".to_owned()).spawn(move || {
            lie(&socket, &item, &count, &ended);
        })?;
        Ok(Self { address, told, stop, thread: Some(thread) })
    }

    /// The address of the node, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How often the node has answered with its item.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

impl Drop for Sybil {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, that has been printed already.
            let _ = thread.join();
        }
    }
}

fn lie(socket: &UdpSocket, item: &MutableItem, told: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let request = &buffer[..length];
                let Some(reply) = answer(request, item) else { continue };
                if socket.send_to(&reply, from).is_ok() && find(request, b"1:q3:get").is_some() {
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("the sybil's socket: {error}"),
        }
    }
}

/// A bencoded reply (BEP 5, BEP 44). The keys of a dictionary must be sorted.
fn answer(request: &[u8], item: &MutableItem) -> Option<Vec<u8>> {
    let transaction = request.get(find(request, b"1:t4:")? + 5..)?.first_chunk::<4>()?;
    let mut id = *item.target().as_bytes();
    id[19] ^= 1;
    let mut reply = b"d1:rd2:id20:".to_vec();
    reply.extend(id);
    if find(request, b"1:q3:get").is_some() {
        reply.extend(b"1:k32:");
        reply.extend(item.key());
        reply.extend(format!("5:nodes0:3:seqi{}e3:sig64:", item.seq()).as_bytes());
        reply.extend(item.signature());
        reply.extend(format!("5:token4:liar1:v{}:", item.value().len()).as_bytes());
        reply.extend(item.value());
    } else if find(request, b"1:q9:find_node").is_some() {
        reply.extend(b"5:nodes0:");
    }
    reply.extend(b"e1:t4:");
    reply.extend(transaction);
    reply.extend(b"1:y1:re");
    Some(reply)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
