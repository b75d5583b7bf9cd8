//! Drop events from the ring buffer, on their way to readers.

use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use aya::maps::{MapData, RingBuf};
use mtd_common::DropReason;
use mtd_common::control_record::ControlRecord;
use mtd_common::event::DropEvent;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::{Core, lock};
use crate::dataplane::Plane;
use crate::status::Drop;

/// Hands every event to the core and to all readers, until `stop` ends. Readers that are slow lose events.
pub(super) async fn watch(
    ring: RingBuf<MapData>,
    core: Arc<Mutex<Core>>,
    readers: broadcast::Sender<Arc<Drop>>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    drain(ring, stop, |ring| {
        let mut core = lock(&core);
        while let Some(record) = ring.next() {
            match DropEvent::decode(&record) {
                Ok((event, reason)) => {
                    core.note(&event, reason);
                    // No reader is no failure.
                    let _ = readers.send(Arc::new(document(&event, reason, core.wall_time(event.time))));
                }
                Err(error) => warn!("unreadable drop event: {error:?}"),
            }
        }
    })
    .await
}

/// Hands every control message to the core, until `stop` ends.
pub(super) async fn watch_control(
    ring: RingBuf<MapData>,
    core: Arc<Mutex<Core>>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    drain(ring, stop, |ring| {
        while let Some(record) = ring.next() {
            match ControlRecord::decode(&record) {
                // The lock is taken anew for each one: a flood of them must not keep slots from being loaded.
                Ok(record) => lock(&core).handle_control(&record),
                Err(error) => warn!("unreadable control message: {error:?}"),
            }
        }
    })
    .await
}

/// Lets `take` empty a ring buffer each time that there is something in it, until `stop` ends.
async fn drain(
    ring: RingBuf<MapData>,
    stop: impl Future<Output = ()>,
    mut take: impl FnMut(&mut RingBuf<MapData>),
) -> std::io::Result<()> {
    // SAFETY: the map owns its descriptor, which stays open and the same until the `AsyncFd` is dropped.
    let mut ring = unsafe { AsyncFd::register(ring) }?;
    let mut stop = std::pin::pin!(stop);
    loop {
        let mut ready = tokio::select! {
            ready = ring.readable_mut() => ready?,
            () = &mut stop => return Ok(()),
        };
        take(ready.get_inner_mut());
        ready.clear_ready();
    }
}

fn document(event: &DropEvent, reason: DropReason, time_ns: u64) -> Drop {
    let address = |bytes: [u8; 16]| {
        (bytes != [0; 16]).then(|| {
            let address = Ipv6Addr::from(bytes);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        })
    };
    let port = |bytes| Some(u16::from_be_bytes(bytes)).filter(|&port| port != 0);
    Drop {
        time_ns,
        reason: reason.name().to_owned(),
        passed: event.passed != 0,
        direction: if reason.is_sending() { "send" } else { "receive" }.to_owned(),
        ifindex: event.ifindex,
        source: address(event.source),
        source_port: port(event.source_port),
        destination: address(event.destination),
        destination_port: port(event.destination_port),
        next_header: Some(event.next_header).filter(|&header| header != 0),
        length: event.length,
    }
}

/// In debug builds the programs write log lines: passes them on, at debug level.
pub(super) fn forward_program_logs(plane: &mut Plane) {
    if plane.ebpf_mut().map("AYA_LOGS").is_none() {
        return;
    }
    let logger = match aya_log::EbpfLogger::init(plane.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => return debug!("no log lines from the programs: {error}"),
    };
    // SAFETY: the logger owns its descriptor, which stays open and the same until the `AsyncFd` is dropped.
    match unsafe { AsyncFd::register(logger) } {
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut ready) = logger.readable_mut().await {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
            });
        }
        Err(error) => debug!("no log lines from the programs: {error}"),
    }
}
