//! Starting a node: the addresses of bootstrap nodes, and the crate's builder.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use mainline::{Dht, RequestFilter, RequestSpecific, ServerSettings};
use tokio::time::timeout;

use super::{DhtConfig, RESOLVE, StoreError};

/// IPv4 addresses of a bootstrap node; none when its name does not resolve.
pub(super) async fn resolve(name: String) -> Vec<SocketAddrV4> {
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
    match tokio::task::spawn_blocking(start).await {
        Ok(Ok(dht)) => Ok(dht),
        Ok(Err(error)) => Err(StoreError::Socket(error.to_string())),
        Err(_) => Err(StoreError::Socket("the node ended as soon as it had started".to_owned())),
    }
}

/// Answers nothing, in case the node should become a server.
#[derive(Clone, Copy, Debug)]
struct Nobody;

impl RequestFilter for Nobody {
    fn allow_request(&self, _: &RequestSpecific, _: SocketAddrV4) -> bool {
        false
    }
}
