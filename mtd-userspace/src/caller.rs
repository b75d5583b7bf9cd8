//! The SSH connection over which this program was started, which a dark prefix may cut.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::bail;
use ipnet::Ipv6Net;

use crate::model::Allow;

/// The variable that sshd sets for the programs of a session: client address and port, server address and port.
const VARIABLE: &str = "SSH_CONNECTION";

/// Number of ancestors that are examined. There are rarely ten.
const MAX_ANCESTORS: usize = 64;

/// An SSH connection over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SshConnection {
    client: Ipv6Addr,
    server: Ipv6Addr,
    /// The server's port.
    port: u16,
}

/// The SSH connection over which this process was started. It is read from this process's environment, or else from the
/// nearest ancestor that has one: from its environment (sudo hides the variable from its children) or, if it is an SSH
/// server, from its sockets. `None` if there is no connection, or it is not over IPv6.
pub(crate) fn ssh_connection() -> Option<SshConnection> {
    if let Ok(text) = std::env::var(VARIABLE) {
        return parse(&text);
    }
    let told = |id: &String| match of_environment(id) {
        Some(text) => Some(parse(&text)),
        None if is_ssh_server(id) => of_sockets(id).map(Some),
        None => None,
    };
    ancestors().find_map(|id| told(&id)).flatten()
}

/// The ids of this process's ancestors, its parent first.
fn ancestors() -> impl Iterator<Item = String> {
    let above = |id: &String| parent(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?);
    std::iter::successors(above(&"self".to_owned()), above).take(MAX_ANCESTORS)
}

/// The variable in a process's environment. `None` also if the environment cannot be read: the search then goes on with
/// the process's parent.
fn of_environment(id: &str) -> Option<String> {
    variable(&fs::read(format!("/proc/{id}/environ")).ok()?)
}

/// Whether the process is one of OpenSSH's: `sshd` or `sshd-session`.
fn is_ssh_server(id: &str) -> bool {
    fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("sshd"))
}

/// The first established TCP connection over IPv6 among a process's sockets.
fn of_sockets(id: &str) -> Option<SshConnection> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?;
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let sockets: Vec<String> = targets
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp6")).ok()?;
    table.lines().find_map(|line| established(line, &sockets))
}

/// The connection in a line of `/proc/net/tcp6`, if it is established, over IPv6, and one of these sockets.
fn established(line: &str, sockets: &[String]) -> Option<SshConnection> {
    const ESTABLISHED: &str = "01";
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, ESTABLISHED, _, _, _, _, _, inode, ..] = words.as_slice() else { return None };
    let [(server, port), (client, _)] = [place(local)?, place(remote)?];
    (sockets.iter().any(|socket| socket == inode) && server.to_ipv4_mapped().is_none())
        .then_some(SshConnection { client, server, port })
}

/// Address and port as `/proc/net/tcp6` writes them: the address in four words in the byte order of the machine.
fn place(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    let mut octets = [0; 16];
    for (part, word) in octets.chunks_exact_mut(4).zip(0..) {
        let word = u32::from_str_radix(address.get(8 * word..8 * (word + 1))?, 16).ok()?;
        part.copy_from_slice(&word.to_ne_bytes());
    }
    Some((octets.into(), u16::from_str_radix(port, 16).ok()?))
}

/// The parent's id in the text of `/proc/PID/stat`. The process's name, in brackets, may contain anything.
fn parent(stat: &str) -> Option<String> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1).filter(|&id| id != "0").map(str::to_owned)
}

