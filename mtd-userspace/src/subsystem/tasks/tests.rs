use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::events::{Kind as EventKind, Received};

fn tasks() -> (watch::Sender<bool>, Arc<Bus>, Tasks) {
    let (stop, shutdown) = Shutdown::new();
    let bus = Arc::new(Bus::new(|| 0));
    let tasks = Tasks::new(Arc::clone(&bus), shutdown);
    (stop, bus, tasks)
}

/// A task that fails in three ways, once each, and then goes on until the shutdown.
fn faulty(
    tasks: &Tasks,
    begun: &Arc<AtomicU32>,
) -> impl FnMut() -> crate::subsystem::ReportFuture<'static, anyhow::Result<()>> + Send + use<> {
    let (shutdown, begun) = (tasks.shutdown(), Arc::clone(begun));
    move || {
        let (shutdown, turn) = (shutdown.clone(), begun.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            match turn {
                0 => panic!("a bug, number {turn}"),
                1 => anyhow::bail!("no such map"),
                2 => {}
                _ => shutdown.begun().await,
            }
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_seen_counted_told_and_started_again() {
    let (stop, bus, tasks) = tasks();
    let mut events = bus.subscribe(Some(EventKind::Task));
    let begun = Arc::new(AtomicU32::new(0));
    tasks.spawn("faulty", AfterEnd::Restart, faulty(&tasks, &begun));
    for expected in ["panic: a bug, number 0", "no such map", "it has ended"] {
        let Received::Event(record) = events.next().await else { panic!("lost") };
        let Event::Task(end) = &record.event else { panic!("{record:?}") };
        assert_eq!((end.task, end.why.as_str(), end.restarted), ("faulty", expected, true));
    }
    sleep(Duration::from_secs(1)).await;
    let report = tasks.report();
    assert_eq!((report[0].failures, report[0].running), (3, true));
    assert_eq!(report[0].last_failure.as_deref(), Some("it has ended"));
    let mut text = Text::default();
    metrics(&report, &mut text);
    assert!(text.finish().contains("\nmtd_task_failures_total{task=\"faulty\"} 3\n"));
    stop.send_replace(true);
    tasks.finish().await;
    assert_eq!(begun.load(Ordering::Relaxed), 4, "the shutdown is no failure");
    assert!(!tasks.report()[0].running);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_again_and_again_rests_longer_each_time_up_to_a_limit() {
    let (_stop, _bus, tasks) = tasks();
    let begun = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&begun);
    tasks.spawn("hopeless", AfterEnd::Restart, move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async { anyhow::bail!("no") }
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(begun.load(Ordering::Relaxed), 4, "at 0, 0.1, 0.3 and 0.7 s");
    sleep(Duration::from_hours(1)).await;
    let so_far = begun.load(Ordering::Relaxed);
    sleep(LONGEST_REST * 10).await;
    assert_eq!(begun.load(Ordering::Relaxed), so_far + 10);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nothing_goes_without_stops_the_controller() {
    let (_stop, _bus, tasks) = tasks();
    let begun = Arc::new(AtomicU32::new(0));
    assert!(timeout(Duration::from_secs(1), tasks.fatal_end()).await.is_err());
    tasks.spawn("vital", AfterEnd::StopController, faulty(&tasks, &begun));
    assert_eq!(tasks.fatal_end().await, "vital");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(begun.load(Ordering::Relaxed), 1, "it is not started again");
    assert!(!tasks.report()[0].running);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_end_keeps_nobody_from_stopping() {
    let (stop, _bus, tasks) = tasks();
    tasks.spawn("stubborn", AfterEnd::Restart, std::future::pending::<anyhow::Result<()>>);
    stop.send_replace(true);
    timeout(Duration::from_mins(1), tasks.finish()).await.expect("it waits for ever");
}
