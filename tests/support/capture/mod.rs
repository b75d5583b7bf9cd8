//! Packet capture on an interface of a namespace, independent of mtd.
//!
//! A tap sees a frame before XDP on the way out and after XDP on the way in. To see what a host's XDP program drops,
//! capture at the far end of its cable ([`crate::topology::Host::tap_ifname`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::inject::Interface;
use crate::netns::Netns;
use crate::packet_socket::{self, Receive};
use crate::wait_until;

mod receive;

/// A captured frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The kernel's receive time, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Whether the interface sent it (`PACKET_OUTGOING`); otherwise it came in.
    pub outgoing: bool,
    /// Whether the kernel had left the transport checksum to the (virtual) hardware, so that it is not in these bytes yet.
    /// That is the case for most packets that local sockets send over a bare veth.
    pub checksum_pending: bool,
    /// Length on the wire, bytes; larger than `data` when the snap length cut it.
    pub wire_len: usize,
    /// The frame from the Ethernet header on. A VLAN tag that the kernel had taken out is back in its place.
    pub data: Vec<u8>,
}

/// Bounds of a capture.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Bytes kept of each frame.
    pub snap_len: usize,
    /// Frames kept; later ones are only counted.
    pub max_frames: usize,
    /// Receive buffer asked of the kernel, bytes.
    pub buffer_bytes: usize,
}

impl Default for CaptureOptions {
    /// 2,048 bytes of each of 200,000 frames, with a buffer of 64 MiB.
    fn default() -> Self {
        Self { snap_len: 2048, max_frames: 200_000, buffer_bytes: 64 << 20 }
    }
}

/// The results of a capture that has ended.
#[derive(Debug, Clone, Default)]
pub struct CaptureReport {
    /// The kept frames in order of arrival; empty for a capture with a callback.
    pub frames: Vec<Frame>,
    /// Frames received by the capture, kept or not.
    pub received: u64,
    /// Frames not kept because `max_frames` was reached.
    pub over_limit: u64,
    /// Frames that the kernel dropped because the receive buffer was full: must be 0 for claims of completeness.
    pub kernel_drops: u64,
}

/// A running capture; ends with [`Capture::stop`] or when dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<u64>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
    over_limit: AtomicU64,
    frames: Mutex<Vec<Frame>>,
}

impl Capture {
    /// Starts to keep the frames of an interface. Every frame after this function has returned is seen.
    ///
    /// # Errors
    /// When there is no such interface, or without root.
    pub fn start(netns: &Netns, ifname: &str, options: &CaptureOptions) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let keeper = Arc::clone(&shared);
        let max_frames = options.max_frames;
        let keep = move |frame: &Frame| {
            let mut frames = keeper.lock_frames();
            if frames.len() < max_frames {
                frames.push(frame.clone());
            } else {
                keeper.over_limit.fetch_add(1, Ordering::Relaxed);
            }
        };
        Self::launch(netns, ifname, options, shared, keep)
    }

    /// Starts to hand every frame to `callback` (on the capture's thread) and keeps none: memory stays bounded.
    ///
    /// # Errors
    /// When there is no such interface, or without root.
    pub fn start_with(
        netns: &Netns,
        ifname: &str,
        options: &CaptureOptions,
        callback: impl FnMut(&Frame) + Send + 'static,
    ) -> Result<Self> {
        Self::launch(netns, ifname, options, Arc::new(Shared::default()), callback)
    }

    /// Frames received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Copies of the frames kept so far.
    pub fn snapshot(&self) -> Vec<Frame> {
        self.shared.lock_frames().clone()
    }

    /// Waits for a kept frame, past ones included, for which `wanted` holds, and returns a copy of the first.
    ///
    /// # Errors
    /// When none comes within `timeout`.
    pub fn wait_for(&self, wanted: impl Fn(&Frame) -> bool, timeout: Duration) -> Result<Frame> {
        let mut looked_at = 0;
        let mut found = None;
        wait_until("a captured frame of the wanted kind", timeout, || {
            let frames = self.shared.lock_frames();
            found = frames[looked_at..].iter().find(|frame| wanted(frame)).cloned();
            looked_at = frames.len();
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| anyhow!("no frame of the wanted kind"))
    }

    /// Receives the frames that the kernel has queued so far, ends the capture, and reports.
    ///
    /// # Errors
    /// When receiving had failed.
    pub fn stop(mut self) -> Result<CaptureReport> {
        let kernel_drops = self.finish()?;
        Ok(CaptureReport {
            frames: std::mem::take(&mut *self.shared.lock_frames()),
            received: self.received(),
            over_limit: self.shared.over_limit.load(Ordering::Relaxed),
            kernel_drops,
        })
    }

    fn launch(
        netns: &Netns,
        ifname: &str,
        options: &CaptureOptions,
        shared: Arc<Shared>,
        sink: impl FnMut(&Frame) + Send + 'static,
    ) -> Result<Self> {
        let interface = Interface::resolve(netns, ifname)?;
        let socket = packet_socket::open(netns, &interface, Receive::Everything, |socket| {
            receive::configure(socket, options.buffer_bytes)
        })?;
        let (state, snap_len) = (Arc::clone(&shared), options.snap_len);
        let thread = thread::Builder::new()
            .name(format!("capture {ifname}"))
            .spawn(move || run(&socket, snap_len, &state, sink))
            .context("no thread for the capture")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn finish(&mut self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return Ok(0) };
        thread.join().map_err(|_| anyhow!("the capture's callback panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("capture: {error:#}");
        }
    }
}

impl Shared {
    fn lock_frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives until a stop is requested and the queue is empty. Returns the kernel's count of drops.
fn run(socket: &OwnedFd, snap_len: usize, shared: &Shared, mut sink: impl FnMut(&Frame)) -> Result<u64> {
    let mut frame = Frame::default();
    loop {
        // The flag is read before receiving, so that frames queued before it was set are still received.
        let stopping = shared.stop.load(Ordering::SeqCst);
        if receive::next_frame(socket, snap_len, stopping, &mut frame)
            .context("the capture cannot receive")?
        {
            shared.received.fetch_add(1, Ordering::Relaxed);
            sink(&frame);
        } else if stopping {
            return receive::kernel_drops(socket).context("no statistics of the capture");
        }
    }
}