fn variable(environment: &[u8]) -> Option<String> {
    let mut lines = environment.split(|&byte| byte == 0);
    let value = lines.find_map(|line| line.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

fn parse(text: &str) -> Option<SshConnection> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [client, _, server, port] = words.as_slice() else { return None };
    let address = |text: &str| {
        // A link-local address is followed by its interface.
        let text = text.split('%').next().unwrap_or_default();
        match text.parse().ok()? {
            IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => Some(address),
            _ => None,
        }
    };
    Some(SshConnection { client: address(client)?, server: address(server)?, port: port.parse().ok()? })
}

impl SshConnection {
    /// Checks that the connection survives when `prefixes` are dark except for what the rules in `allow` let pass.
    ///
    /// # Errors
    /// When the connection would be cut; the error includes the remedy.
    pub(crate) fn require_open(&self, prefixes: &[Ipv6Net], allow: &[Allow]) -> anyhow::Result<()> {
        let Self { client, server, port } = *self;
        let Some(prefix) = prefixes.iter().find(|prefix| prefix.contains(&server)) else { return Ok(()) };
        if allow.iter().any(|rule| rule.covers_tcp(client, port)) {
            return Ok(());
        }
        bail!(
            "this would cut your own SSH connection: {server} port {port} is in {prefix}. Add allow = [\"{client} \
             tcp/{port}\"] to the configuration, or try --policy monitor or --confirm-within 60s first; --force does \
             it all the same"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_over_ipv6_are_understood() {
        let expected = SshConnection {
            client: "2001:db8:9::9".parse().unwrap(),
            server: "2001:db8:5:1::7".parse().unwrap(),
            port: 22,
        };
        assert_eq!(parse("2001:db8:9::9 50000 2001:db8:5:1::7 22"), Some(expected));
        assert!(parse("fe80::1%eth0 50000 fe80::2%eth0 22").is_some());
        for text in
            ["", "10.0.0.1 1 10.0.0.2 22", "::ffff:10.0.0.1 1 ::ffff:10.0.0.2 22", "2001:db8::1 1 x 22"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_lies_in_a_prefix_and_is_not_allowed_is_cut() {
        let connection = parse("2001:db8:9::9 50000 2001:db8:5:1::7 22").unwrap();
        let inside: Ipv6Net = "2001:db8:5:1::/64".parse().unwrap();
        let outside: Ipv6Net = "2001:db8:5:2::/64".parse().unwrap();
        let rule = |text: &str| -> Allow { text.parse().unwrap() };
        assert!(connection.require_open(&[outside], &[]).is_ok());
        for rule in [rule("tcp/22"), rule("2001:db8:9::/48"), rule("2001:db8:9::9 tcp")] {
            assert!(connection.require_open(&[outside, inside], &[rule]).is_ok(), "{rule}");
        }
        let error = connection.require_open(&[outside, inside], &[rule("tcp/23"), rule("2001:db8:8::/48")]);
        let error = error.unwrap_err().to_string();
        for part in
            ["2001:db8:5:1::7", "\"2001:db8:9::9 tcp/22\"", "--policy monitor", "--confirm-within", "--force"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_of_connections_is_understood() {
        let line = |state: &str, inode: u32| {
            let [local, remote] =
                ["B80D0120010005000000000007000000:0016", "B80D0120000009000000000009000000:C350"];
            format!(
                "   3: {local} {remote} {state} 00000000:00000000 02:00000A 00000000     0        0 {inode} 2 0 20"
            )
        };
        let sockets = ["7".to_owned(), "42".to_owned()];
        let found = established(&line("01", 42), &sockets);
        assert_eq!(found, parse("2001:db8:9::9 50000 2001:db8:5:1::7 22"));
        assert_eq!(established(&line("0A", 42), &sockets), None, "it listens");
        assert_eq!(established(&line("01", 4), &sockets), None, "somebody else's");
        let mapped =
            line("01", 42).replace("B80D0120010005000000000007000000", "0000000000000000FFFF00000100000A");
        assert_eq!(established(&mapped, &sockets), None, "IPv4");
        assert_eq!(established("  sl  local_address  remote_address st tx_queue", &sockets), None);
    }

    #[test]
    fn names_of_processes_may_hold_anything() {
        assert_eq!(parent("7 (a) b (c)) S 42 7 7 0").as_deref(), Some("42"));
        assert_eq!(parent("1 (init) S 0 1 1 0"), None);
        assert_eq!(variable(b"A=1\0SSH_CONNECTION=x y\0B=2").as_deref(), Some("x y"));
        assert_eq!(variable(b"NOT_SSH_CONNECTION=x\0SSH_CONNECTIONS=y"), None);
    }
}
