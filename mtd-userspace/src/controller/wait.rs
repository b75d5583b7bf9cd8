//! Waiting at the start for an interface that is not there yet: one of a USB adapter, of a container, or simply a boot that
//! is faster than the driver. A unit that gave up would never see it.
//!
//! Meanwhile the control socket answers `mtd status` and nothing else, and the service manager is told that the service
//! runs: a boot must not wait for a cable, and without the interface there is nothing to protect. Its status line says what
//! is missing.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::host::offline_status;
use super::service::{self, Watchdog};
use super::signals::{Request, Signals};
use crate::config::Config;
use crate::control;
use crate::device::{self, Lack, Underlay};
use crate::health;
use crate::instance::Instance;
use crate::status::{SCHEMA, Status};
use crate::subsystem::{ReportFuture, Reports, Shutdown};

/// How often it is looked whether the interface is there.
const LOOK: Duration = Duration::from_millis(250);

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// What is needed is there.
    There,
    /// The controller was asked to stop.
    Asked,
}

/// What is missing for a start.
#[derive(Debug)]
enum Missing {
    /// The interface.
    Interface(device::Error),
    /// A prefix of the interface, which a server needs to listen in.
    Prefix(Lack),
}

impl Missing {
    /// What is missing and the way out, for the operator.
    fn text(&self, interface: &str) -> String {
        match self {
            Self::Interface(error) => format!("waiting for the interface {interface}: {error}"),
            Self::Prefix(lack) => format!("waiting for a prefix to listen in: {}", lack.of(interface)),
        }
    }

    /// The error of a start that waits no longer.
    fn into_error(self, interface: &str) -> anyhow::Error {
        match self {
            Self::Interface(error) => error.into(),
            Self::Prefix(lack) => anyhow::anyhow!("there is no prefix to listen in: {}", lack.of(interface)),
        }
    }
}

/// How long a start waits.
pub(super) struct Patience {
    begun: Instant,
    /// `None`: for ever.
    most: Option<Duration>,
    /// The index of the interface when it was last found.
    found: Option<u32>,
}

impl Patience {
    /// As the configuration says, from now on.
    pub(super) fn of(config: &Config) -> Self {
        Self { begun: Instant::now(), most: config.interface_wait, found: None }
    }

    /// What is missing; `None`: nothing.
    ///
    /// # Errors
    /// Those for which waiting is of no use.
    async fn look(&mut self, config: &Config) -> anyhow::Result<Option<Missing>> {
        match Underlay::inspect(&config.interface).await {
            Ok(underlay) => {
                self.found = Some(underlay.ifindex);
                let follows = config.follow_prefix && config.listen.is_some();
                Ok(underlay.prefixes.err().filter(|_| follows).map(Missing::Prefix))
            }
            Err(error @ device::Error::NotFound { .. }) => Ok(Some(Missing::Interface(error))),
            Err(error) => Err(error.into()),
        }
    }

    fn is_over(&self) -> bool {
        self.most.is_some_and(|most| self.begun.elapsed() >= most)
    }

    /// Whether a start that failed is to be tried again: the interface has gone, or was made anew meanwhile, and there is
    /// time to wait for it.
    pub(super) async fn goes_on(&self, config: &Config) -> bool {
        let gone = match Underlay::inspect(&config.interface).await {
            Ok(underlay) => self.found.is_some_and(|found| found != underlay.ifindex),
            Err(error) => matches!(error, device::Error::NotFound { .. }),
        };
        gone && !self.is_over()
    }

