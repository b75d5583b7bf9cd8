//! Errors of the control socket, and their remedies.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crate::http::unix::BindError;
use crate::remedy::{Doing, clause};

/// A failure at the control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody serves the socket.
    #[error("no controller is running for {owner}; start one with `mtd run -c FILE`")]
    NotRunning {
        /// The interface, or the socket if that is not in its usual place.
        owner: String,
    },

    /// Only root may talk to the controller.
    #[error("no permission for {}{}", path.display(), no_permission())]
    PermissionDenied {
        /// The socket or its folder.
        path: PathBuf,
    },

    /// Another controller serves the socket.
    #[error(
        "another controller is running and answers at {}; stop it first, or give each configuration an interface and \
         a control socket of its own",
        socket.display()
    )]
    AlreadyRunning {
        /// The socket.
        socket: PathBuf,
    },

    /// There is something else at the socket's path.
    #[error("{} is not a control socket; move it away, or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },

    /// The path is too long for a socket.
    #[error("{} is too long for the name of a Unix socket (at most 107 bytes); choose a shorter path", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },

    /// The operating system refused something.
    #[error("{action} {}: {cause}{}", path.display(), clause(Doing::File(""), cause))]
    Io {
        /// The attempted operation.
        action: &'static str,
        /// The path that it was about.
        path: PathBuf,
        /// The error of the operating system. Not marked as a source, since the text contains it already.
        cause: io::Error,
    },

    /// The network namespace cannot be determined.
    #[error("cannot tell which network namespace this is")]
    Namespace(#[source] io::Error),

    /// The controller did not answer in time.
    #[error(
        "the controller at {} did not answer within {seconds} s; it may be overloaded or stopped (see its log)",
        socket.display()
    )]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// The time-out.
        seconds: u64,
    },

    /// The connection broke during the exchange.
    #[error("the connection to the controller at {} broke; see the controller's log", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The error of HTTP.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The controller answered the request with an error.
    #[error("the controller at {} refused: {message}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The error in the answer, or the HTTP status if there was none.
        message: String,
    },

    /// The answer cannot be understood.
    #[error(
        "the answer from {} is not a controller's of this version ({problem}); check the path, and that the same version \
         of mtd is running",
        socket.display()
    )]
    Unintelligible {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with the answer.
        problem: String,
    },
}

fn no_permission() -> String {
    clause(Doing::File(""), &io::Error::from_raw_os_error(libc::EACCES))
}

impl ControlError {
    /// The error for a failed operation on a path.
    pub(super) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path: path.to_owned() },
            _ => Self::Io { action, path: path.to_owned(), cause },
        }
    }

    /// The error for an exchange that broke off.
    pub(super) fn broken(socket: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken { socket: socket.to_owned(), source: source.into() }
    }

    /// The error for an answer that cannot be read.
    pub(super) fn unintelligible(socket: &Path, problem: &dyn Display) -> Self {
        Self::Unintelligible { socket: socket.to_owned(), problem: problem.to_string() }
    }
}

impl From<BindError> for ControlError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Live(socket) => Self::AlreadyRunning { socket },
            BindError::NotASocket(path) => Self::NotASocket { path },
            BindError::PathTooLong(path) => Self::PathTooLong { path },
            BindError::Io { action, path, source } => Self::io(action, &path, source),
        }
    }
}
