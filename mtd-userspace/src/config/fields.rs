//! The values of single keys: text to type, or what is wrong with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use humantime::{format_duration, parse_duration};
use ipnet::{IpNet, Ipv6Net};

use super::error::nearest;
use super::{POOL_V4_LENGTHS, POOL_V6_LENGTHS, WINDOW_RANGE};
use crate::keys::{PublicKey, SecretKey};
use crate::model::{Fault, shown};

/// What the name of the inside end of the tunnel device has at its end.
pub(super) const INSIDE_SUFFIX: &str = "x";

/// The kernel's IFNAMSIZ less the zero byte.
const MAX_INTERFACE_NAME: usize = 15;

/// The `sun_path` of a socket address less the zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// Longest name of a peer.
const MAX_PEER_NAME: usize = 32;

/// Longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST_NAME: usize = 253;

/// Lengths of a protected prefix (requirement MT-06).
const PREFIX_LENGTHS: (u8, u8) = (64, 112);

pub(super) fn interface(text: &str) -> Result<String, Fault> {
    interface_name(text, MAX_INTERFACE_NAME)
}

pub(super) fn device(text: &str) -> Result<String, Fault> {
    interface_name(text, MAX_INTERFACE_NAME - INSIDE_SUFFIX.len())
}

/// A command for the shell.
pub(super) fn command(text: &str) -> Result<String, Fault> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(Fault::new("is no command", "write a command as for /bin/sh -c, or leave it out"));
    }
    Ok(text.to_owned())
}

/// The rules of the kernel's `dev_valid_name`, in ASCII, and no `%`, which the kernel takes for a pattern.
fn interface_name(text: &str, most: usize) -> Result<String, Fault> {
    let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if (1..=most).contains(&text.len()) && text.chars().all(valid) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let what = format!("\"{}\" is no interface name", shown(text));
    Err(Fault::new(what, format!("write 1 to {most} ASCII characters without spaces and without / : %")))
}

