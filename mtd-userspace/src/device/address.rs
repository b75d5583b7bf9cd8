//! The addresses of a device.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::error::{Error, Result};
use super::netlink::{Netlink, answer, collect, request};

/// The addresses of the device with this ifindex, IPv4 before IPv6.
pub(super) async fn list(netlink: &Netlink, index: u32) -> Result<Vec<IpNet>> {
    Ok(dump(netlink, index).await?.iter().filter_map(address_of).collect())
}

/// Gives a device exactly the `wanted` addresses, leaving those untouched that it already has. Notes what was changed.
pub(super) async fn sync(
    netlink: &Netlink,
    name: &str,
    index: u32,
    wanted: &[IpNet],
    changes: &mut Vec<String>,
) -> Result<()> {
    for message in dump(netlink, index).await? {
        let Some(address) = address_of(&message) else { continue };
        if !wanted.contains(&address) {
            remove(netlink, name, address, message).await?;
            changes.push(format!("the address {address} removed"));
        }
    }
    // Listed anew: with the primary address of an IPv4 subnet the kernel may have removed its secondary ones.
    let mut present = list(netlink, index).await?;
    for &address in wanted {
        if !present.contains(&address) {
            add(netlink, name, index, address).await?;
            changes.push(format!("the address {address} added"));
            present.push(address);
        }
    }
    Ok(())
}

async fn dump(netlink: &Netlink, index: u32) -> Result<Vec<AddressMessage>> {
    let mut messages = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut get = netlink.handle.address().get();
        get.message_mut().header.family = family;
        get.message_mut().header.index = index;
        messages.extend(collect("list the addresses", get.execute()).await?);
    }
    messages.retain(|message| message.header.index == index);
    Ok(messages)
}

async fn add(netlink: &Netlink, name: &str, index: u32, address: IpNet) -> Result<()> {
    let mut add = netlink.handle.address().add(index, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        // No duplicate address detection: there is no neighbour behind the tunnel device that could answer.
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request(|| format!("give {name} the address {address}"), add.execute()).await
}

async fn remove(netlink: &Netlink, name: &str, address: IpNet, message: AddressMessage) -> Result<()> {
    match answer(netlink.handle.address().del(message).execute()).await {
        Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => {
            Err(Error::Netlink { action: format!("remove the address {address} from {name}"), cause: error })
        }
        _ => Ok(()),
    }
}

/// The local address of an address message; on a point-to-point address `Address` is the far end's.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    let address: IpAddr = find(true).or_else(|| find(false))?;
    IpNet::new(address, message.header.prefix_len).ok()
}
