//! The thread that makes key stream ahead, as a part of the controller.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use tokio::time::sleep;

use crate::dataplane::{Maker, Plane, Worker};
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Interval at which the thread is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Key stream for busy sessions.
pub struct KeyStream {
    maker: Mutex<Option<Maker>>,
    worker: Arc<Mutex<Option<Worker>>>,
}

impl KeyStream {
    /// Takes the maker of the data plane; `None`: it has no lanes.
    pub fn take(plane: &mut Plane) -> Option<Arc<Self>> {
        let maker = plane.take_maker()?;
        Some(Arc::new(Self { maker: Mutex::new(Some(maker)), worker: Arc::default() }))
    }
}

impl Subsystem for KeyStream {
    fn name(&self) -> &'static str {
        "key stream"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = maker.map(Maker::spawn).transpose()?;
        let (worker, shutdown) = (Arc::clone(&self.worker), context.shutdown());
        // The thread owns the maps that it works with, so no second thread can be started.
        context.tasks.spawn(self.name(), AfterEnd::StopController, move || {
            let (worker, shutdown) = (Arc::clone(&worker), shutdown.clone());
            async move {
                let ended = || {
                    let worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
                    worker.as_ref().is_some_and(Worker::has_ended)
                };
                loop {
                    tokio::select! {
                        () = shutdown.clone().begun() => return Ok(()),
                        () = sleep(LOOK) => if ended() {
                            bail!("its thread has ended");
                        },
                    }
                }
            }
        });
        Ok(())
    }

    fn stop(&self) {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
