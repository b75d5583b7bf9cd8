//! Sentences for people: why there is no session with a server, and what is wrong with a client.

use crate::proto::client::{Client, Phase, Refused, Trouble};
use crate::proto::messages::{Reason, VERSION};
use crate::proto::rendezvous::OpenError;
use crate::proto::server::Remark;
use crate::status::WarningCode;

/// A hint for a client whose own addresses lead nowhere on the Internet.
const TRANSLATION: &str = "the server's introduction was found, but nobody answers there; this host's addresses are local ones \
    (fc00::/7), so a router has to translate them (NAT66): does it, does it let answers in, and is the server's mtd as new \
    as this one?";

/// Why a client has no session, and what to do.
pub(super) fn of(machine: &Client) -> Option<String> {
    if let Some(Refused { address, network }) = machine.refused() {
        return Some(format!(
            "the server has or gives the tunnel address {address}, which lies in this host's network {network}: it is not \
             used; give the server another tunnel network, or name {address} in allowed_ips of this [[server]]"
        ));
    }
    let text = match (machine.phase(), machine.trouble()) {
        // Even while a session from before one end was updated goes on: it will be the last one.
        (_, Some(Trouble::OtherVersion(lowest, highest))) => return Some(other_version(lowest, highest)),
        (Phase::Connecting, None) if machine.is_local_only() && machine.is_unanswered() => TRANSLATION,
        (Phase::Open | Phase::NoPrefix, _) | (_, None | Some(Trouble::AddressesTaken)) => return None,
        (_, Some(Trouble::NetworkUnreachable)) => {
            "the DHT is out of reach: does UDP over IPv4 get out of this host, and are the bootstrap nodes up? Without it, an \
             introduction from the server's administrator connects too (introduction_file)"
        }
        (_, Some(Trouble::NothingPublished)) => {
            "the server has published nothing for this client: does it run, is this client's public key registered \
             there, is the server's public key right here, and do both use the same window?"
        }
        (_, Some(Trouble::Unreadable(error))) => return Some(unreadable(error)),
        (_, Some(Trouble::NoAnswer)) if machine.is_local_only() => TRANSLATION,
        (_, Some(Trouble::NoAnswer)) => {
            "the server's introduction was found, but nobody answers there: does the network deliver the server's \
             prefix to it, and this host's prefix to this host, and is the clock right to a quarter of an hour?"
        }
        (_, Some(Trouble::TornDown(reason))) => return Some(with_words(ended(reason), machine)),
        (_, Some(Trouble::Denied(reason))) => return Some(with_words(&denied(reason), machine)),
        (_, Some(Trouble::UnknownOption(option))) => {
            return Some(format!(
                "the server insists on option {option} of the handshake, which this program does not know: update mtd on this \
                 host"
            ));
        }
        (_, Some(Trouble::AddressesRefused)) => {
            "the server has or gives tunnel addresses that are not private; if that is right, name their networks in \
             allowed_ips of this [[server]]"
        }
        (_, Some(Trouble::NotOpened)) => {
            "keys were agreed on, but nothing came through the session: does a firewall drop UDP to or from changing \
             addresses?"
        }
    };
    Some(text.to_owned())
}

/// Adds what the server has said to explain itself.
fn with_words(text: &str, machine: &Client) -> String {
    let said = machine.said();
    if said.as_str().is_empty() { text.to_owned() } else { format!("{text}; it says: {said}") }
}

const fn ended(reason: Reason) -> &'static str {
    match reason {
        Reason::Stopping => "the server was stopped; it is looked for again",
        Reason::Removed => "the server has removed this client from its registry",
        Reason::Idle => "the server has ended the session, since it was idle; it is tried again",
        Reason::Renumbered => "the server has ended the session to give this client other tunnel addresses",
        Reason::InUse => "another host that uses this host's key has taken the session",
        Reason::UnknownOption | Reason::Other(_) => "the server has ended the session; it is tried again",
    }
}

fn denied(reason: Reason) -> String {
    match reason {
        Reason::InUse => "refused: another host uses this key, and has the session with the server. If this machine was cloned, \
             give each host a key of its own (`mtd genkey`), and register it at the server (`mtd peers add`); this host gets in \
             when the other one stops"
            .to_owned(),
        Reason::UnknownOption => "refused: the server does not know an option of the handshake on which this program insists: \
             update mtd on the server"
            .to_owned(),
        reason => format!("refused: the server gives no session ({reason:?})"),
    }
}

/// The server takes no handshake of this version.
fn other_version(lowest: u8, highest: u8) -> String {
    let (versions, old) = match (lowest, highest) {
        (lowest, highest) if lowest == highest => (format!("version {lowest}"), highest < VERSION),
        (lowest, highest) => (format!("versions {lowest} to {highest}"), highest < VERSION),
    };
    let end = if old { "the server" } else { "this host" };
    format!(
        "the server takes {versions} of the handshake, and this program speaks version {VERSION}: update mtd on {end}"
    )
}

fn unreadable(error: OpenError) -> String {
    match error {
        OpenError::Version(version) => format!(
            "the server publishes version {version} of the introduction, which this program does not know: update mtd on this \
             host"
        ),
        error => format!("the server's introduction cannot be used: {error}"),
    }
}

/// What is wrong with a client, as a warning.
pub(super) fn on(name: &str, remark: Remark) -> (WarningCode, String) {
    match remark {
        Remark::OtherVersion(version) => {
            let end = if version < VERSION { "that host" } else { "this one" };
            let text = format!(
                "client {name} speaks version {version} of the handshake, and this server version {VERSION}: it gets no session \
                 until mtd is updated on {end}"
            );
            (WarningCode::ClientVersion, text)
        }
        Remark::UnknownOption(option) => {
            let text = format!(
                "client {name} insists on option {option} of the handshake, which this server does not know: it gets no session \
                 until mtd is updated here"
            );
            (WarningCode::ClientVersion, text)
        }
        Remark::KeyInUse => {
            let text = format!(
                "two hosts use the key of client {name}: one has the session, the other is refused until it has stopped. If a \
                 machine was cloned, give each host a key of its own (`mtd genkey`), and register it here (`mtd peers add`)"
            );
            (WarningCode::KeyInUse, text)
        }
    }
}
