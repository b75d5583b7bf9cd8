//! Keeping the tunnel device as it should be while network managers and people change it.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::device::Watch;
use crate::events::{Event, Repair};
use crate::prometheus::{Kind, Text};
use crate::proto::clock::Reading;
use crate::status::{Bypass, Status};
use crate::subsystem::{AfterEnd, Context, Subsystem, Tunnel};

/// Changes come in bunches: how long to wait for the rest of one.
const BUNCH: Duration = Duration::from_millis(100);

/// The device is looked at this often even if no change was announced.
const LOOK: Duration = Duration::from_secs(10);

/// Watches the tunnel device.
pub struct Upkeep {
    tunnel: Arc<Tunnel>,
    /// The other ends of the configuration, with their inner networks.
    ends: Vec<(String, Vec<IpNet>)>,
}

impl Upkeep {
    /// Will watch this device.
    pub fn new(config: &Config, tunnel: Arc<Tunnel>) -> Arc<Self> {
        let peers = config.peers.iter().map(|peer| (peer.name.clone(), peer.allowed_ips.clone()));
        let servers = config.servers.iter().map(|server| (server.name.clone(), server.allowed_ips.clone()));
        Arc::new(Self { tunnel, ends: peers.chain(servers).collect() })
    }

    /// What goes through the tunnel although mtd's own packets go past it.
    fn bypass(&self) -> Option<Bypass> {
        let (bypass, networks) = self.tunnel.bypass()?;
        let leads_to =
            |(_, allowed): &&(String, Vec<IpNet>)| allowed.iter().any(|net| networks.contains(net));
        Some(Bypass {
            mark: bypass.number,
            peers: self.ends.iter().filter(leads_to).map(|(name, _)| name.clone()).collect(),
            kill_switch: bypass.kill_switch,
            problem: self.tunnel.problem(),
            networks,
        })
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
        status.bypass = self.bypass();
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
            changed = timeout(LOOK, watch.changed(tunnel.name(), tunnel.info(), tunnel.mark())) => {
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
