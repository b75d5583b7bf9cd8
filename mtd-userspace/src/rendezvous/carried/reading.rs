//! A client's file with introductions: read when it changes, believed only as far as it opens.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::Config;
use crate::files;
use crate::keys::PublicKey;
use crate::model::ClientId;
use crate::proto::rendezvous::carried::{Carried, MAX_FILE_BYTES};
use crate::proto::rendezvous::{Introduction, Rendezvous, Shared, windows_around};
use crate::status::IntroductionFile;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The file of one `[[server]]`.
pub(in crate::rendezvous) struct Source {
    /// The server.
    pub(in crate::rendezvous) client: ClientId,
    name: String,
    path: PathBuf,
    shared: Shared,
    server: PublicKey,
    public: PublicKey,
    /// Length of a window of the server's, in s.
    window: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    carried: Option<Carried>,
    problem: Option<String>,
}

/// The content of a file, or why it cannot be read.
type Content = Result<Vec<u8>, String>;

impl Source {
    /// The files that a configuration names.
    pub(in crate::rendezvous) fn all(config: &Config) -> Vec<Arc<Self>> {
        let Some(identity) = &config.identity else { return Vec::new() };
        let one = |(n, server): (usize, &crate::config::Server)| {
            Some(Arc::new(Self {
                client: ClientId(n as u32),
                name: server.name.clone(),
                path: server.introduction_file.clone()?,
                shared: Shared::new(&identity.key, &server.public_key)?,
                server: server.public_key,
                public: identity.key.public(),
                window: server.window.as_secs(),
                state: Mutex::default(),
            }))
        };
        config.servers.iter().enumerate().filter_map(one).collect()
    }

    /// The introduction of a window, if the file has one that opens.
    pub(in crate::rendezvous) fn find(&self, window: u64) -> Option<Introduction> {
        let sealed = *self.lock().carried.as_ref()?.sealed.get(&window)?;
        Introduction::open(&self.rendezvous(window), &sealed).ok()
    }

    /// Takes what the file contains now, and returns the introductions for the windows around this Unix time in s.
    pub(in crate::rendezvous) fn take(&self, content: &Content, now: u64) -> Vec<(u64, Introduction)> {
        let result = content.as_ref().map_err(Clone::clone).and_then(|bytes| self.check(bytes));
        let mut state = self.lock();
        *state = match result {
            Ok(carried) => {
                info!("introductions of {} in {}: {}", self.name, self.path.display(), carried.sealed.len());
                State { carried: Some(carried), problem: None }
            }
            Err(problem) => {
                warn!("introductions of {} in {} are not used: {problem}", self.name, self.path.display());
                State { carried: None, problem: Some(problem) }
            }
        };
        drop(state);
        let present = windows_around(now, self.window).into_iter();
        present.filter_map(|window| Some((window, self.find(window)?))).collect()
    }

    fn check(&self, bytes: &[u8]) -> Result<Carried, String> {
        let carried = Carried::parse(bytes).map_err(|error| error.to_string())?;
        if carried.window != self.window {
            return Err(format!(
                "the server's windows have {} s, here they have {} s: set window of this [[server]] to \"{0}s\"",
                carried.window, self.window
            ));
        }
        for (window, sealed) in &carried.sealed {
            Introduction::open(&self.rendezvous(*window), sealed).map_err(|error| {
                format!(
                    "{error}: get the file that the server has for this client, and compare both public keys"
                )
            })?;
        }
        Ok(carried)
    }

    fn rendezvous(&self, window: u64) -> Rendezvous {
        self.shared.rendezvous(&self.server, &self.public, window)
    }

