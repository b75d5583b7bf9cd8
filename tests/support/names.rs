//! A name server that a test leads as it likes, and programs that ask it: for networks whose names lead to a wrong place.

use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::NamedTempFile;

use crate::netns::Netns;

/// Number of the type of a record with an IPv4 address (RFC 1035, section 3.2.2).
const A: [u8; 2] = [0, 1];

/// A name server for which every name has the same address, or for which there is no name at all. It ends when it is
/// dropped.
#[derive(Debug)]
pub struct NameServer {
    answer: Arc<Mutex<Option<Ipv4Addr>>>,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    resolver: Resolver,
}

/// The files that lead a program to a name server. They exist as long as a clone of this.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// What is to be seen, and instead of which file.
    files: Arc<[(NamedTempFile, &'static str)]>,
}

impl NameServer {
    /// Starts the server in a namespace, at an address that is added to its loopback interface.
    ///
    /// # Errors
    /// When the address cannot be used, or no thread started.
    pub fn start(netns: &Netns, address: Ipv4Addr, answer: Option<Ipv4Addr>) -> Result<Self> {
        netns.run(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
        let socket = netns.enter(|| UdpSocket::bind((address, 53)))?.context("no socket for names")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (answer, asked, stop) = (Arc::new(Mutex::new(answer)), Arc::default(), Arc::default());
        let (current, count, end) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || serve(&socket, &current, &count, &end))?;
        Ok(Self { answer, asked, stop, thread: Some(thread), resolver: Resolver::at(address)? })
    }

    /// Lets every name lead there from now on; `None`: there is no name.
    pub fn lead_to(&self, address: Option<Ipv4Addr>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// How many questions have come.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// What leads programs to this server.
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, that has been printed already.
            let _ = thread.join();
        }
    }
}

impl Resolver {
    fn at(address: Ipv4Addr) -> Result<Self> {
        let file = |text: &str| -> Result<NamedTempFile> {
            let mut file = tempfile::Builder::new().prefix("mtdt-").tempfile()?;
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        let servers = file(&format!("nameserver {address}\noptions timeout:1 attempts:1\n"))?;
        // A host's own services for names know nothing of this server.
        let order = file("hosts: files dns\n")?;
        Ok(Self { files: [(servers, "/etc/resolv.conf"), (order, "/etc/nsswitch.conf")].into() })
    }

    /// Lets a program ask this server. The program gets a mount namespace of its own, which ends with it, so that nothing is
    /// left behind; mounts that come and go outside of it are seen inside.
    pub fn lead(&self, command: &mut Command) {
        let files = self.clone();
        let enter = move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            for (file, instead_of) in files.files.iter() {
                mount(Some(file.path()), *instead_of, none, MsFlags::MS_BIND, none)?;
            }
            Ok::<(), io::Error>(())
        };
        // SAFETY: between fork and exec the closure makes system calls only, with short paths that are copied to the stack;
        // nothing locks or panics.
        unsafe { command.pre_exec(enter) };
    }
}

fn serve(socket: &UdpSocket, answer: &Mutex<Option<Ipv4Addr>>, asked: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let address = *answer.lock().unwrap_or_else(PoisonError::into_inner);
                asked.fetch_add(1, Ordering::Relaxed);
                if let Some(reply) = reply(&buffer[..length], address) {
                    send(socket, &reply, from);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // A program that asked has ended.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("the name server's socket: {error}"),
        }
    }
}

fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    // Whoever asked may be gone.
    let _ = socket.send_to(reply, to);
}

/// The answer to a question with one name (RFC 1035, section 4).
fn reply(question: &[u8], address: Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let (head, rest) = question.split_at_checked(12)?;
    let mut end = 0;
    while rest.get(end).copied()? != 0 {
        end += 1 + usize::from(rest[end]);
    }
    let name = rest.get(..=end)?;
    let kind = rest.get(end + 1..end + 5)?;
    let answers = u8::from(address.is_some() && kind[..2] == A);
    // An answer, from whoever asks, recursion available; 3: no such name.
    let code = if address.is_some() { 0 } else { 3 };
    let mut reply = [&head[..2], &[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]].concat();
    reply.extend([name, kind].concat());
    if let Some(address) = address.filter(|_| answers > 0) {
        // The name of the question, type A, class IN, not to be remembered, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_as_they_should() {
        let question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03dht\x07example\0\0\x01\0\x01";
        let address = Ipv4Addr::new(198, 18, 0, 7);
        let good = reply(question, Some(address)).unwrap();
        assert_eq!(good[..12], *b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0");
        assert!(good.ends_with(&[0, 4, 198, 18, 0, 7]));
        assert_eq!(reply(question, None).unwrap()[3] & 0xf, 3);
        let mut six = question.to_vec();
        six[question.len() - 3] = 28;
        assert_eq!(reply(&six, Some(address)).unwrap()[7], 0, "no IPv6 addresses");
        assert!((0..question.len()).all(|length| reply(&question[..length], Some(address)).is_none()));
    }
}
