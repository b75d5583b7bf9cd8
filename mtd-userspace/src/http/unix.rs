//! Listening on a Unix socket that only its owner may connect to.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixStream;

use super::Accept;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Reasons why no socket can be made at a path.
#[derive(Debug)]
pub enum BindError {
    /// Another process serves this socket.
    Live(PathBuf),
    /// There is a file of another kind at the path.
    NotASocket(PathBuf),
    /// The path is too long for a socket.
    PathTooLong(PathBuf),
    /// The operating system refused something.
    Io {
        /// The attempted operation.
        action: &'static str,
        /// The path that it was about.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl BindError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Hands the socket to the tokio runtime, within which this must be called.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub fn ready(self) -> Result<ReadyListener, BindError> {
        let Self { socket, file } = self;
        match tokio::net::UnixListener::from_std(socket) {
            Ok(socket) => Ok(ReadyListener { socket, file }),
            Err(error) => Err(BindError::io("cannot serve the socket", &file.path, error)),
        }
    }
}

/// A bound socket that a tokio runtime serves; its file is removed on close or drop.
#[derive(Debug)]
pub struct ReadyListener {
    socket: tokio::net::UnixListener,
    file: SocketFile,
}

impl Accept for ReadyListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept().await?.0)
    }

    fn close(&self) {
        self.file.remove();
    }
}

/// Removes the socket's file, unless another socket has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    removed: AtomicBool,
}

impl SocketFile {
    fn remove(&self) {
        if self.removed.swap(true, Ordering::Relaxed) {
            return;
        }
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Binds a socket with mode 0600. Makes its folder, with mode 0755, if that is missing. Replaces a stale socket.
///
/// Clients that connect wait until the socket is served. Of two calls that race for one path, the later one wins.
///
/// # Errors
/// [`BindError`].
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    make_parent(path)?;
    refuse_live(path)?;
    // The socket gets another name first and is then renamed, so that clients never find one that does not listen yet.
    let mut temporary_name = path.file_name().unwrap_or_default().to_owned();
    temporary_name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BindError::io("cannot remove the left-over", &temporary, error));
        }
        _ => {}
    }
    let address = UnixAddr::new(&temporary).map_err(|_| BindError::PathTooLong(path.to_owned()))?;
    let socket = listen(&address).map_err(|e| BindError::io("cannot bind the socket", path, e.into()))?;
    let metadata = fs::symlink_metadata(&temporary)
        .map_err(|error| BindError::io("cannot read the socket", &temporary, error))?;
    let mut file = SocketFile {
        path: temporary,
        device: metadata.dev(),
        inode: metadata.ino(),
        removed: AtomicBool::new(false),
    };
    fs::rename(&file.path, path).map_err(|error| BindError::io("cannot make the socket", path, error))?;
    path.clone_into(&mut file.path);
    Ok(Listener { socket: UnixListener::from(socket), file })
}

fn listen(address: &UnixAddr) -> nix::Result<OwnedFd> {
    let socket = stream_socket()?;
    // Sets the mode with which the kernel makes the file; with a change after the bind, others could connect in between.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), address)?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn make_parent(path: &Path) -> Result<(), BindError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    match DirBuilder::new().mode(0o755).create(parent) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(|error| BindError::io("cannot make the folder", parent, error))?,
    }
    // Independent of the umask: users other than root should be told that they need root, not that nothing runs.
    fs::set_permissions(parent, Permissions::from_mode(0o755))
        .map_err(|error| BindError::io("cannot set the mode of", parent, error))
}

/// Fails unless the path is free or has a stale socket.
fn refuse_live(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io("cannot read", path, error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let address = UnixAddr::new(path).map_err(|_| BindError::PathTooLong(path.to_owned()))?;
    match stream_socket().and_then(|probe| socket::connect(probe.as_raw_fd(), &address)) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // EAGAIN: a process listens, and its queue is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(BindError::Live(path.to_owned())),
        Err(Errno::EPROTOTYPE) => Err(BindError::NotASocket(path.to_owned())),
        Err(error) => Err(BindError::io("cannot connect to", path, error.into())),
    }
}