    /// The part of the status, at this Unix time in s.
    pub(in crate::rendezvous) fn status(&self, now: u64) -> IntroductionFile {
        let state = self.lock();
        let end = state.carried.as_ref().map(Carried::end);
        let first = state.carried.as_ref().and_then(|carried| carried.sealed.keys().next().copied());
        let not_now = || {
            // A window's introduction serves from up to a third of it before to some time after it.
            if end.is_some_and(|end| now >= end) {
                Some("it is too old: all its introductions are over; get a new one, and see that the clock is right".to_owned())
            } else if first.is_some_and(|first| now + self.window < first) {
                Some("all its introductions are for times to come: see that the clock is right".to_owned())
            } else {
                None
            }
        };
        IntroductionFile {
            server: Some(self.name.clone()),
            path: self.path.display().to_string(),
            good_until: end.map(|end| end as f64),
            problem: state.problem.clone().or_else(not_now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the files for as long as the receiver is there, and sends each content that is new. On a thread of its own,
/// since a disk or a file system of the network may hang.
///
/// # Errors
/// When no thread can be started.
pub(in crate::rendezvous) fn watch(
    sources: Vec<Arc<Source>>,
) -> io::Result<mpsc::Receiver<(Arc<Source>, Content)>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::Builder::new().name("mtd-carried".to_owned()).spawn(move || {
        let mut seen: Vec<Option<Result<Stamp, String>>> = vec![None; sources.len()];
        while !sender.is_closed() {
            for (source, seen) in sources.iter().zip(&mut seen) {
                let now = stamp(&source.path);
                if seen.as_ref() == Some(&now) {
                    continue;
                }
                let content = now.clone().and_then(|_| read(&source.path));
                *seen = Some(now);
                if sender.blocking_send((Arc::clone(source), content)).is_err() {
                    return;
                }
            }
            thread::sleep(LOOK);
        }
    })?;
    Ok(receiver)
}

/// What tells one content of a file from another: inode, time of change, length.
type Stamp = (u64, i64, i64, u64);

fn stamp(path: &Path) -> Result<Stamp, String> {
    let of = |meta: Metadata| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
    fs::metadata(path).map(of).map_err(|error| trouble(&error))
}

fn read(path: &Path) -> Content {
    let bytes = fs::File::open(path).and_then(|file| files::read_most(file, MAX_FILE_BYTES as u64));
    bytes.map_err(|error| trouble(&error))
}

fn trouble(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;
    use mtd_common::address::Network;

    const WINDOW: u64 = 900;

    fn source(client: &SecretKey, server: &SecretKey, window: u64) -> Source {
        Source {
            client: ClientId(0),
            name: "home".to_owned(),
            path: "/nowhere".into(),
            shared: Shared::new(client, &server.public()).unwrap(),
            server: server.public(),
            public: client.public(),
            window,
            state: Mutex::default(),
        }
    }

    fn keys() -> (SecretKey, SecretKey) {
        (SecretKey::from_bytes([7; 32]), SecretKey::from_bytes([9; 32]))
    }

    /// The file of a server for a client, for these windows.
    fn file(client: &SecretKey, server: &SecretKey, windows: &[u64]) -> Vec<u8> {
        let shared = Shared::new(server, &client.public()).unwrap();
        let mut prefix = [0; 16];
        prefix[0] = 0x20;
        let introduction = Introduction {
            network: Network { prefix, length: 64 },
            seed: [3; 8],
            key: SecretKey::from_bytes([5; 32]),
            rot: Duration::from_secs(3),
            slot: Duration::from_secs(30),
            published_ms: 1000,
        };
        let seal = |window: &u64| {
            let rendezvous = shared.rendezvous(&server.public(), &client.public(), *window);
            (*window, introduction.seal(&rendezvous, [1; 24]).unwrap())
        };
        let carried = Carried { window: WINDOW, sealed: windows.iter().map(seal).collect() };
        carried.to_text().into_bytes()
    }

    #[test]
    fn what_the_server_sealed_for_this_client_is_taken() {
        let (client, server) = keys();
        let source = source(&client, &server, WINDOW);
        let windows: Vec<_> = (10..14).map(|n| n * WINDOW).collect();
        let found = source.take(&Ok(file(&client, &server, &windows)), 10 * WINDOW + 5);
        assert_eq!(found.iter().map(|(window, _)| *window).collect::<Vec<_>>(), [10 * WINDOW, 11 * WINDOW]);
        assert!(source.find(13 * WINDOW).is_some() && source.find(14 * WINDOW).is_none());
        let status = source.status(10 * WINDOW);
        assert_eq!((status.problem, status.good_until), (None, Some(14.0 * WINDOW as f64)));
        assert!(source.status(14 * WINDOW).problem.unwrap().contains("too old"));
        assert!(source.status(0).problem.unwrap().contains("times to come"));
    }

    #[test]
    fn what_is_not_for_this_client_is_refused_with_the_reason() {
        let (client, server) = keys();
        let other = SecretKey::from_bytes([11; 32]);
        let good = file(&client, &server, &[10 * WINDOW, 11 * WINDOW]);
        let mut forged = good.clone();
        let at = forged.len() - 20;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        for (bytes, reason) in [
            (file(&other, &server, &[10 * WINDOW]), "not sealed by this server for this client"),
            (file(&client, &other, &[10 * WINDOW]), "not sealed by this server for this client"),
            (forged, "not sealed by this server for this client"),
            (b"<html>".to_vec(), "not a file of `mtd introduction`"),
            (vec![b'#'; MAX_FILE_BYTES + 1], "larger than"),
            (good[..good.len() - 9].to_vec(), "line 3 is broken"),
        ] {
            let source = source(&client, &server, WINDOW);
            assert!(source.take(&Ok(bytes), 10 * WINDOW).is_empty());
            let problem = source.status(10 * WINDOW).problem.unwrap();
            assert!(problem.contains(reason), "{problem}");
            // The next file is taken as if nothing had been.
            assert_eq!(source.take(&Ok(good.clone()), 10 * WINDOW).len(), 2);
        }
        let source = source(&client, &server, 600);
        assert!(source.take(&Ok(good), 10 * WINDOW).is_empty());
        assert!(source.status(0).problem.unwrap().contains("window of this [[server]] to \"900s\""));
    }

    #[test]
    fn files_are_read_when_they_change_and_never_beyond_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home.introduction");
        assert!(stamp(&path).unwrap_err().contains("cannot be read"));
        fs::write(&path, b"one").unwrap();
        let one = stamp(&path).unwrap();
        assert_eq!((stamp(&path).unwrap(), read(&path).unwrap()), (one, b"one".to_vec()));
        files::replace(&path, &vec![b'#'; 2 * MAX_FILE_BYTES], 0o600).unwrap();
        assert_ne!(stamp(&path).unwrap(), one);
        assert_eq!(read(&path).unwrap().len(), MAX_FILE_BYTES + 1);
    }
}
