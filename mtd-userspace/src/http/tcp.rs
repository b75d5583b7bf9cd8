//! Listening on a TCP address.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Accept;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;

/// Listens on the address. If `send_buffer` is given, the kernel buffers that many bytes for a client that does not read.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When the address is not one of this host, or is in use.
pub fn listen(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
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
