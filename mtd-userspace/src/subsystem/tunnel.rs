//! The tunnel device while the controller runs: addresses that servers give, and routes for paths that carry less.

use std::sync::Mutex;

use tracing::warn;

use super::lock;
use crate::device::TunnelDevice;
use crate::sessions::Sessions;

/// The device as the configuration has it, to which sessions add.
pub struct Tunnel {
    configured: TunnelDevice,
    /// One change at a time: each is of the whole device.
    changing: tokio::sync::Mutex<()>,
}

impl Tunnel {
    /// A device that is set up like this before any session adds to it.
    pub fn new(configured: TunnelDevice) -> Self {
        Self { configured, changing: tokio::sync::Mutex::default() }
    }

    /// Gives the device the MTU, addresses and routes that it should have now. Failures are logged.
    pub async fn update(&self, sessions: &Mutex<Sessions>) {
        let _alone = self.changing.lock().await;
        let wanted = lock(sessions).tunnel(&self.configured);
        if let Err(error) = wanted.create().await {
            warn!("the tunnel device: {error}");
        }
    }
}
