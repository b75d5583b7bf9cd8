//! Raw frames sent from an interface of a namespace.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, send};

use crate::netns::Netns;
use crate::packet_socket::{self, Receive};

/// An interface as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, unique in its namespace only.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

impl Interface {
    /// Looks an interface up in a namespace.
    ///
    /// # Errors
    /// When there is no interface of that name, or it has no Ethernet address.
    pub fn resolve(netns: &Netns, ifname: &str) -> Result<Self> {
        let find = || -> Result<Self> {
            let index = if_nametoindex(ifname).context("no such interface")?;
            let mac = getifaddrs()?
                .filter(|entry| entry.interface_name == ifname)
                .find_map(|entry| entry.address?.as_link_addr()?.addr())
                .context("it has no Ethernet address")?;
            Ok(Self { name: ifname.to_owned(), index, mac })
        };
        netns.enter(find)?.with_context(|| format!("interface {ifname} in {}", netns.name()))
    }
}

/// Sends raw Ethernet frames from one interface, as they are.
#[derive(Debug)]
pub struct Injector {
    interface: Interface,
    socket: OwnedFd,
}

impl Injector {
    /// Opens a sending socket on an interface.
    ///
    /// # Errors
    /// When there is no such interface, or without root.
    pub fn open(netns: &Netns, ifname: &str) -> Result<Self> {
        let interface = Interface::resolve(netns, ifname)?;
        let socket = packet_socket::open(netns, &interface, Receive::Nothing, |_| Ok(()))?;
        Ok(Self { interface, socket })
    }

    /// The interface from which it sends.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Sends one frame, Ethernet header included, checksums as given.
    ///
    /// # Errors
    /// When the kernel refuses it: shorter than an Ethernet header (14 bytes), longer than the MTU allows, link down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("cannot send {} bytes from {}", frame.len(), self.interface.name))?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes were sent", frame.len());
        Ok(())
    }
}
