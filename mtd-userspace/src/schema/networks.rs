//! Addresses and networks that several sections use.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};
use mtd_common::address::{PREFIX_LENGTHS, SINGLE_ADDRESS};

use crate::model::{Fault, shown};

/// Shortest and longest protected prefix in bits (requirement MT-06).
const PREFIX_RANGE: (u8, u8) = (*PREFIX_LENGTHS.start(), *PREFIX_LENGTHS.end());

/// A protected prefix, own or a peer's (requirement MT-06), or the single address of an end whose ports alone move.
///
/// # Errors
/// When the text is not one.
pub fn prefix(text: &str) -> Result<Ipv6Net, Fault> {
    let net = match text.parse::<IpNet>() {
        Ok(IpNet::V6(net)) => net,
        Ok(IpNet::V4(_)) => {
            let what = format!("{text} is IPv4; protected prefixes are IPv6");
            return Err(Fault::new(what, "write an IPv6 prefix, such as 2001:db8:1::/64"));
        }
        Err(_) => return Err(not_a_network(text, PREFIX_RANGE.0, "2001:db8:1::/64")),
    };
    check_prefix_length(net)?;
    if let Some(kind) = reserved(net) {
        let remedy = "write a unicast prefix that belongs to this deployment, such as 2001:db8:1::/64";
        return Err(Fault::new(format!("{net} is {kind}"), remedy));
    }
    check_host_bits(net.into())?;
    Ok(net)
}

fn check_prefix_length(net: Ipv6Net) -> Result<(), Fault> {
    let (least, most) = PREFIX_RANGE;
    let nearest = net.prefix_len().clamp(least, most);
    if nearest == net.prefix_len() || net.prefix_len() == SINGLE_ADDRESS {
        return Ok(());
    }
    let what = format!(
        "{net} has {} bits; a protected prefix has {least} to {most}, or {SINGLE_ADDRESS} where ports alone move",
        net.prefix_len()
    );
    // The clamp keeps it within 128 bits; even without an example the remedy is clear.
    let example = Ipv6Net::new(net.addr(), nearest)
        .map_or_else(|_| String::new(), |net| format!(", such as {}", net.trunc()));
    Err(Fault::new(what, format!("write a prefix of {least} to {most} bits{example}")))
}

fn reserved(net: Ipv6Net) -> Option<&'static str> {
    let address = net.addr();
    if address.is_multicast() {
        Some("multicast")
    } else if address.is_unicast_link_local() {
        Some("link-local")
    } else if address.is_loopback() {
        Some("loopback")
    } else if net.contains(&Ipv6Addr::UNSPECIFIED) {
        Some("around the unspecified address")
    } else if address.to_ipv4_mapped().is_some() {
        Some("for IPv4-mapped addresses, which are never on the wire")
    } else {
        None
    }
}

/// Checks that a host can have this address in a network.
///
/// # Errors
/// When it cannot; the remedy shows `example`.
pub fn check_unicast(address: IpAddr, example: &str) -> Result<(), Fault> {
    let usable = match address {
        IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_unspecified() && !v4.is_loopback() && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback() && v6.to_ipv4_mapped().is_none()
        }
    };
    if usable {
        return Ok(());
    }
    let what = format!("{address} is not an address that a host can have in a network");
    Err(Fault::new(what, format!("write a unicast address, such as {example}")))
}

/// An address and a port to listen on, written like `example`.
///
/// # Errors
/// When the text is not one, or the port is 0.
pub fn listen_address(text: &str, example: &str) -> Result<SocketAddr, Fault> {
    let address = text.parse::<SocketAddr>().map_err(|_| {
        let what = format!("\"{}\" is not an address with a port", shown(text));
        Fault::new(what, format!("write it like {example}"))
    })?;
    if address.port() == 0 {
        return Err(Fault::new(
            "port 0 means a different port at each start",
            format!("write it like {example}"),
        ));
    }
    Ok(address)
}

/// An inner network of a peer or server.
///
/// # Errors
/// When the text is not one.
pub fn inner_network(text: &str) -> Result<IpNet, Fault> {
    let length = if text.contains(':') { 128 } else { 32 };
    let net =
        text.parse::<IpNet>().map_err(|_| not_a_network(text, length, "fd00:6d74::2/128 or 10.66.0.2/32"))?;
    check_host_bits(net)?;
    let mapped = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.addr().to_ipv4_mapped(),
        _ => None,
    };
    match mapped {
        None => Ok(net),
        Some(v4) => {
            let what = format!("{net} is an IPv4 network in IPv6 form");
            Err(Fault::new(what, format!("write {v4}/{}", net.prefix_len() - 96)))
        }
    }
}

/// Checks that the bits behind the prefix of a network are zero.
///
/// # Errors
/// When they are not.
pub fn check_host_bits(net: IpNet) -> Result<(), Fault> {
    if net.addr() == net.network() {
        return Ok(());
    }
    Err(Fault::new(format!("host bits are set in {net}"), format!("write {}", net.trunc())))
}

/// The fault in a text that is not a network: `length` is the one to propose for a plain address.
pub fn not_a_network(text: &str, length: u8, example: &str) -> Fault {
    match text.parse::<IpAddr>().map(|address| IpNet::new(address, length)) {
        Ok(Ok(net)) => {
            let proposed =
                if length == PREFIX_RANGE.0 && example.ends_with("::/64") { net.trunc() } else { net };
            Fault::new(format!("{text} has no prefix length"), format!("write {proposed}"))
        }
        _ => Fault::new(
            format!("\"{}\" is not an address with a prefix length", shown(text)),
            format!("write it like {example}"),
        ),
    }
}
