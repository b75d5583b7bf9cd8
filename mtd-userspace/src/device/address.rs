//! The addresses of a device.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::error::{Error, Result};
use super::netlink::{Netlink, answer, collect, request};
use super::prefix::Address;

/// The addresses of the device with this ifindex, IPv4 before IPv6.
pub(super) async fn list(netlink: &Netlink, index: u32) -> Result<Vec<IpNet>> {
    Ok(dump(netlink, index).await?.iter().filter_map(address_of).collect())
}

/// The same, and what is known of the IPv6 addresses.
pub(super) async fn examine(netlink: &Netlink, index: u32) -> Result<(Vec<IpNet>, Vec<Address>)> {
    let messages = dump(netlink, index).await?;
    let all = messages.iter().filter_map(address_of).collect();
    Ok((all, messages.iter().filter_map(ipv6_of).collect()))
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
    // Listed again: together with the primary address of an IPv4 subnet the kernel may have removed its secondary ones.
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
    let (local, far) = (find(true), find(false));
    let address: IpAddr = local.or(far)?;
    // The length is that of the far end's network there.
    let alone = local.is_some() && far.is_some() && local != far && address.is_ipv6();
    IpNet::new(address, if alone { 128 } else { message.header.prefix_len }).ok()
}

/// An IPv6 address with its flags.
fn ipv6_of(message: &AddressMessage) -> Option<Address> {
    let IpNet::V6(net) = address_of(message)? else { return None };
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    // The attribute has more of them than the header has room for, but the header's are among them.
    let flags = flags.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    Some(Address {
        net,
        deprecated: flags.contains(AddressFlags::Deprecated),
        // An optimistic address is tentative, and may be used (RFC 4429).
        tentative: flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    })
}
