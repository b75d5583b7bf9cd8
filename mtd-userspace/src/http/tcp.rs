//! Listening on a TCP address.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Accept;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;

/// A TCP address that is bound, and bound again when somebody has ended listening at it.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    send_buffer: Option<u32>,
    /// The first listener, until it is taken.
    first: Mutex<Option<TcpListener>>,
}

impl Bound {
    /// Listens on the address. If `send_buffer` is given, the kernel buffers that many bytes for a client that does not read.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is not one of this host, or is in use.
    pub fn new(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<Self> {
        let first = listen(address, send_buffer)?;
        Ok(Self { address: first.local_addr()?, send_buffer, first: Mutex::new(Some(first)) })
    }

    /// The address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener; from the second time on, a new one. To listen again with the first one would not do: what was ended as by
    /// `ss -K` hands its end on to each connection.
    ///
    /// # Errors
    /// As [`Bound::new`]; also when the port is a privileged one, since that privilege is given up after the start.
    pub fn listener(&self) -> io::Result<TcpListener> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let again = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen again: {error}"));
        first.map_or_else(|| listen(self.address, self.send_buffer).map_err(again), Ok)
    }
}

fn listen(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        // Connections inherit the size from the listener.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(Self::accept(self).await?.0)
    }
}
