//! One TCP connection that carries checked data in both directions at a bounded rate.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::pattern::{BLOCK, fill};
use super::{Stall, Stop};
use crate::netns::Netns;
use crate::wait_until;

/// How long a socket call may block before the stop flag is checked.
const CALL_TIMEOUT: Duration = Duration::from_millis(100);

/// How long data in flight may take to arrive after the stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a [`TcpFlow`].
#[derive(Debug, Clone)]
pub struct TcpOptions {
    /// Address of the server's namespace to listen on and connect to.
    pub server: IpAddr,
    /// Port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// Payload bytes per second, in each direction.
    pub bytes_per_second: u64,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The flow stops by itself after this time.
    pub longest: Duration,
}

impl TcpOptions {
    /// 256 KiB/s each way, 10 s to connect, 10 minutes at most.
    pub fn to(server: IpAddr) -> Self {
        Self {
            server,
            port: 0,
            bytes_per_second: 256 << 10,
            connect_timeout: Duration::from_secs(10),
            longest: Duration::from_mins(10),
        }
    }
}

/// Live counters of a [`TcpFlow`], payload bytes.
#[derive(Debug)]
pub struct TcpCounters {
    to_server: Direction,
    to_client: Direction,
    broken: Mutex<Option<String>>,
}

/// The result of a [`TcpFlow`]. Bytes are payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpReport {
    /// The connection, seen from the client.
    pub local: SocketAddr,
    /// The connection's server end.
    pub peer: SocketAddr,
    /// Bytes written to the client's socket.
    pub sent_to_server: u64,
    /// Bytes that arrived at the server, all of them compared.
    pub received_by_server: u64,
    /// Bytes written to the server's socket.
    pub sent_to_client: u64,
    /// Bytes that arrived at the client, all of them compared.
    pub received_by_client: u64,
    /// Why the connection ended before the stop (error, reset, end of file, wrong byte); `None` if it did not.
    pub broken: Option<String>,
    /// Longest time without an arrival in one direction, from the start to the stop.
    pub longest_stall: Duration,
}

impl TcpReport {
    /// Whether everything that was sent has arrived.
    pub fn is_complete(&self) -> bool {
        self.sent_to_server == self.received_by_server && self.sent_to_client == self.received_by_client
    }

    /// Bytes that arrived, both directions.
    pub fn bytes(&self) -> u64 {
        self.received_by_server + self.received_by_client
    }
}

/// A running flow over one connection, which is not opened again if it breaks. Dropping this stops the flow.
#[derive(Debug)]
pub struct TcpFlow {
    local: SocketAddr,
    peer: SocketAddr,
    stop: Arc<Stop>,
    counters: Arc<TcpCounters>,
    threads: Vec<JoinHandle<()>>,
}

impl TcpFlow {
    /// Listens in the server's namespace, connects from the client's, and starts to send both ways.
    ///
    /// # Errors
    /// When the server's address cannot be bound, or there is no connection in time.
    pub fn start(client: &Netns, server: &Netns, options: &TcpOptions) -> Result<Self> {
        ensure!(options.bytes_per_second > 0, "a flow of 0 bytes per second shows nothing: use at least 1");
        let (near, far) = connect(client, server, options)?;
        let (local, peer) = (near.local_addr()?, near.peer_addr()?);
        let stop = Arc::new(Stop::after(options.longest));
        let counters = Arc::new(TcpCounters {
            to_server: Direction::new(1),
            to_client: Direction::new(2),
            broken: Mutex::new(None),
        });
        let mut flow = Self { local, peer, stop, counters, threads: Vec::new() };
        for (socket, is_client) in [(near, true), (far, false)] {
            for call in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
                call(&socket, Some(CALL_TIMEOUT))?;
            }
            socket.set_nodelay(true)?;
            let (reader, rate) = (socket.try_clone()?, options.bytes_per_second);
            flow.spawn(move |counters, stop| counters.sent(is_client).write(&socket, rate, stop, counters))?;
            flow.spawn(move |counters, stop| counters.sent(!is_client).read(&reader, stop, counters))?;
        }
        Ok(flow)
    }

    /// Live counters; they stay readable after the stop.
    pub fn counters(&self) -> Arc<TcpCounters> {
        Arc::clone(&self.counters)
    }

    /// Stops sending, waits at most a few seconds for data in flight, closes the connection, and reports.
    pub fn stop(mut self) -> TcpReport {
        // Read before the stop, since the silence after it is no stall.
        let longest_stall = self.counters.longest_stall();
        self.finish();
        let counters = &self.counters;
        TcpReport {
            local: self.local,
            peer: self.peer,
            sent_to_server: counters.to_server.sent.load(Ordering::Relaxed),
            received_by_server: counters.to_server.received.load(Ordering::Relaxed),
            sent_to_client: counters.to_client.sent.load(Ordering::Relaxed),
            received_by_client: counters.to_client.received.load(Ordering::Relaxed),
            broken: counters.broken(),
            longest_stall,
        }
    }

    fn spawn(&mut self, work: impl FnOnce(&TcpCounters, &Stop) + Send + 'static) -> Result<()> {
        let (counters, stop) = (Arc::clone(&self.counters), Arc::clone(&self.stop));
        let thread =
            thread::Builder::new().name("tcp flow".to_owned()).spawn(move || work(&counters, &stop))?;
        self.threads.push(thread);
        Ok(())
    }

    fn finish(&mut self) {
        self.stop.request();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.counters.note_broken("a thread of the flow panicked".to_owned());
            }
        }
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        self.finish();
    }
}