    /// Waits until what a start needs is there. The caller holds the lock of the instance.
    ///
    /// # Errors
    /// When the time is over, the interface is of no use, or the control socket cannot be made.
    pub(super) async fn until_there(
        &mut self,
        config: &Config,
        instance: &Instance,
        (signals, watchdog): (&mut Signals, &mut Watchdog),
    ) -> anyhow::Result<Waited> {
        let interface = &config.interface;
        let Some(missing) = self.look(config).await? else { return Ok(Waited::There) };
        if self.is_over() {
            return Err(missing.into_error(interface));
        }
        let begun = Instant::now();
        let socket = Socket::serve(config, instance, begun)?;
        let mut announced = String::new();
        let mut missing = Some(missing);
        let waited = loop {
            match missing {
                None => break Ok(Waited::There),
                Some(missing) if self.is_over() => break Err(missing.into_error(interface)),
                Some(missing) => {
                    let text = missing.text(interface);
                    if text != announced {
                        warn!("{text}");
                        service::waiting(&text);
                        socket.tell(&text);
                        announced = text;
                    }
                }
            }
            if let Some(why) = pause(signals).await {
                info!("{why}: stopping");
                break Ok(Waited::Asked);
            }
            watchdog.feed();
            missing = match self.look(config).await {
                Ok(missing) => missing,
                Err(error) => break Err(error),
            };
        };
        socket.close().await;
        if matches!(waited, Ok(Waited::There)) {
            info!("{interface} is there after {:.1} s", begun.elapsed().as_secs_f64());
            service::found(interface);
        }
        waited
    }
}

/// Sleeps until the next look. Returns why the controller is to stop, if it is.
async fn pause(signals: &mut Signals) -> Option<&'static str> {
    tokio::select! {
        () = tokio::time::sleep(LOOK) => None,
        request = signals.next() => match request {
            Request::Stop(why) => Some(why),
            Request::Reload => {
                warn!("not reloaded: nothing runs yet but this wait; restart for another configuration");
                None
            }
        },
    }
}

/// The control socket meanwhile.
struct Socket {
    text: watch::Sender<String>,
    stop: watch::Sender<bool>,
    served: JoinHandle<io::Result<()>>,
}

impl Socket {
    fn serve(config: &Config, instance: &Instance, begun: Instant) -> anyhow::Result<Self> {
        let path = config.socket.clone().unwrap_or_else(|| instance.socket());
        let listener = control::server::bind(&path)?;
        let (text, what) = watch::channel(String::new());
        let (stop, shutdown) = Shutdown::new();
        let waiting = Waiting {
            interface: config.interface.clone(),
            device: config.device.clone(),
            link: config.link.to_string(),
            instance: instance.clone(),
            begun,
            what,
        };
        let served = control::server::serve_alone(listener, Arc::new(waiting), shutdown)?;
        Ok(Self { text, stop, served: tokio::spawn(served) })
    }

    fn tell(&self, text: &str) {
        self.text.send_replace(text.to_owned());
    }

    /// Closes the socket: the controller binds it anew.
    async fn close(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.served.await.map_err(io::Error::other).flatten() {
            warn!("the control socket: {error}");
        }
    }
}

/// What a controller that waits reports.
struct Waiting {
    interface: String,
    device: String,
    link: String,
    instance: Instance,
    begun: Instant,
    what: watch::Receiver<String>,
}

impl Reports for Waiting {
    fn status(&self) -> ReportFuture<'_, anyhow::Result<Status>> {
        Box::pin(async {
            // Where something is attached already, its interface may have gone, and its addresses not be there yet.
            let attached = offline_status(&self.instance).unwrap_or_else(|| Status {
                schema: SCHEMA,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                interface: self.interface.clone(),
                device: self.device.clone(),
                xdp: "none".to_owned(),
                link: self.link.clone(),
                pins: self.instance.pins(),
                ..Status::default()
            });
            let status = Status {
                pid: Some(std::process::id()),
                uptime_seconds: self.begun.elapsed().as_secs_f64(),
                waiting_for: Some(self.what.borrow().clone()),
                ..attached
            };
            Ok(health::examine(status).await)
        })
    }

    fn metrics(&self) -> ReportFuture<'_, anyhow::Result<String>> {
        Box::pin(async { anyhow::bail!("{}", *self.what.borrow()) })
    }
}
