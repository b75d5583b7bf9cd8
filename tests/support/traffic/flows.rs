//! Many TCP connections at once. On each, a question and its answer are exchanged and checked several times a second.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as Listener, TcpStream as Socket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Stop;
use super::pattern::fill;
use crate::netns::Netns;
use crate::wait_until;

/// Pause between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(100);

/// Length of a question, and of its answer, in bytes.
const MESSAGE: usize = 64;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections stop by themselves after this time.
const LONGEST: Duration = Duration::from_hours(3);

/// The questions of connection `n` contain the bytes of stream `n`, the answers those of stream `n | ANSWERS`.
const ANSWERS: u64 = 1 << 32;

/// Running connections. One end asks about ten times a second, one question at a time, and the other end answers. Both know
/// every byte that must come. A connection that breaks is not opened again. Dropping this stops all.
#[derive(Debug)]
pub struct Flows {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    /// How long an end waits for an answer before the connection counts as broken.
    patience: Duration,
    flows: Vec<Flow>,
    /// Why connections broke, by number.
    broken: Mutex<BTreeMap<usize, String>>,
}

/// What the asking end of a connection has measured.
#[derive(Debug, Default)]
struct Flow {
    answers: AtomicU64,
    /// Longest wait for an answer, in microseconds.
    longest_wait: AtomicU64,
}

/// The result of [`Flows`] that were stopped.
#[derive(Debug)]
pub struct FlowsReport {
    /// Number of connections.
    pub connections: usize,
    /// Number of answered questions, over all connections.
    pub answers: u64,
    /// Why connections broke: error, reset, end of file, wrong byte, no answer in time.
    pub broken: Vec<String>,
}

impl Flows {
    /// Opens a connection for each element of `ways`: from a namespace to an address in another one. A connection without
    /// an answer for longer than `patience` counts as broken.
    ///
    /// # Errors
    /// When an address cannot be bound, or a connection cannot be opened.
    pub fn start(ways: &[(&Netns, &Netns, IpAddr)], patience: Duration) -> Result<Self> {
        let pairs = ways.iter().map(connect).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            stop: Stop::after(LONGEST),
            patience,
            flows: pairs.iter().map(|_| Flow::default()).collect(),
            broken: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let talk = talk(pairs, Arc::clone(&shared));
        let thread =
            thread::Builder::new().name("tcp flows".to_owned()).spawn(move || runtime.block_on(talk))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until every connection has had an answer to a question that it asked after this call. Returns the longest
    /// wait for an answer on any connection since the last call, or since the start.
    ///
    /// # Errors
    /// When a connection breaks first.
    pub fn wait_all(&self) -> Result<Duration> {
        let flows = &self.shared.flows;
        // One question may have been asked before this call, so two more answers are needed.
        let wanted: Vec<u64> = flows.iter().map(|flow| flow.answers() + 2).collect();
        wait_until("every connection to go on", 3 * self.shared.patience, || {
            let broken = self.shared.broken();
            ensure!(broken.is_empty(), "broken: {broken:?}");
            Ok(flows.iter().zip(&wanted).all(|(flow, wanted)| flow.answers() >= *wanted))
        })?;
        let longest = flows.iter().map(|flow| flow.longest_wait.swap(0, Ordering::Relaxed)).max();
        Ok(Duration::from_micros(longest.unwrap_or_default()))
    }

    /// Waits for the answers to open questions, closes the connections, and reports.
    ///
    /// # Errors
    /// When the thread panicked.
    pub fn stop(mut self) -> Result<FlowsReport> {
        self.finish()?;
        let (flows, broken) = (&self.shared.flows, self.shared.broken());
        Ok(FlowsReport {
            connections: flows.len(),
            answers: flows.iter().map(Flow::answers).sum(),
            broken: broken.iter().map(|(number, cause)| format!("connection {number}: {cause}")).collect(),
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.shared.stop.request();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread of the TCP flows panicked"))
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("{error:#}");
        }
    }
}

impl FlowsReport {
    /// Checks that no connection broke, and that there were answers.
    ///
    /// # Errors
    /// When that is not so.
    pub fn require_unbroken(&self) -> Result<()> {
        ensure!(self.broken.is_empty(), "{self}: {:?}", self.broken);
        ensure!(self.answers > self.connections as u64, "nothing was shown: {self}");
        Ok(())
    }
}

impl std::fmt::Display for FlowsReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections, answers, broken } = self;
        write!(f, "{connections} TCP connections, {answers} answers, {} broken", broken.len())
    }
}

