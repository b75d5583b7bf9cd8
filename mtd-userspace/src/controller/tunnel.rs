//! The tunnel device while the controller runs: addresses that servers give, and routes for paths that carry less.

use std::sync::Mutex;

use tracing::warn;

use super::{Core, lock};
use crate::device::TunnelDevice;

/// The device as the configuration has it, to which sessions add.
pub(super) struct Tunnel {
    configured: TunnelDevice,
    /// One change at a time: each is of the whole device.
    changing: tokio::sync::Mutex<()>,
}

impl Tunnel {
    pub(super) fn new(configured: TunnelDevice) -> Self {
        Self { configured, changing: tokio::sync::Mutex::default() }
    }

    /// Gives the device the MTU, addresses and routes that it should have now. Failures are logged.
    pub(super) async fn update(&self, core: &Mutex<Core>) {
        let _alone = self.changing.lock().await;
        let wanted = lock(core).tunnel(&self.configured);
        if let Err(error) = wanted.create().await {
            warn!("the tunnel device: {error}");
        }
    }
}