/// A protected prefix, own or a peer's (requirement MT-06).
pub(super) fn prefix(text: &str) -> Result<Ipv6Net, Fault> {
    let net = match text.parse::<IpNet>() {
        Ok(IpNet::V6(net)) => net,
        Ok(IpNet::V4(_)) => {
            let what = format!("{text} is IPv4; protected prefixes are IPv6");
            return Err(Fault::new(what, "write an IPv6 prefix, such as 2001:db8:1::/64"));
        }
        Err(_) => return Err(not_a_network(text, PREFIX_LENGTHS.0, "2001:db8:1::/64")),
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
    let (least, most) = PREFIX_LENGTHS;
    let nearest = net.prefix_len().clamp(least, most);
    if nearest == net.prefix_len() {
        return Ok(());
    }
    let what = format!("{net} has {} bits; a protected prefix has {least} to {most}", net.prefix_len());
    // Within 128 bits by the clamp; without an example the remedy still says what to do.
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

/// An own tunnel address with the length of its network.
pub(super) fn tunnel_address(text: &str) -> Result<IpNet, Fault> {
    let length = if text.contains(':') { 64 } else { 24 };
    let net =
        text.parse::<IpNet>().map_err(|_| not_a_network(text, length, "fd00:6d74::1/64 or 10.66.0.1/24"))?;
    check_unicast(net.addr(), "fd00:6d74::1/64 or 10.66.0.1/24")?;
    Ok(net)
}

/// An address that a client gets, alone.
pub(super) fn host_address(text: &str) -> Result<IpAddr, Fault> {
    const EXAMPLE: &str = "fd00:6d74::77 or 10.66.0.77";
    let address = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => address,
        (_, Ok(net)) if net.prefix_len() == net.max_prefix_len() => net.addr(),
        (_, Ok(net)) => {
            let what = format!("{text} is a network; a client gets single addresses");
            return Err(Fault::new(what, format!("write {}", net.addr())));
        }
        _ => {
            let what = format!("\"{}\" is not an address", shown(text));
            return Err(Fault::new(what, format!("write it like {EXAMPLE}")));
        }
    };
    check_unicast(address, EXAMPLE)?;
    Ok(address)
}

fn check_unicast(address: IpAddr, example: &str) -> Result<(), Fault> {
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

/// A network from which clients get their tunnel addresses.
pub(super) fn pool(text: &str) -> Result<IpNet, Fault> {
    let length = if text.contains(':') { 64 } else { 24 };
    let net =
        text.parse::<IpNet>().map_err(|_| not_a_network(text, length, "fd00:6d74::/64 or 10.66.0.0/24"))?;
    let (least, most) = pool_lengths(net);
    if !is_pool_length(net) {
        let what =
            format!("{net} has {} bits; a pool of this family has {least} to {most}", net.prefix_len());
        return Err(Fault::new(
            what,
            "write a smaller or larger network, such as fd00:6d74::/64 or 10.66.0.0/24",
        ));
    }
    check_host_bits(net)?;
    check_unicast(net.addr(), "those in fd00:6d74::/64 or 10.66.0.0/24")?;
    Ok(net)
}

/// An address and a port to listen at.
fn listen_address(text: &str, example: &str) -> Result<SocketAddr, Fault> {
    let address = text.parse::<SocketAddr>().map_err(|_| {
        let what = format!("\"{}\" is not an address with a port", shown(text));
        Fault::new(what, format!("write it like {example}"))
    })?;
    if address.port() == 0 {
        return Err(Fault::new("port 0 is another one at each start", format!("write it like {example}")));
    }
    Ok(address)
}

/// Where the web view is served: on loopback only, since it shows the moving addresses.
pub(super) fn web_address(text: &str) -> Result<SocketAddr, Fault> {
    const EXAMPLE: &str = "[::1]:8674";
    let address = listen_address(text, EXAMPLE)?;
    if !address.ip().is_loopback() {
        let what =
            format!("{} is no loopback address, and the web view shows moving addresses", address.ip());
        let remedy = format!(
            "write {EXAMPLE}, and from elsewhere come with ssh -L {port}:[::1]:{port} HOST",
            port = address.port()
        );
        return Err(Fault::new(what, remedy));
    }
    Ok(address)
}

/// Whether a network has the length of a pool.
pub(super) fn is_pool_length(net: IpNet) -> bool {
    let (least, most) = pool_lengths(net);
    (least..=most).contains(&net.prefix_len())
}

fn pool_lengths(net: IpNet) -> (u8, u8) {
    if matches!(net, IpNet::V4(_)) { POOL_V4_LENGTHS } else { POOL_V6_LENGTHS }
}

/// An inner network of a peer.
pub(super) fn inner_network(text: &str) -> Result<IpNet, Fault> {
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

fn check_host_bits(net: IpNet) -> Result<(), Fault> {
    if net.addr() == net.network() {
        return Ok(());
    }
    Err(Fault::new(format!("host bits are set in {net}"), format!("write {}", net.trunc())))
}

/// `length`: the one to propose for an address that has none.
fn not_a_network(text: &str, length: u8, example: &str) -> Fault {
    match text.parse::<IpAddr>().map(|address| IpNet::new(address, length)) {
        Ok(Ok(net)) => {
            let proposed =
                if length == PREFIX_LENGTHS.0 && example.ends_with("::/64") { net.trunc() } else { net };
            Fault::new(format!("{text} has no prefix length"), format!("write {proposed}"))
        }
        _ => Fault::new(
            format!("\"{}\" is not an address with a prefix length", shown(text)),
            format!("write it like {example}"),
        ),
    }
}

/// A seed IID: 64 bits in 16 hexadecimal digits, with or without colons between groups of four (MT-27).
pub(super) fn seed(text: &str) -> Result<[u8; 8], Fault> {
    let grouped = text.split(':').all(|group| group.len() == 4);
    let digits = if grouped { text.replace(':', "") } else { text.to_owned() };
    let mut seed = [0; 8];
    hex::decode_to_slice(digits, &mut seed).map_err(|_| {
        let what = format!("\"{}\" is no seed of 64 bits", shown(text));
        Fault::new(what, "write all 16 hexadecimal digits, such as 0011:2233:4455:6677")
    })?;
    Ok(seed)
}

/// A duration within the range, both ends included.
pub(super) fn duration(text: &str, (least, most): (Duration, Duration)) -> Result<Duration, Fault> {
    let remedy = || {
        format!(
            "write a time from {} to {}, such as \"3s\", \"1500ms\" or \"1min\"",
            format_duration(least),
            format_duration(most)
        )
    };
    let duration = parse_duration(text)
        .map_err(|error| Fault::new(format!("\"{}\" is no duration ({error})", shown(text)), remedy()))?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(Fault::new(format!("{} is out of range", format_duration(duration)), remedy()))
}

/// A rendezvous window: whole seconds, since all ends must mean the same instants.
pub(super) fn window(text: &str) -> Result<Duration, Fault> {
    let window = duration(text, WINDOW_RANGE)?;
    if window.subsec_nanos() == 0 {
        return Ok(window);
    }
    let what = format!("{} is not a whole number of seconds", format_duration(window));
    Err(Fault::new(what, format!("write \"{}s\"", window.as_secs())))
}

/// Where metrics are served: one address, so that nobody serves them to strangers without meaning to.
pub(super) fn metrics_address(text: &str) -> Result<SocketAddr, Fault> {
    const EXAMPLE: &str = "[::1]:24633 or 127.0.0.1:24633";
    let address = listen_address(text, EXAMPLE)?;
    if address.ip().is_unspecified() {
        let what = format!("{address} stands for every address of this host, those on the Internet included");
        return Err(Fault::new(what, format!("write one address, such as {EXAMPLE}")));
    }
    if !address.ip().is_loopback() {
        check_unicast(address.ip(), EXAMPLE)?;
    }
    Ok(address)
}

/// A public key. A text that is none is not shown: it may be a secret in the wrong place.
pub(super) fn public_key(text: &str) -> Result<PublicKey, Fault> {
    let print = "write the 44 characters that mtd pubkey prints at the other end";
    let key: PublicKey = text.parse().map_err(|_| Fault::new("is no public key", print))?;
    if key.is_usable() {
        return Ok(key);
    }
    Err(Fault::new("is no public key that anybody can have the private key of", print))
}

/// A node of the DHT.
pub(super) fn bootstrap(text: &str) -> Result<String, Fault> {
    const EXAMPLE: &str = "write a host and a port, such as dht.example.net:6881 or 192.0.2.1:6881";
    let fault = |what: &str| Err(Fault::new(format!("\"{}\" {what}", shown(text)), EXAMPLE));
    let Some((host, port)) = text.rsplit_once(':') else { return fault("has no port") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return fault("has no port that is a number from 1 to 65535");
    }
    if host.contains([':', '[', ']']) {
        return fault("is an IPv6 address; the DHT has only IPv4");
    }
    let digits_and_dots = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = (1..=MAX_HOST_NAME).contains(&host.len()) && host.chars().all(valid);
    if !is_name || digits_and_dots && host.parse::<Ipv4Addr>().is_err() {
        return fault("names no host");
    }
    Ok(text.to_owned())
}

/// A peer's name.
pub(super) fn peer_name(text: &str) -> Result<String, Fault> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=MAX_PEER_NAME).contains(&text.len()) && text.chars().all(valid) {
        return Ok(text.to_owned());
    }
    let what = format!("\"{}\" is no name for a peer", shown(text));
    Err(Fault::new(
        what,
        format!("write 1 to {MAX_PEER_NAME} letters, digits, dots, underscores or hyphens, in ASCII"),
    ))
}

/// One of the words of a choice.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Fault> {
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*choice);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let remedy = match nearest(text, choices.iter().map(|(word, _)| *word)) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("write {}", words.join(" or ")),
    };
    Err(Fault::new(format!("\"{}\" is not one of {}", shown(text), words.join(", ")), remedy))
}

