//! The data for the pages: one sample a second, shared by all pages, and none while no page is open.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::http::Progress;
use crate::status::Status;
use crate::subsystem::Reports;

/// Time between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Maximum number of sessions in a sample: more than people read, and few enough that a sample stays small. Only the first
/// ones are sent.
const MAX_SESSIONS: usize = 200;

/// One update of a page, sent as JSON in an event named `sample`. If there is no status, an event named `failure` contains
/// the error instead.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// Unix time of this host, in ms.
    pub time_ms: u64,
    /// Number of sessions and peers that are left out.
    pub left_out: usize,
    /// The same document as at the control socket.
    pub status: Status,
}

/// The latest sample, and the pages that follow. A page that reads too slowly misses samples; none are queued for it.
#[derive(Debug)]
pub(super) struct Feed {
    events: watch::Sender<Bytes>,
    wanted: Notify,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { events: watch::Sender::default(), wanted: Notify::new() }
    }

    /// Takes samples while there are followers, and sleeps otherwise.
    pub(super) async fn produce(&self, reports: &dyn Reports) -> ! {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while self.events.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            ticks.tick().await;
            self.events.send_replace(event(reports.status().await));
        }
    }

    /// The events from now on, for one connection, whose `progress` is noted. The stream holds `permit` until it ends.
    pub(super) fn follow(
        &self,
        progress: Progress,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let events = self.events.subscribe();
        self.wanted.notify_one();
        futures_util::stream::unfold((events, progress, permit), async |(mut events, progress, permit)| {
            // The next event was requested, so earlier ones were sent.
            progress.note();
            events.changed().await.ok()?;
            let event = events.borrow_and_update().clone();
            Some((Ok(event), (events, progress, permit)))
        })
    }
}

/// An event of `text/event-stream`. JSON contains no line breaks.
fn event(status: anyhow::Result<Status>) -> Bytes {
    let (name, data) = match status.map(|status| serde_json::to_string(&sample(status))) {
        Ok(Ok(data)) => ("sample", data),
        Ok(Err(error)) => ("failure", serde_json::Value::from(error.to_string()).to_string()),
        Err(error) => ("failure", serde_json::Value::from(format!("{error:#}")).to_string()),
    };
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn sample(mut status: Status) -> Sample {
    let all = status.peers.len() + status.sessions.len();
    status.peers.truncate(MAX_SESSIONS);
    status.sessions.truncate(MAX_SESSIONS - status.peers.len());
    let left_out = all - status.peers.len() - status.sessions.len();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Sample { time_ms: time.as_millis() as u64, left_out, status }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use futures_util::StreamExt as _;
    use tokio::sync::Semaphore;
    use tokio::time::sleep;

    use super::*;
    use crate::control::tests::{FakeReports, sample as status};
    use crate::status::Session;

    #[tokio::test(start_paused = true)]
    async fn samples_are_taken_once_for_all_and_only_while_somebody_looks() {
        let (feed, source) = (Arc::new(Feed::new()), Arc::new(FakeReports::default()));
        let asked = || source.asked.load(Ordering::Relaxed);
        let producer = tokio::spawn({
            let (feed, source) = (Arc::clone(&feed), Arc::clone(&source));
            async move { feed.produce(&*source).await }
        });
        sleep(PERIOD * 10).await;
        assert_eq!(asked(), 0);
        let permits = Arc::new(Semaphore::new(2));
        let follow =
            || Box::pin(feed.follow(Progress::default(), Arc::clone(&permits).try_acquire_owned().unwrap()));
        let mut followers = [follow(), follow()];
        for _ in 0..3 {
            for follower in &mut followers {
                assert!(follower.next().await.unwrap().unwrap().starts_with(b"event: sample\n"));
            }
        }
        assert_eq!(asked(), 3);
        // A page that has not read for a long time gets only the latest sample.
        sleep(PERIOD * 10).await;
        let so_far = asked();
        followers[0].next().await;
        assert_eq!(asked(), so_far);
        drop(followers);
        sleep(PERIOD * 2).await;
        let so_far = asked();
        sleep(PERIOD * 10).await;
        assert_eq!(asked(), so_far);
        assert_eq!(permits.available_permits(), 2);
        producer.abort();
    }

    #[test]
    fn a_sample_stays_small_and_says_what_it_leaves_out() {
        let sessions = vec![Session::unknown(); 1000];
        let peers = status().peers.len();
        let sample = sample(Status { sessions, ..status() });
        assert_eq!(sample.left_out, 1000 + peers - MAX_SESSIONS);
        assert_eq!(sample.status.sessions.len() + sample.status.peers.len(), MAX_SESSIONS);
    }

    #[test]
    fn failures_are_told_as_one_line() {
        let event = event(Err(anyhow::anyhow!("no \"map\"\nat all")));
        assert_eq!(event, "event: failure\ndata: \"no \\\"map\\\"\\nat all\"\n\n");
    }
}
