//! How long a client takes from its start to the first packet through the tunnel and back. This is measured from outside, by
//! a socket that continually sends questions to the server's tunnel address.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use mtd_tests::netns::Netns;

/// Time between two questions, which is also the precision of the measurement.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(10);

/// How long a receiving call may block before the stop flag is checked.
const CALL_TIMEOUT: Duration = Duration::from_millis(50);

/// Sends every datagram back. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Echo {
    address: SocketAddr,
    _worker: Worker,
}

/// Sends questions to an [`Echo`] until it answers. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Asker {
    counts: Arc<Counts>,
    worker: Worker,
}

/// The counts of an [`Asker`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Questions that this host's kernel accepted.
    pub(crate) sent: u64,
    /// Answers.
    pub(crate) answers: u64,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    answers: AtomicU64,
}

#[derive(Debug)]
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Instant>>>,
}

impl Echo {
    /// Binds an address of the namespace.
    ///
    /// # Errors
    /// When the namespace does not have it.
    pub(crate) fn start(netns: &Netns, address: Ipv6Addr) -> Result<Self> {
        Self::on(netns.enter(|| UdpSocket::bind((address, 0)))?.context("no socket on the tunnel")?)
    }

    fn on(socket: UdpSocket) -> Result<Self> {
        socket.set_read_timeout(Some(CALL_TIMEOUT))?;
        let address = socket.local_addr()?;
        let worker = Worker::spawn("echo", move |stop| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::SeqCst) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // If the answer is lost, the asker asks again.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
            None
        })?;
        Ok(Self { address, _worker: worker })
    }

    /// The address at which it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Asker {
    /// Sends questions from a namespace at the interval `every`, until the first answer comes. As long as there is no
    /// tunnel, the questions get lost, which is no error.
    ///
    /// # Errors
    /// When no socket can be opened, or the kernel has no random numbers.
    pub(crate) fn start(netns: &Netns, server: SocketAddr, every: Duration) -> Result<Self> {
        // Not connected, so that each question is routed anew and errors about earlier ones have no effect.
        Self::on(
            netns.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?.context("no socket")?,
            server,
            every,
        )
    }

    fn on(socket: UdpSocket, server: SocketAddr, every: Duration) -> Result<Self> {
        let mut question = [0; 16];
        getrandom::fill(&mut question)
            .map_err(|error| anyhow!("the kernel has no random numbers: {error}"))?;
        socket.set_read_timeout(Some(every))?;
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let worker = Worker::spawn("asker", move |stop| {
            let mut due = Instant::now();
            while !stop.load(Ordering::SeqCst) {
                if Instant::now() >= due {
                    due = Instant::now() + every;
                    shared
                        .sent
                        .fetch_add(u64::from(socket.send_to(&question, server).is_ok()), Ordering::Relaxed);
                }
                let mut answer = [0; 64];
                match socket.recv(&mut answer) {
                    Ok(length) if answer[..length] == question => {
                        let now = Instant::now();
                        shared.answers.fetch_add(1, Ordering::Relaxed);
                        return Some(now);
                    }
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => thread::sleep(every),
                }
            }
            None
        })?;
        Ok(Self { counts, worker })
    }

    /// Whether an answer has come.
    pub(crate) fn is_answered(&self) -> bool {
        self.counts.answers.load(Ordering::Relaxed) > 0
    }

    /// Stops. Returns when the answer came, and the counts.
    pub(crate) fn stop(mut self) -> (Option<Instant>, Asked) {
        let when = self.worker.finish();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (when, Asked { sent: load(&self.counts.sent), answers: load(&self.counts.answers) })
    }
}

impl Worker {
    fn spawn(name: &str, work: impl FnOnce(&AtomicBool) -> Option<Instant> + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&flag))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn finish(&mut self) -> Option<Instant> {
        self.stop.store(true, Ordering::SeqCst);
        // If the thread panicked, that has been printed already, and counts as no answer.
        self.thread.take()?.join().ok().flatten()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_counts_and_silence_does_not() {
        let socket = || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let echo = Echo::on(socket()).unwrap();
        let start = Instant::now();
        let asker = Asker::on(socket(), echo.address(), ASK_EVERY).unwrap();
        mtd_tests::wait_until("an answer", Duration::from_secs(10), || Ok(asker.is_answered())).unwrap();
        let (when, asked) = asker.stop();
        assert!(when.is_some_and(|when| when >= start), "{when:?}");
        assert_eq!(asked.answers, 1);
        assert!(asked.sent >= 1);

        let silent = socket();
        let asker = Asker::on(socket(), silent.local_addr().unwrap(), ASK_EVERY).unwrap();
        thread::sleep(5 * ASK_EVERY);
        assert!(!asker.is_answered());
        let (when, asked) = asker.stop();
        assert_eq!((when, asked.answers), (None, 0));
        assert!(asked.sent >= 2, "{asked:?}");
    }
}
