//! Names of bootstrap nodes, resolved past the tunnel.
//!
//! The C library's sockets cannot be given a mark. Where everything goes through the tunnel, its questions would need the session
//! that they are asked for. So mtd asks the host's name servers itself, in packets with its mark (RFC 1035; IPv4 addresses
//! only, which is all that the DHT has). The answers need no more trust than before: whatever the DHT returns is authentic
//! only by the keys of server and client.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Where the host's name servers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The same behind systemd-resolved, which is at a local address itself.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

const HOSTS: &str = "/etc/hosts";

const PORT: u16 = 53;

/// How often each name server is asked, and how long each time.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest answer that is read.
const LONGEST: usize = 4096;

/// Type and class of what is asked for: an IPv4 address (`A`) of the Internet (`IN`).
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// The name servers to ask past the tunnel: those of the host, without local ones and those `inside` the tunnel.
pub(super) fn servers(inside: &[IpAddr]) -> Vec<IpAddr> {
    let read = |path| parse(&fs::read_to_string(path).unwrap_or_default(), inside);
    let first = read(RESOLV_CONF);
    if first.is_empty() { read(BEHIND_RESOLVED) } else { first }
}

/// The name servers of a `resolv.conf`.
fn parse(text: &str, inside: &[IpAddr]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(("nameserver", address)) = words.next().zip(words.next()) else { continue };
        if let Ok(address) = address.parse()
            && !IpAddr::is_loopback(&address)
            && !inside.contains(&address)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The IPv4 addresses of a name, by `/etc/hosts` or from any of these name servers, asked in packets with this mark.
pub(super) async fn resolve(name: &str, servers: &[IpAddr], mark: u32) -> Vec<Ipv4Addr> {
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    let own = listed(&fs::read_to_string(HOSTS).unwrap_or_default(), name);
    if !own.is_empty() {
        return own;
    }
    let answers = servers.iter().map(|server| async move {
        ask(name, SocketAddr::new(*server, PORT), mark).await.unwrap_or_else(|error| {
            tracing::debug!("asking a name server for {name}: {error}");
            Vec::new()
        })
    });
    let mut found = join_all(answers).await.concat();
    found.sort_unstable();
    found.dedup();
    found
}

/// The IPv4 addresses that a file like `/etc/hosts` has for a name.
fn listed(text: &str, name: &str) -> Vec<Ipv4Addr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    lines.filter_map(entry).collect()
}

async fn ask(name: &str, server: SocketAddr, mark: u32) -> io::Result<Vec<Ipv4Addr>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    // What others send does not arrive then.
    socket.connect(server).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let question = question(id, name).ok_or(io::ErrorKind::InvalidInput)?;
    let mut buffer = [0; LONGEST];
    for _ in 0..TRIES {
        socket.send(&question).await?;
        let answer = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(addresses) = answer(&buffer[..length], &question) {
                    return Ok(addresses);
                }
            }
        };
        if let Ok(answered) = timeout(PATIENCE, answer).await {
            return answered;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// A question for the IPv4 addresses of a name (RFC 1035, section 4.1); `None`: it is no name.
fn question(id: [u8; 2], name: &str) -> Option<Vec<u8>> {
    let mut message = vec![id[0], id[1]];
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(A_IN);
    Some(message)
}

/// The addresses in an answer to this question; `None`: it is no answer to it.
fn answer(message: &[u8], question: &[u8]) -> Option<Vec<Ipv4Addr>> {
    const HEADER: usize = 12;
    let count = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let is_answer = message.get(..2)? == &question[..2] && message[2] & 0x80 != 0;
    let asked = message.get(HEADER..question.len())?;
    if !is_answer || !asked.eq_ignore_ascii_case(&question[HEADER..]) {
        return None;
    }
    let mut rest = &message[question.len()..];
    let mut found = Vec::new();
    for _ in 0..count {
        // An answer that was cut off has what it has.
        let Some((kind, data, next)) = record(rest) else { break };
        if kind == A_IN
            && let Ok(address) = <[u8; 4]>::try_from(data)
        {
            found.push(address.into());
        }
        rest = next;
    }
    Some(found)
}

/// Type and class, data, and what comes behind a resource record (RFC 1035, section 4.1.3).
fn record(message: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let mut rest = message;
    loop {
        let length = usize::from(*rest.first()?);
        // A pointer to another name ends this one.
        if length & 0xc0 == 0xc0 {
            rest = rest.get(2..)?;
            break;
        }
        rest = rest.get(1 + length..)?;
        if length == 0 {
            break;
        }
    }
    let kind = rest.get(..4)?.try_into().ok()?;
    let length = usize::from(u16::from_be_bytes(rest.get(8..10)?.try_into().ok()?));
    Some((kind, rest.get(10..10 + length)?, rest.get(10 + length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_inside_the_tunnel_and_local_ones_are_not_asked() {
        let text = "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\noptions edns0\n\
                    nameserver fd00:6d74::1\nnameserver 192.0.2.1\nnameserver 2001:db8::53\nnameserver\n";
        let inside = ["fd00:6d74::1".parse().unwrap()];
        let expected: Vec<IpAddr> = ["192.0.2.1", "2001:db8::53"].map(|text| text.parse().unwrap()).into();
        assert_eq!(parse(text, &inside), expected);
    }

    #[test]
    fn hosts_come_first() {
        let text = "127.0.0.1 localhost\n::1 dht.example\n192.0.2.5 a.example DHT.example # dht2.example\n";
        assert_eq!(listed(text, "dht.example"), [Ipv4Addr::new(192, 0, 2, 5)]);
        assert!(listed(text, "dht2.example").is_empty());
    }

    /// An answer with an alias and two addresses.
    fn good(question: &[u8]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[7] = 3;
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'b', 0xc0, 16]);
        for last in [7, 8] {
            message.extend([1, b'b', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, last]);
        }
        message
    }

    #[test]
    fn addresses_behind_an_alias_are_read() {
        let asked = question([3, 4], "Dht.example").unwrap();
        let found = answer(&good(&asked), &asked).unwrap();
        assert_eq!(found, [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 8)]);
    }

    #[test]
    fn what_is_no_answer_to_the_question_does_not_count() {
        let asked = question([3, 4], "dht.example").unwrap();
        let other = question([3, 4], "dht.exampla").unwrap();
        assert_eq!(answer(&good(&other), &asked), None);
        assert_eq!(answer(&good(&question([3, 5], "dht.example").unwrap()), &asked), None);
        assert_eq!(answer(&asked, &asked), None, "a question");
        for length in 0..asked.len() {
            assert_eq!(answer(&good(&asked)[..length], &asked), None, "{length}");
        }
        for length in asked.len()..good(&asked).len() {
            assert!(answer(&good(&asked)[..length], &asked).is_some_and(|found| found.len() < 2), "{length}");
        }
    }

    #[test]
    fn only_names_are_asked_for() {
        assert!(question([0; 2], "dht..example").is_none() && question([0; 2], "").is_none());
        assert!(question([0; 2], &"a".repeat(64)).is_none());
        assert_eq!(question([0; 2], "a.b."), question([0; 2], "a.b"));
    }
}
