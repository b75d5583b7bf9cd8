//! A connection to rtnetlink, and the part of a link message that mtd looks at.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use rtnetlink::Handle;
use tokio::task::JoinHandle;
use tracing::info;

use super::error::{Error, Result};

/// The longest interface name, in bytes (`IFNAMSIZ` without the terminator).
pub(super) const NAME_MAX: usize = 15;

/// How long an answer is waited for. The kernel answers within microseconds, unless others change the network at the same
/// time: it does one change after the other, and some take seconds. But the codec discards a reply that it cannot decode, and
/// waiting for that one would never end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The same in [`patiently`]. A start that gave up would only be made again, on a host that is even busier.
const PATIENT_TIMEOUT: Duration = Duration::from_mins(1);

/// How often somebody who waits patiently says so.
const SAY_SO: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// The present task has nothing better to do than to wait.
    static PATIENT: ();
}

/// Does this work with more patience for the kernel: at starts and stops, where nothing else waits meanwhile.
pub async fn patiently<T>(work: impl Future<Output = T>) -> T {
    PATIENT.scope((), work).await
}

/// An rtnetlink socket in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens a socket; the kernel filters its dumps (strict checking, Linux 4.20).
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|cause| Error::Netlink { action: "open a netlink socket".to_owned(), cause })?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The link of that name, or `None`.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Ok(None);
        }
        let mut replies = Box::pin(self.handle.link().get().match_name(name).execute());
        match answer(replies.try_next()).await {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(cause) => Err(Error::Netlink { action: format!("look up interface {name}"), cause }),
        }
    }

    /// The link of that name, or an error that lists the existing links.
    pub(super) async fn existing_link(&self, name: &str) -> Result<Link> {
        match self.link(name).await? {
            Some(link) => Ok(link),
            None => Err(Error::NotFound { name: name.to_owned(), available: self.link_names().await? }),
        }
    }

    /// The names of all links, by ifindex.
    pub(super) async fn link_names(&self) -> Result<Vec<String>> {
        Ok(self.links().await?.into_iter().map(|link| link.name).collect())
    }

    /// All links, by ifindex.
    pub(super) async fn links(&self) -> Result<Vec<Link>> {
        let mut links: Vec<_> = collect("list the interfaces", self.handle.link().get().execute())
            .await?
            .into_iter()
            .map(Link::from)
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Changes a link as `message` says; `action` completes "cannot …".
    pub(super) async fn set_link(&self, message: LinkMessage, action: impl FnOnce() -> String) -> Result<()> {
        request(action, self.handle.link().set(message).execute()).await
    }
}

/// Waits for the answer to one request; `action` completes "cannot …".
pub(super) async fn request<T>(
    action: impl FnOnce() -> String,
    reply: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
) -> Result<T> {
    answer(reply).await.map_err(|cause| Error::Netlink { action: action(), cause })
}

/// Waits for a whole dump; `action` completes "cannot …". A table that does not exist yet is empty.
pub(super) async fn collect<T>(
    action: &str,
    replies: impl Stream<Item = std::result::Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>> {
    match answer(replies.try_collect()).await {
        Ok(messages) => Ok(messages),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(cause) => Err(Error::Netlink { action: action.to_owned(), cause }),
    }
}

/// The answer to a request, with the kernel's error number kept in the error.
pub(super) async fn answer<T>(
    reply: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
) -> io::Result<T> {
    let limit = if PATIENT.try_with(|()| ()).is_ok() { PATIENT_TIMEOUT } else { ANSWER_TIMEOUT };
    match wait(reply, limit, SAY_SO).await {
        Some(Ok(value)) => Ok(value),
        Some(Err(rtnetlink::Error::NetlinkError(message))) => Err(message.to_io()),
        Some(Err(other)) => Err(io::Error::other(other)),
        None => {
            let text = format!(
                "no answer within {} s: the kernel is busy with other changes of the network, or has given an answer that mtd \
                 does not understand",
                limit.as_secs()
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// The reply, unless it takes longer than `limit`; says so each time that `step` is over.
async fn wait<T>(reply: impl Future<Output = T>, limit: Duration, step: Duration) -> Option<T> {
    let mut reply = pin!(reply);
    let mut waited = Duration::ZERO;
    while waited < limit {
        let round = step.min(limit.saturating_sub(waited));
        if let Ok(reply) = tokio::time::timeout(round, &mut reply).await {
            return Some(reply);
        }
        waited += round;
        if waited < limit {
            info!(
                "the kernel has not answered a request about the network for {waited:?}, perhaps since others change the \
                 network too: waiting on"
            );
        }
    }
    None
}

/// The properties of a link that mtd uses.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) flags: LinkFlags,
    pub(super) layer: LinkLayerType,
    /// Absent for link types without a six-byte address.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    pub(super) alias: Option<String>,
    pub(super) is_veth: bool,
    /// The ifindex of the other end of a veth pair, if that is in the same network namespace.
    pub(super) peer: Option<u32>,
    /// The id of the XDP program that it runs, in whichever mode; of several the kernel tells none.
    pub(super) xdp_program: Option<u32>,
    /// The ifindex of the device that it is a part of.
    pub(super) controller: Option<u32>,
    /// As what it is a part of that: `bridge`, `bond`, `vrf`, …
    pub(super) port_kind: Option<String>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            flags: message.header.flags,
            layer: message.header.link_layer_type,
            mac: None,
            mtu: 0,
            alias: None,
            is_veth: false,
            peer: None,
            xdp_program: None,
            controller: None,
            port_kind: None,
        };
        let mut peer_elsewhere = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::Xdp(parts) => {
                    link.xdp_program = parts.iter().find_map(|part| match part {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(info) => {
                    link.is_veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.port_kind = info.iter().find_map(|part| match part {
                        LinkInfo::PortKind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if peer_elsewhere {
            link.peer = None;
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_takes_its_time_is_waited_for_and_one_that_never_comes_is_not() {
        let ms = Duration::from_millis;
        let slow = async {
            tokio::time::sleep(ms(70)).await;
            5
        };
        assert_eq!(wait(slow, ms(10_000), ms(20)).await, Some(5));
        assert_eq!(wait(std::future::pending::<u8>(), ms(60), ms(20)).await, None);
    }

    #[tokio::test]
    async fn only_a_start_is_patient() {
        assert!(PATIENT.try_with(|()| ()).is_err());
        assert!(patiently(async { PATIENT.try_with(|()| ()).is_ok() }).await);
    }
}
