//! The tunnel device while the controller runs: addresses from servers, and routes for paths with a smaller MTU.

use std::sync::Mutex;

use tracing::warn;

use super::lock;
use crate::device::TunnelDevice;
use crate::sessions::Sessions;

/// The device as configured; sessions add to it.
pub struct Tunnel {
    configured: TunnelDevice,
    /// One change at a time, since each one sets up the whole device.
    changing: tokio::sync::Mutex<()>,
}

impl Tunnel {
    /// A device with this set-up, before any session adds to it.
    pub fn new(configured: TunnelDevice) -> Self {
        Self { configured, changing: tokio::sync::Mutex::default() }
    }

    /// Updates the MTU, addresses and routes of the device. Failures are logged.
    pub async fn update(&self, sessions: &Mutex<Sessions>) {
        let _alone = self.changing.lock().await;
        let wanted = lock(sessions).tunnel(&self.configured);
        if let Err(error) = wanted.create().await {
            warn!("the tunnel device: {error}");
        }
    }
}
