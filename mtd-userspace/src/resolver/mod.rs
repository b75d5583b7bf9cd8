//! DNS through the tunnel: systemd-resolved is told of the name servers behind the tunnel device while a session leads to them.
//!
//! By running `resolvectl`: it needs no connection to the bus here, and systemd-resolved asks of its caller what this process
//! keeps (`CAP_NET_ADMIN`). The settings belong to the device, and go with it.

pub mod section;

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::Config;
use crate::model::{LastTry, News};
use crate::proto::clock::Reading;
use crate::status::{Dns, Status};
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Interval at which it is checked whether a session leads to the servers.
const LOOK: Duration = Duration::from_millis(500);

/// Rest before what has failed is tried again.
const REST: Duration = Duration::from_secs(10);

/// How long `resolvectl` may take: less than a task may take at the end.
const LIMIT: Duration = Duration::from_millis(1_500);

const PROGRAM: &str = "resolvectl";

/// The name servers behind the tunnel.
pub struct Resolver {
    device: String,
    servers: Vec<IpAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The index of the tunnel device for which systemd-resolved knows the servers; `None`: it does not.
    told: Option<u32>,
    last: LastTry,
}

impl Resolver {
    /// `None`: no name servers are configured.
    pub fn new(config: &Config) -> Option<Arc<Self>> {
        let (device, servers) = (config.device.clone(), config.dns.clone());
        (!servers.is_empty()).then(|| Arc::new(Self { device, servers, state: Mutex::default() }))
    }

    /// Tells systemd-resolved what has changed, until the shutdown.
    async fn watch(self: Arc<Self>, context: Context) -> anyhow::Result<()> {
        // An earlier controller may have left its settings at the device; without systemd-resolved there are none.
        let _ = self.run(&["revert", &self.device]).await;
        loop {
            let rest = if self.turn(&context).await { LOOK } else { REST };
            tokio::select! {
                () = context.shutdown().begun() => break,
                () = sleep(rest) => {}
            }
        }
        if self.state().told.is_some() {
            self.forget().await.unwrap_or_else(|error| warn!("taking the name servers back: {error:#}"));
        }
        Ok(())
    }

    /// Looks once; false if something has failed.
    async fn turn(&self, context: &Context) -> bool {
        let up = {
            let sessions = context.sessions();
            self.servers.iter().any(|server| sessions.reaches(*server))
        };
        let device = context.tunnel.info().map(|info| info.ifindex).filter(|_| up);
        let told = self.state().told;
        if device == told {
            return true;
        }
        let done = match device {
            Some(index) => self.tell(index).await,
            None => self.forget().await,
        };
        let mut state = self.state();
        if let Some(News::Fails(problem)) = state.last.note(done.err().map(|error| format!("{error:#}"))) {
            warn!("the name servers behind the tunnel are not used: {problem}");
        }
        state.last.failure().is_none()
    }

    async fn tell(&self, index: u32) -> anyhow::Result<()> {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let dns: Vec<&str> =
            ["dns", self.device.as_str()].into_iter().chain(servers.iter().map(String::as_str)).collect();
        self.run(&dns).await?;
        self.run(&["domain", &self.device, "~."]).await?;
        self.run(&["default-route", &self.device, "yes"]).await?;
        self.state().told = Some(index);
        info!("names are resolved by {} through {}", servers.join(", "), self.device);
        Ok(())
    }

    async fn forget(&self) -> anyhow::Result<()> {
        self.state().told = None;
        self.run(&["revert", &self.device]).await?;
        info!("names are no longer resolved through {}", self.device);
        Ok(())
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let child = Command::new(PROGRAM)
            .args(arguments)
            // Only the controller itself may notify the service manager.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start resolvectl, so systemd-resolved cannot be told")?;
        let output = timeout(LIMIT, child.wait_with_output()).await;
        let output = output.with_context(|| format!("resolvectl has not answered after {LIMIT:?}"))??;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("resolvectl {}: {}", arguments.join(" "), told.lines().next().unwrap_or("it failed"));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is consistent at any time, so poisoning can be ignored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subsystem for Resolver {
    fn name(&self) -> &'static str {
        "name servers"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let own = context.clone();
        context.tasks.spawn("name-servers", AfterEnd::Restart, move || Arc::clone(&self).watch(own.clone()));
        Ok(())
    }

    fn report(&self, _now: Reading, status: &mut Status) {
        let state = self.state();
        status.dns = Some(Dns {
            servers: self.servers.clone(),
            used: state.told.is_some(),
            problem: state.last.failure().map(str::to_owned),
        });
    }
}
