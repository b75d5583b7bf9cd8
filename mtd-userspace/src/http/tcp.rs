//! Listening at a TCP address.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Accept;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;

/// Listens at the address. The kernel keeps `send_buffer` bytes for a reader that does not read, if it is told so.
/// Within a tokio runtime.
///
/// # Errors
/// The address is not one of this host, or taken.
pub fn listen(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        // Connections inherit it.
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