impl TcpCounters {
    /// Bytes that arrived at the server so far.
    pub fn received_by_server(&self) -> u64 {
        self.to_server.received.load(Ordering::Relaxed)
    }

    /// Bytes that arrived at the client so far.
    pub fn received_by_client(&self) -> u64 {
        self.to_client.received.load(Ordering::Relaxed)
    }

    /// Why the connection broke, if it did.
    pub fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Longest time without an arrival in one direction so far.
    pub fn longest_stall(&self) -> Duration {
        self.to_server.stall.longest().max(self.to_client.stall.longest())
    }

    /// The direction in which the client (or the server) sends.
    fn sent(&self, by_client: bool) -> &Direction {
        if by_client { &self.to_server } else { &self.to_client }
    }

    /// Keeps the first cause, since later ones follow from it.
    fn note_broken(&self, cause: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }
}

#[derive(Debug)]
struct Direction {
    stream: u64,
    sent: AtomicU64,
    received: AtomicU64,
    stall: Stall,
}

impl Direction {
    fn new(stream: u64) -> Self {
        Self { stream, sent: AtomicU64::new(0), received: AtomicU64::new(0), stall: Stall::new() }
    }

    fn write(&self, mut socket: &TcpStream, rate: u64, stop: &Stop, counters: &TcpCounters) {
        let interval = Duration::from_nanos((BLOCK as u64 * 1_000_000_000).div_ceil(rate));
        let mut block = [0; BLOCK];
        let mut due = Instant::now();
        for index in 0.. {
            if !stop.sleep_until(due) || counters.broken().is_some() {
                break;
            }
            fill(self.stream, index, &mut block);
            let mut left = block.as_slice();
            while !left.is_empty() && !stop.is_due() {
                match socket.write(left) {
                    Ok(count) => {
                        self.sent.fetch_add(count as u64, Ordering::Relaxed);
                        left = &left[count..];
                    }
                    Err(error) if is_timeout(error.kind()) => {}
                    Err(error) => return counters.note_broken(format!("sending failed: {error}")),
                }
            }
            // After a stall, the flow continues at its rate, without a burst to catch up.
            due = (due + interval).max(Instant::now().checked_sub(interval).unwrap_or(due));
        }
        // This fails only if the connection is gone, which the readers report.
        let _ = socket.shutdown(Shutdown::Write);
    }

    fn read(&self, mut socket: &TcpStream, stop: &Stop, counters: &TcpCounters) {
        let mut buffer = vec![0; 64 << 10];
        let mut expected = Expected::new(self.stream);
        let mut drain_until = None;
        loop {
            if stop.is_due()
                && Instant::now() >= *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_TIMEOUT)
            {
                return;
            }
            match socket.read(&mut buffer) {
                Ok(0) if stop.is_due() => return,
                Ok(0) => return counters.note_broken("the other end closed the connection".to_owned()),
                Ok(count) => {
                    self.stall.arrival();
                    if let Err(offset) = expected.compare(&buffer[..count]) {
                        return counters.note_broken(format!("wrong byte at offset {offset} of the stream"));
                    }
                    self.received.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) if stop.is_due() => return,
                Err(error) => return counters.note_broken(format!("receiving failed: {error}")),
            }
            if counters.broken().is_some() {
                return;
            }
        }
    }
}

