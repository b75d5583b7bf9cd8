//! The publisher on a store in memory, in virtual time.

use super::super::{Answer, Faults, MemoryStore};
use super::*;
use crate::keys::SecretKey;
use crate::proto::rendezvous::{Rendezvous, Shared};

const MINUTE: Duration = Duration::from_mins(1);

fn rendezvous(client: u8) -> (PublicKey, Rendezvous) {
    let (server, client) = (SecretKey::from_bytes([200; 32]), SecretKey::from_bytes([client; 32]));
    let shared = Shared::new(&server, &client.public()).unwrap();
    (client.public(), shared.rendezvous(&server.public(), &client.public(), 900))
}

fn job(client: u8, seq: u64) -> Job {
    let (client, rendezvous) = rendezvous(client);
    Job { client, window: 900, item: Item::new(&rendezvous, seq.to_be_bytes().to_vec(), seq) }
}

fn publisher(store: &MemoryStore) -> Publisher {
    let options = PublishOptions { in_flight: 6, ..PublishOptions::default() };
    Publisher::new(Arc::new(store.clone()), options)
}

/// Waits until the set given last has been published once.
async fn finished(publisher: &Publisher) -> PublishProgress {
    let set = publisher.sets.load(Ordering::Relaxed);
    let done = |progress: &PublishProgress| progress.set == set && progress.finished_ms.is_some();
    publisher.watch().wait_for(done).await.unwrap().clone()
}

/// Sequence numbers that the store has for a client.
async fn stored(store: &MemoryStore, client: u8) -> Vec<i64> {
    let mut answers = store.look(job(client, 0).item.lookup(), Encoding::Item, 8);
    let mut found = Vec::new();
    while let Answer::Message(message) = answers.next().await {
        found.extend(message.seq);
    }
    found
}

