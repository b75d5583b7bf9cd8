//! Starting a node: the addresses of bootstrap nodes, and the crate's builder.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use mainline::{Dht, RequestFilter, RequestSpecific, ServerSettings};
use tokio::time::timeout;

use super::mark::mark_sockets;
use super::{DhtConfig, RESOLVE, StoreError, names};

/// How names are resolved.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By the C library.
    Library,
    /// By these name servers, in packets with this mark, since the C library's would go into the tunnel.
    Marked(Vec<IpAddr>, u32),
}

impl Way {
    /// The way for nodes with this configuration.
    pub(super) fn of(config: &DhtConfig) -> Self {
        if config.mark == 0 {
            Self::Library
        } else {
            Self::Marked(names::servers(&config.tunnel_dns), config.mark)
        }
    }
}

/// IPv4 addresses of a bootstrap node; none when its name does not resolve.
pub(super) async fn resolve(name: String, way: Way) -> Vec<SocketAddrV4> {
    if let (Way::Marked(servers, mark), Some((host, port))) = (way, name.rsplit_once(':'))
        && let Ok(port) = port.parse()
    {
        let found = names::resolve(host, &servers, mark).await;
        if !found.is_empty() {
            return found.into_iter().map(|address| SocketAddrV4::new(address, port)).collect();
        }
        // Local name servers may have another way out.
    }
    match timeout(RESOLVE, tokio::net::lookup_host(&name)).await {
        Ok(Ok(addresses)) => addresses
            .filter_map(|address| match address {
                SocketAddr::V4(address) => Some(address),
                SocketAddr::V6(_) => None,
            })
            .collect(),
        Ok(Err(error)) => {
            tracing::debug!("bootstrap node {name}: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!("bootstrap node {name}: its name does not resolve in time");
            Vec::new()
        }
    }
}

/// Starts a node. The crate's builder waits for the new thread.
pub(super) async fn build(config: DhtConfig, bootstrap: Vec<SocketAddrV4>) -> Result<Dht, StoreError> {
    let mark = config.mark;
    let start = move || {
        let mut builder = Dht::builder();
        builder.bootstrap(&bootstrap).request_timeout(config.request_timeout);
        // Without a port, the crate would use the well-known port of BitTorrent.
        let (address, port) = (config.bind.unwrap_or(Ipv4Addr::UNSPECIFIED), config.port.unwrap_or(0));
        builder.bind_address(address).port(port);
        // If its thread ends early, the crate does not always report why.
        drop(UdpSocket::bind((address, port))?);
        let mut settings =
            ServerSettings { max_mutable_values: config.max_items, ..ServerSettings::default() };
        if config.serve {
            builder.server_mode();
        } else {
            settings.filter = Box::new(Nobody);
        }
        builder.server_settings(settings).build()
    };
    let ended = |_| StoreError::Socket("the node ended as soon as it had started".to_owned());
    let refused = |error: io::Error| StoreError::Socket(error.to_string());
    let dht = tokio::task::spawn_blocking(start).await.map_err(ended)?.map_err(refused)?;
    if mark != 0 {
        let node = dht.clone().as_async();
        // The crate's method panics when the node has ended.
        let port = tokio::spawn(async move { node.info().await.local_addr().port() }).await.map_err(ended)?;
        // The first packets may have gone out without it, and are repeated.
        mark_sockets(port, mark).map_err(refused)?;
    }
    Ok(dht)
}

/// Answers nothing, in case the node should become a server.
#[derive(Clone, Copy, Debug)]
struct Nobody;

impl RequestFilter for Nobody {
    fn allow_request(&self, _: &RequestSpecific, _: SocketAddrV4) -> bool {
        false
    }
}
