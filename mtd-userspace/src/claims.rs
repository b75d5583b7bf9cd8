//! What servers may not claim: the networks that this host reaches by other ways than the tunnel, told to the sessions
//! whenever they change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::warn;

use crate::config::Config;
use crate::device::networks_elsewhere;
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Interval at which the routes are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A look at the routes takes at most this part of the time: a router of the Internet has a million of them.
const SHARE: u32 = 100;

/// Looks at the routes of the host.
pub struct Claims {
    device: String,
}

impl Claims {
    /// `None`: there is no server that could claim addresses.
    pub fn new(config: &Config) -> Option<Arc<Self>> {
        (!config.servers.is_empty()).then(|| Arc::new(Self { device: config.device.clone() }))
    }
}

impl Subsystem for Claims {
    fn name(&self) -> &'static str {
        "routes of the host"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let own = context.clone();
        context.tasks.spawn(self.name(), AfterEnd::Restart, move || watch(self.device.clone(), own.clone()));
        Ok(())
    }
}

/// Tells the sessions of the networks until the shutdown.
async fn watch(device: String, context: Context) -> anyhow::Result<()> {
    let mut lost = false;
    loop {
        let began = Instant::now();
        match networks_elsewhere(&device).await {
            Ok(networks) => {
                context.sessions().handle_elsewhere(networks);
                lost = false;
            }
            Err(error) if !lost => {
                warn!("the networks of this host: {error}");
                lost = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = context.shutdown().begun() => return Ok(()),
            () = sleep(LOOK.max(began.elapsed() * SHARE)) => {}
        }
    }
}