/// The bytes of the stream that must arrive.
struct Expected {
    stream: u64,
    offset: u64,
    block: [u8; BLOCK],
}

impl Expected {
    fn new(stream: u64) -> Self {
        Self { stream, offset: 0, block: [0; BLOCK] }
    }

    /// Compares the next bytes. The error is the offset of the first wrong one.
    fn compare(&mut self, mut data: &[u8]) -> Result<(), u64> {
        while !data.is_empty() {
            let within = (self.offset % BLOCK as u64) as usize;
            if within == 0 {
                fill(self.stream, self.offset / BLOCK as u64, &mut self.block);
            }
            let wanted = &self.block[within..];
            let (part, rest) = data.split_at(wanted.len().min(data.len()));
            if let Some(at) = part.iter().zip(wanted).position(|(have, want)| have != want) {
                return Err(self.offset + at as u64);
            }
            self.offset += part.len() as u64;
            data = rest;
        }
        Ok(())
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The two ends of one connection.
fn connect(client: &Netns, server: &Netns, options: &TcpOptions) -> Result<(TcpStream, TcpStream)> {
    let wanted = SocketAddr::new(options.server, options.port);
    let listener = server
        .enter(|| TcpListener::bind(wanted))?
        .with_context(|| format!("cannot listen on {wanted} in {}", server.name()))?;
    let address = listener.local_addr()?;
    let near = client
        .enter(|| TcpStream::connect_timeout(&address, options.connect_timeout))?
        .with_context(|| format!("no connection from {} to {address}", client.name()))?;
    let local = near.local_addr()?;
    listener.set_nonblocking(true)?;
    let mut far = None;
    wait_until("the server to see the connection", options.connect_timeout, || match listener.accept() {
        Ok((socket, peer)) => {
            far = Some(socket).filter(|_| peer == local);
            Ok(far.is_some())
        }
        Err(error) if is_timeout(error.kind()) => Ok(false),
        Err(error) => Err(error).context("cannot accept"),
    })?;
    let far = far.ok_or_else(|| anyhow!("the server has no connection"))?;
    far.set_nonblocking(false)?;
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> TcpCounters {
        TcpCounters { to_server: Direction::new(1), to_client: Direction::new(2), broken: Mutex::new(None) }
    }

    /// Runs the reader of the client's direction on a loopback connection whose other end behaves like `peer`.
    fn read_from(peer: impl FnOnce(TcpStream) + Send) -> (TcpCounters, Stop) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_read_timeout(Some(CALL_TIMEOUT)).unwrap();
        let (counters, stop) = (counters(), Stop::after(Duration::from_secs(5)));
        thread::scope(|scope| {
            scope.spawn(|| peer(far));
            counters.to_server.read(&near, &stop, &counters);
        });
        (counters, stop)
    }

    fn blocks(count: u64) -> Vec<u8> {
        let mut data = vec![0; BLOCK * count as usize];
        for (block, index) in data.chunks_mut(BLOCK).zip(0..) {
            fill(1, index, block);
        }
        data
    }

    #[test]
    fn an_early_end_of_file_is_a_break() {
        let (counters, stop) = read_from(|mut peer| peer.write_all(&blocks(3)).unwrap());
        assert!(!stop.is_due());
        assert_eq!(counters.received_by_server(), 3 * BLOCK as u64);
        assert!(counters.broken().unwrap().contains("closed"));
    }

    #[test]
    fn a_reset_is_a_break() {
        let (counters, stop) = read_from(|peer| {
            let abort = libc::linger { l_onoff: 1, l_linger: 0 };
            crate::packet_socket::set_option(&peer, libc::SOL_SOCKET, libc::SO_LINGER, abort).unwrap();
        });
        assert!(!stop.is_due());
        assert!(counters.broken().unwrap().contains("reset"), "{:?}", counters.broken());
    }

    #[test]
    fn a_wrong_byte_is_a_break_wherever_it_is() {
        for at in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 100] {
            let mut data = blocks(3);
            data[at] ^= 1;
            for step in [1, 7, BLOCK, data.len()] {
                let mut expected = Expected::new(1);
                let wrong = data.chunks(step).find_map(|part| expected.compare(part).err());
                assert_eq!(wrong, Some(at as u64));
            }
            let (counters, _) = read_from(|mut peer| {
                peer.write_all(&data).unwrap();
                thread::sleep(Duration::from_millis(50));
            });
            assert_eq!(counters.broken().unwrap(), format!("wrong byte at offset {at} of the stream"));
        }
    }
}