impl Flow {
    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn broken(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until the stop, and then closes.
    async fn ask(&self, number: usize, mut socket: TcpStream) -> Result<()> {
        let flow = &self.flows[number];
        for index in 0.. {
            let asked = Instant::now();
            timeout(self.patience, async {
                socket.write_all(&message(number as u64, index)).await.context("asking failed")?;
                receive(&mut socket, number as u64 | ANSWERS, index).await
            })
            .await
            .map_err(|_| anyhow!("no answer to question {index} in {:?}", self.patience))??;
            flow.longest_wait.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
            flow.answers.fetch_add(1, Ordering::Relaxed);
            if self.stop.is_due() {
                break;
            }
            sleep(PAUSE).await;
        }
        socket.shutdown().await.context("closing failed")
    }

    /// Answers until the other end closes, which it does after the stop.
    async fn answer(&self, number: usize, mut socket: TcpStream) -> Result<()> {
        for index in 0.. {
            let question = timeout(2 * self.patience, receive(&mut socket, number as u64, index))
                .await
                .map_err(|_| anyhow!("question {index} does not come"))?;
            if self.stop.is_due() && question.as_ref().is_err_and(is_end_of_file) {
                break;
            }
            question?;
            socket.write_all(&message(number as u64 | ANSWERS, index)).await.context("answering failed")?;
        }
        Ok(())
    }

    /// Runs both ends of a connection until both have finished.
    async fn run(&self, number: usize, (near, far): (Socket, Socket)) -> Result<()> {
        let (near, far) = (TcpStream::from_std(near)?, TcpStream::from_std(far)?);
        let ask = async { self.ask(number, near).await.context("asking end") };
        let answer = async { self.answer(number, far).await.context("answering end") };
        tokio::try_join!(ask, answer).map(drop)
    }
}

/// Runs all connections to their end.
async fn talk(pairs: Vec<(Socket, Socket)>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for (number, pair) in pairs.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = shared.run(number, pair).await {
                shared.broken().insert(number, format!("{error:#}"));
            }
        });
    }
    connections.join_all().await;
}

fn is_end_of_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn message(stream: u64, index: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    fill(stream, index, &mut message);
    message
}

/// Reads the next message, which must be the one with this stream and index.
async fn receive(socket: &mut TcpStream, stream: u64, index: u64) -> Result<()> {
    let mut received = [0; MESSAGE];
    socket.read_exact(&mut received).await.with_context(|| format!("receiving message {index} failed"))?;
    ensure!(received == message(stream, index), "message {index} is not what was sent");
    Ok(())
}

/// Opens a connection. Returns its two ends, ready for a runtime.
fn connect(&(from, to, address): &(&Netns, &Netns, IpAddr)) -> Result<(Socket, Socket)> {
    let listener = to
        .enter(|| Listener::bind(SocketAddr::new(address, 0)))?
        .with_context(|| format!("cannot listen on {address} in {}", to.name()))?;
    let place = listener.local_addr()?;
    let near = from
        .enter(|| Socket::connect_timeout(&place, CONNECT_TIMEOUT))?
        .with_context(|| format!("no connection from {} to {place}", from.name()))?;
    // The accepted connection is that one, since nobody else knows the port.
    let (far, _) = listener.accept()?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// The reason why a connection breaks if its far end behaves like `peer`.
    fn broken_by(asks: bool, peer: impl FnOnce(Socket) + Send + 'static) -> String {
        let listener = Listener::bind(("127.0.0.1", 0)).unwrap();
        let far = Socket::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let shared = Shared {
            stop: Stop::after(Duration::from_secs(5)),
            patience: Duration::from_secs(2),
            flows: vec![Flow::default()],
            broken: Mutex::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let peer = thread::spawn(move || peer(far));
        let outcome = runtime.block_on(async {
            let near = TcpStream::from_std(near).unwrap();
            if asks { shared.ask(0, near).await } else { shared.answer(0, near).await }
        });
        peer.join().unwrap();
        format!("{:#}", outcome.unwrap_err())
    }

    #[test]
    fn whatever_else_comes_breaks_a_connection() {
        let reset = |peer: Socket| {
            let abort = libc::linger { l_onoff: 1, l_linger: 0 };
            crate::packet_socket::set_option(&peer, libc::SOL_SOCKET, libc::SO_LINGER, abort).unwrap();
        };
        for asks in [true, false] {
            // The expected message with one wrong bit, and the message that this end itself sends.
            let (theirs, own) = if asks { (ANSWERS, 0) } else { (0, ANSWERS) };
            let (mut wrong, own) = (message(theirs, 0), message(own, 0));
            wrong[MESSAGE - 1] ^= 1;
            for bytes in [wrong, own] {
                let cause = broken_by(asks, move |mut peer| {
                    peer.write_all(&bytes).unwrap();
                    // Reads until this end has closed. There may be an error, if data was left.
                    let _ = peer.read_to_end(&mut Vec::new());
                });
                assert!(cause.contains("message 0 is not what was sent"), "{cause}");
            }
            assert!(broken_by(asks, reset).contains("reset"));
            let closed = broken_by(asks, |peer| {
                peer.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = (&peer).read_to_end(&mut Vec::new());
            });
            assert!(closed.contains("receiving message 0 failed"), "{closed}");
        }
    }
}
