//! Keeping the tunnel device as it should be while network managers and people change it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::device::Watch;
use crate::events::{Event, Repair};
use crate::prometheus::{Kind, Text};
use crate::proto::clock::Reading;
use crate::status::Status;
use crate::subsystem::{AfterEnd, Context, Subsystem, Tunnel};

/// Changes come in bunches: how long to wait for the rest of one.
const BUNCH: Duration = Duration::from_millis(100);

/// The device is looked at this often even if no change was announced.
const LOOK: Duration = Duration::from_secs(10);

/// Watches the tunnel device.
pub struct Upkeep {
    tunnel: Arc<Tunnel>,
}

impl Upkeep {
    /// Will watch this device.
    pub fn new(tunnel: Arc<Tunnel>) -> Arc<Self> {
        Arc::new(Self { tunnel })
    }
}

impl Subsystem for Upkeep {
    fn name(&self) -> &'static str {
        "tunnel device"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let watched = context.clone();
        context.tasks.spawn("tunnel-device", AfterEnd::Restart, move || watch(watched.clone()));
        Ok(())
    }

    fn report(&self, _now: Reading, status: &mut Status) {
        status.tunnel_repairs = self.tunnel.repairs();
    }

    fn metrics(&self, status: &Status, text: &mut Text) {
        metrics(status, text);
    }
}

/// The metrics of the tunnel device.
pub fn metrics(status: &Status, text: &mut Text) {
    let help = "How often the tunnel device was repaired because somebody else had changed it.";
    text.single("mtd_tunnel_repairs_total", Kind::Counter, help, status.tunnel_repairs.count);
}

/// Looks at the device whenever somebody may have changed it.
async fn watch(context: Context) -> anyhow::Result<()> {
    let mut watch = Watch::open()?;
    let tunnel = Arc::clone(&context.tunnel);
    let shutdown = context.shutdown();
    loop {
        tokio::select! {
            () = shutdown.clone().begun() => return Ok(()),
            () = look(&context, &tunnel) => {}
        }
        tokio::select! {
            () = shutdown.clone().begun() => return Ok(()),
            changed = timeout(LOOK, watch.changed(tunnel.name(), tunnel.info())) => {
                if let Ok(changed) = changed {
                    changed?;
                    sleep(BUNCH).await;
                }
            }
        }
    }
}

async fn look(context: &Context, tunnel: &Tunnel) {
    if tunnel.is_left_alone() {
        return;
    }
    let changes = tunnel.update(&context.sessions).await;
    if !changes.is_empty() {
        let device = tunnel.name().to_owned();
        context.bus.publish(Event::Repair(Repair { device, changes }));
    }
}
