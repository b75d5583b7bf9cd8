//! Combines the reports of all subsystems: status, metrics, events.

use std::sync::{Arc, Mutex};

use crate::events::Bus;
use crate::sessions::{Clock, Sessions};
use crate::status::{Events, Status};
use crate::subsystem::{ReportFuture, Reports, Subsystem, Tasks, lock};
use crate::{health, metrics};

/// The parts that contribute to the reports.
pub(super) struct Board {
    pub(super) sessions: Arc<Mutex<Sessions>>,
    pub(super) bus: Arc<Bus>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) subsystems: Vec<Arc<dyn Subsystem>>,
    /// The metrics of the last request, reused for a moment.
    pub(super) rendered: metrics::Cache,
}

impl Board {
    /// The status as far as this process knows it. `all`: with the single sessions, whose addresses have to be derived.
    fn collect(&self, all: bool) -> Status {
        let mut status = {
            let sessions = lock(&self.sessions);
            if all { sessions.status() } else { sessions.overview() }
        };
        let now = self.clock.read();
        for subsystem in &self.subsystems {
            subsystem.report(now, &mut status);
        }
        status.tasks = self.tasks.report();
        status.events = Events { published: self.bus.published(), lost: self.bus.lost() };
        status
    }

    /// The same with the state of the host around it, and the warnings.
    async fn examine(&self, all: bool) -> Status {
        health::examine(self.collect(all)).await
    }
}

impl Reports for Board {
    fn status(&self) -> ReportFuture<'_, anyhow::Result<Status>> {
        Box::pin(async { Ok(self.examine(true).await) })
    }

    fn metrics(&self) -> ReportFuture<'_, anyhow::Result<String>> {
        Box::pin(self.rendered.get(async || {
            let status = self.examine(false).await;
            Ok(metrics::render(&status, |text| {
                self.subsystems.iter().for_each(|subsystem| subsystem.metrics(&status, text));
            }))
        }))
    }
}
