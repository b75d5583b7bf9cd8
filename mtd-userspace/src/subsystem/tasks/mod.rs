//! Supervised tasks: none ends unnoticed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, warn};

use super::Shutdown;
use crate::events::{Bus, Event, TaskEnd};
use crate::prometheus::{Kind, Text};
use crate::status;

/// Pause before a failed task is restarted; it doubles each time.
const FIRST_REST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A task that ran for this long has recovered: its next pause is the shortest one again.
const STEADY: Duration = Duration::from_mins(1);
/// How long a task may take to end when the controller stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// The consequence when a task ends before the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// It is restarted after a pause.
    Restart,
    /// The controller cannot do without it, and stops as in a crash. The data plane stays, for the next controller.
    StopController,
}

/// The tasks of a controller. Clones share them.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    bus: Arc<Bus>,
    shutdown: Shutdown,
    supervisors: Mutex<JoinSet<()>>,
    states: Mutex<BTreeMap<&'static str, TaskState>>,
    fatal: watch::Sender<Option<&'static str>>,
}

#[derive(Clone, Debug, Default)]
struct TaskState {
    running: bool,
    failures: u64,
    last_failure: Option<String>,
}

impl Tasks {
    /// Starts without tasks. All tasks have to end when `shutdown` begins.
    pub fn new(bus: Arc<Bus>, shutdown: Shutdown) -> Self {
        let (supervisors, states) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { bus, shutdown, supervisors, states, fatal: watch::Sender::new(None) }))
    }

    /// The shutdown, which every task has to observe.
    pub fn shutdown(&self) -> Shutdown {
        self.0.shutdown.clone()
    }

    /// Runs the future that `make` returns, and restarts it when necessary. Must be called within a tokio runtime. Until the
    /// shutdown, its end is a failure whatever it returns, and so is a panic.
    pub fn spawn<F, T>(&self, name: &'static str, after: AfterEnd, make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.states().entry(name).or_default().running = true;
        let supervisor = supervise(self.clone(), name, after, make);
        let mut supervisors = self.0.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        supervisors.spawn(supervisor);
    }

    /// Ready with the name of a task that has ended and that the controller cannot do without.
    pub async fn fatal_end(&self) -> &'static str {
        let mut fatal = self.0.fatal.subscribe();
        loop {
            if let Some(name) = *fatal.borrow_and_update() {
                return name;
            }
            // The sender is in the same struct, so there is no error.
            let _ = fatal.changed().await;
        }
    }

    /// Waits for the end of all tasks, after the shutdown has begun.
    pub async fn finish(&self) {
        let mut supervisors = {
            let mut supervisors = self.0.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *supervisors)
        };
        while supervisors.join_next().await.is_some() {}
    }

    /// The state of the tasks, for the status document.
    pub fn report(&self) -> Vec<status::Task> {
        let states = self.states();
        let report = |(name, state): (&&str, &TaskState)| status::Task {
            name: (*name).to_owned(),
            running: state.running,
            failures: state.failures,
            last_failure: state.last_failure.clone(),
        };
        states.iter().map(report).collect()
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskState>> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: &'static str, change: impl FnOnce(&mut TaskState)) {
        change(self.states().entry(name).or_default());
    }

    fn note_failure(&self, name: &'static str, why: &str, after: AfterEnd) {
        self.note(name, |state| {
            state.running = false;
            state.failures += 1;
            state.last_failure = Some(why.to_owned());
        });
        let restarted = after == AfterEnd::Restart;
        let then = if restarted { "it is started again" } else { "the controller stops" };
        error!("task {name}: {why}; {then}");
        self.0.bus.publish(Event::Task(TaskEnd { task: name, why: why.to_owned(), restarted }));
    }
}

/// The metrics of tasks.
pub fn metrics(tasks: &[status::Task], text: &mut Text) {
    let help = "How often a task of the controller has ended although it should go on.";
    let mut family = text.family("mtd_task_failures_total", Kind::Counter, help);
    for task in tasks {
        family.sample(&[("task", &task.name)], task.failures);
    }
}

async fn supervise<F, T>(tasks: Tasks, name: &'static str, after: AfterEnd, mut make: F)
where
    F: FnMut() -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut rest = FIRST_REST;
    loop {
        let begun = Instant::now();
        tasks.note(name, |state| state.running = true);
        let mut task = Owned(tokio::spawn(make()));
        let ended = tokio::select! {
            ended = &mut task.0 => ended,
            () = tasks.shutdown().begun() => match timeout(PATIENCE, &mut task.0).await {
                Ok(ended) => ended,
                Err(_) => return warn!("task {name}: it does not end; going on without it"),
            },
        };
        if tasks.0.shutdown.has_begun() {
            tasks.note(name, |state| state.running = false);
            if let Some(why) = failure(ended) {
                warn!("task {name}: {why}");
            }
            return;
        }
        let why = failure(ended).unwrap_or_else(|| "it has ended".to_owned());
        tasks.note_failure(name, &why, after);
        if after == AfterEnd::StopController {
            tasks.0.fatal.send_replace(Some(name));
            return;
        }
        if begun.elapsed() >= STEADY {
            rest = FIRST_REST;
        }
        tokio::select! {
            () = sleep(rest) => {}
            () = tasks.shutdown().begun() => return,
        }
        rest = (rest * 2).min(LONGEST_REST);
    }
}

/// The error of a task that has ended.
fn failure(ended: Result<anyhow::Result<()>, JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(error) => Some(match error.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                format!("panic: {}", text.as_deref().unwrap_or("of an unknown kind"))
            }
            Err(error) => error.to_string(),
        }),
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<anyhow::Result<()>>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