/// The path of the key file of a peer.
pub(super) fn key_file(text: &str) -> Result<PathBuf, Fault> {
    secret_path(text, "keys/laptop.key")
}

/// The path of the own key file.
pub(super) fn private_key_file(text: &str) -> Result<PathBuf, Fault> {
    secret_path(text, "private.key")
}

/// A key in the place of its file must not go on into an error message about a missing file.
fn secret_path(text: &str, example: &str) -> Result<PathBuf, Fault> {
    if text.parse::<SecretKey>().is_ok() {
        let remedy =
            "put the key in a file that only its owner can read, and write the name of that file here";
        return Err(Fault::new("is a key, not the name of a file that holds one", remedy));
    }
    path(text, example)
}

/// A folder, possibly relative to that of the configuration file.
pub(super) fn folder(text: &str) -> Result<PathBuf, Fault> {
    path(text, "clients")
}

/// An absolute path.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Fault> {
    let path = path(text, "/var/lib/mtd")?;
    if path.is_absolute() {
        return Ok(path);
    }
    let what = format!("\"{}\" is a relative path", shown(text));
    Err(Fault::new(what, "write an absolute path, which begins with /"))
}

/// An absolute path that the address of a Unix socket has room for.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Fault> {
    let path = absolute_path(text)?;
    if text.len() <= MAX_SOCKET_PATH {
        return Ok(path);
    }
    let what = format!("is {} bytes long; the path of a socket has at most {MAX_SOCKET_PATH}", text.len());
    Err(Fault::new(what, "write a shorter path, such as /run/mtd/eth0.sock"))
}

fn path(text: &str, example: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains('\0') {
        return Err(Fault::new(
            format!("\"{}\" is no path", shown(text)),
            format!("write a path such as {example}"),
        ));
    }
    Ok(PathBuf::from(text))
}