#[tokio::test(start_paused = true)]
async fn many_are_spread_over_the_time_and_few_are_in_flight() {
    let store = MemoryStore::new();
    store.set_faults(Faults { delay: Duration::from_secs(1), ..Faults::default() });
    let publisher = publisher(&store);
    let start = Instant::now();
    publisher.replace((1..=100).map(|client| job(client, 7)).collect(), 5 * MINUTE);
    tokio::time::sleep(MINUTE).await;
    let early = publisher.progress();
    assert!((18..=21).contains(&early.done), "{early:?}");
    assert_eq!((early.total, early.finished_ms), (100, None));
    let progress = finished(&publisher).await;
    assert_eq!((progress.done, progress.published, progress.failed), (100, 100, 0));
    assert!((4 * MINUTE..6 * MINUTE).contains(&start.elapsed()), "{:?}", start.elapsed());

    // At once, the number in flight is the limit.
    publisher.replace((1..=100).map(|client| job(client, 8)).collect(), Duration::ZERO);
    let start = Instant::now();
    assert_eq!(finished(&publisher).await.done, 100);
    assert_eq!(store.most_in_flight(), 6);
    assert_eq!(start.elapsed().as_secs(), 100_u64.div_ceil(6));
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_seen() {
    let store = MemoryStore::new();
    store.set_faults(Faults { failing: 12, ..Faults::default() });
    let publisher = publisher(&store);
    publisher.replace((1..=10).map(|client| job(client, 7)).collect(), Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let progress = publisher.progress();
    assert_eq!((progress.done, progress.retrying, progress.failed), (0, 10, 10));
    assert!(progress.last_error.unwrap().contains("a fault of the test"));
    let progress = finished(&publisher).await;
    assert_eq!((progress.done, progress.retrying, progress.failed, progress.published), (10, 0, 12, 10));
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_network_is_asked_less_and_less_and_found_when_it_is_back() {
    let store = MemoryStore::new();
    store.set_faults(Faults { dead: true, ..Faults::default() });
    let publisher = publisher(&store);
    publisher.replace(vec![job(1, 7)], Duration::ZERO);
    tokio::time::sleep(10 * MINUTE).await;
    let progress = publisher.progress();
    assert!((10..=18).contains(&progress.failed), "{progress:?}");
    assert_eq!(progress.reached, Some(false));
    store.set_faults(Faults::default());
    let start = Instant::now();
    finished(&publisher).await;
    assert!(start.elapsed() <= MINUTE * 3 / 2);
    assert_eq!(stored(&store, 1).await, [7]);
    assert_eq!(publisher.progress().reached, Some(true));
    // It goes again: that something was published once does not hide it.
    store.set_faults(Faults { dead: true, ..Faults::default() });
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(publisher.progress().reached, Some(false), "the renewal has failed");
}

#[tokio::test(start_paused = true)]
async fn many_items_that_nobody_takes_are_tried_no_more_often_than_one() {
    let store = MemoryStore::new();
    store.set_faults(Faults { dead: true, delay: Duration::from_secs(2), ..Faults::default() });
    let publisher = publisher(&store);
    publisher.replace((1..=100).map(|client| job(client, 7)).collect(), Duration::ZERO);
    tokio::time::sleep(10 * MINUTE).await;
    let progress = publisher.progress();
    assert!((8..=18).contains(&progress.failed), "{progress:?}");
    store.set_faults(Faults::default());
    let start = Instant::now();
    finished(&publisher).await;
    assert!(start.elapsed() <= 2 * MINUTE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_was_published_in_a_wrong_network_is_published_again_at_once() {
    let store = MemoryStore::new();
    let publisher = publisher(&store);
    publisher.replace(vec![job(1, 7), job(2, 7)], Duration::ZERO);
    finished(&publisher).await;
    publisher.again();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(publisher.progress().published, 4);
    // Also what is on its way into the wrong network just then, and what waits because nobody answered.
    store.set_faults(Faults { dead: true, ..Faults::default() });
    publisher.again();
    tokio::time::sleep(10 * MINUTE).await;
    store.set_faults(Faults { delay: Duration::from_secs(3), ..Faults::default() });
    publisher.again();
    tokio::time::sleep(Duration::from_secs(1)).await;
    publisher.again();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let progress = publisher.progress();
    assert!((7..=8).contains(&progress.published), "{progress:?}");
    assert_eq!((progress.done, progress.retrying), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_published_never_expires_and_what_is_removed_does() {
    let store = MemoryStore::new();
    let publisher = publisher(&store);
    publisher.replace(vec![job(1, 7), job(2, 7)], Duration::ZERO);
    finished(&publisher).await;
    publisher.replace(vec![job(1, 7)], Duration::ZERO);
    for _ in 0..20 {
        tokio::time::sleep(30 * MINUTE).await;
        assert_eq!(stored(&store, 1).await, [7]);
    }
    assert!(stored(&store, 2).await.is_empty());
    assert_eq!(publisher.progress().published, 2 + 600 / 45);
}

#[tokio::test(start_paused = true)]
async fn replacing_publishes_what_is_new_and_leaves_the_rest_alone() {
    let store = MemoryStore::new();
    let publisher = publisher(&store);
    publisher.replace(vec![job(1, 7), job(2, 7)], Duration::ZERO);
    finished(&publisher).await;
    publisher.replace(vec![job(1, 7), job(2, 9), job(3, 7)], Duration::ZERO);
    let progress = finished(&publisher).await;
    assert_eq!((progress.total, progress.done, progress.published), (3, 3, 4));
    assert_eq!(stored(&store, 2).await, [9], "the newest is what a search finds");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_replaced_while_it_is_published_is_published_after_it() {
    let store = MemoryStore::new();
    store.set_faults(Faults { delay: Duration::from_secs(3), ..Faults::default() });
    let publisher = publisher(&store);
    publisher.replace(vec![job(1, 7)], Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(1)).await;
    publisher.replace(vec![job(1, 8)], Duration::ZERO);
    let progress = finished(&publisher).await;
    assert_eq!((progress.total, progress.done, progress.published), (1, 1, 2));
    assert_eq!(store.most_in_flight(), 1, "two publications to one place conflict");
    assert_eq!(stored(&store, 1).await, [8]);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_publish_is_finished_at_once_and_dropping_ends_everything() {
    let store = MemoryStore::new();
    let publisher = publisher(&store);
    assert_eq!(publisher.progress(), PublishProgress::default());
    publisher.replace(Vec::new(), MINUTE);
    assert_eq!(finished(&publisher).await.total, 0);
    publisher.replace(vec![job(1, 7)], Duration::ZERO);
    finished(&publisher).await;
    drop(publisher);
    tokio::time::sleep(180 * MINUTE).await;
    assert_eq!(store.published(), 1);
}
