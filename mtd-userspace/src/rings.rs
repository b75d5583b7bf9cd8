//! Reports of the programs through ring buffers: dropped packets, and control messages.

use std::future::Future;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use mtd_common::control_record::ControlRecord;
use mtd_common::event::DropEvent;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, MutexGuard};
use tracing::{debug, warn};

use crate::dataplane::Plane;
use crate::events::{Dropped, Event};
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// A ring buffer that wakes its reader.
type Ring = AsyncFd<RingBuf<MapData>>;

/// The ring buffers. They can be taken from the data plane once, and outlive the tasks that read them.
pub struct Rings {
    drops: Arc<Mutex<Ring>>,
    control: Arc<Mutex<Ring>>,
}

impl Rings {
    /// Takes those of the data plane. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When they were taken before, or the runtime does not accept them.
    pub fn take(plane: &mut Plane) -> anyhow::Result<Arc<Self>> {
        let ready = |ring| -> anyhow::Result<_> {
            // SAFETY: the map owns its descriptor, which stays open and the same until the `AsyncFd` is dropped.
            let ring = unsafe { AsyncFd::register(ring) }?;
            Ok(Arc::new(Mutex::new(ring)))
        };
        Ok(Arc::new(Self { drops: ready(plane.take_events()?)?, control: ready(plane.take_control()?)? }))
    }
}

impl Subsystem for Rings {
    fn name(&self) -> &'static str {
        "reports of the programs"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let (rings, own) = (Arc::clone(&self), context.clone());
        context.tasks.spawn("drop events", AfterEnd::Restart, move || {
            watch_drops(Arc::clone(&rings.drops), own.clone())
        });
        let own = context.clone();
        // Handshakes and keep-alive messages come this way.
        context.tasks.spawn("control messages", AfterEnd::StopController, move || {
            watch_control(Arc::clone(&self.control), own.clone())
        });
        Ok(())
    }
}

/// Hands every event to the sessions and to the bus.
async fn watch_drops(ring: Arc<Mutex<Ring>>, context: Context) -> anyhow::Result<()> {
    drain(ring.lock().await, context.shutdown().begun(), |ring| {
        let mut sessions = context.sessions();
        while let Some(record) = ring.next() {
            match DropEvent::decode(&record) {
                Ok((packet, reason)) => {
                    sessions.note(&packet, reason);
                    let time = sessions.wall_time(packet.time);
                    context.bus.publish_at(time, Event::Drop(Dropped { packet, reason }));
                }
                Err(error) => warn!("unreadable drop event: {error:?}"),
            }
        }
    })
    .await
}

/// Hands every control message to the sessions.
async fn watch_control(ring: Arc<Mutex<Ring>>, context: Context) -> anyhow::Result<()> {
    drain(ring.lock().await, context.shutdown().begun(), |ring| {
        while let Some(record) = ring.next() {
            match ControlRecord::decode(&record) {
                // The lock is taken separately for each message: a flood of them must not keep slots from being loaded.
                Ok(record) => context.sessions().handle_control(&record),
                Err(error) => warn!("unreadable control message: {error:?}"),
            }
        }
    })
    .await
}

/// Calls `take` to empty a ring buffer each time that it has data, until `stop` begins.
async fn drain(
    mut ring: MutexGuard<'_, Ring>,
    stop: impl Future<Output = ()>,
    mut take: impl FnMut(&mut RingBuf<MapData>),
) -> anyhow::Result<()> {
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

/// Debug builds of the programs write log lines: forwards them at debug level.
pub fn forward_program_logs(plane: &mut Plane) {
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
