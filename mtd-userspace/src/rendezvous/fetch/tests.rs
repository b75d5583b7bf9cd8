//! Fetching from a store that misbehaves, in virtual time.

use mtd_common::address::Network;

use super::super::{Faults, Item, MemoryStore};
use super::*;
use crate::keys::SecretKey;
use crate::proto::rendezvous::Shared;

fn rendezvous(client: u8, window: u64) -> Rendezvous {
    let (server, client) = (SecretKey::from_bytes([200; 32]), SecretKey::from_bytes([client; 32]));
    let shared = Shared::new(&server, &client.public()).unwrap();
    shared.rendezvous(&server.public(), &client.public(), window)
}

fn introduction(published_ms: u64) -> Introduction {
    let mut prefix = [0; 16];
    prefix[0] = 0x20;
    Introduction {
        network: Network { prefix, length: 64 },
        seed: [3; 8],
        key: SecretKey::from_bytes([u8::try_from(published_ms % 251).unwrap(); 32]),
        rot: Duration::from_secs(3),
        slot: Duration::from_secs(3),
        published_ms,
    }
}

async fn publish(store: &MemoryStore, rendezvous: &Rendezvous, published_ms: u64, encoding: Encoding) {
    let sealed = introduction(published_ms).seal(rendezvous, [9; 24]).unwrap();
    let item = Item::new(rendezvous, sealed.to_vec(), published_ms);
    store.publish(item, encoding).await.unwrap();
}

fn fetcher(store: &MemoryStore, encoding: Encoding) -> Fetcher {
    let options = FetchOptions { encoding, ..FetchOptions::default() };
    Fetcher::new(Arc::new(store.clone()), options)
}

/// Lets searches that go on in the background end.
async fn settle() {
    sleep(Duration::from_mins(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_published_is_found_in_both_encodings() {
    for encoding in [Encoding::Item, Encoding::Ports] {
        let store = MemoryStore::new();
        let choice = rendezvous(1, 900);
        publish(&store, &choice, 1000, encoding).await;
        let fetcher = fetcher(&store, encoding);
        let found = fetcher.fetch(std::slice::from_ref(&choice)).await.unwrap();
        assert_eq!((found.introduction, found.choice), (introduction(1000), 0));
        assert_eq!(fetcher.counters(), Counters { fetched: 1, ..Counters::default() });
    }
}

#[tokio::test(start_paused = true)]
async fn not_there_and_out_of_reach_are_different() {
    let store = MemoryStore::new();
    let fetcher = fetcher(&store, Encoding::Item);
    let choices = [rendezvous(1, 900), rendezvous(1, 0), rendezvous(1, 1800)];
    assert_eq!(fetcher.fetch(&choices).await.unwrap_err(), FetchError::Absent { refused: 0 });
    store.set_faults(Faults { dead: true, ..Faults::default() });
    assert_eq!(fetcher.fetch(&choices).await.unwrap_err(), FetchError::Store(StoreError::Dead));
    assert_eq!(fetcher.fetch(&[]).await.unwrap_err(), FetchError::Absent { refused: 0 });
    assert_eq!(fetcher.counters(), Counters { absent: 3, failed: 3, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn the_preferred_window_wins_and_the_next_is_taken_when_it_is_absent() {
    let store = MemoryStore::new();
    let choices = [rendezvous(1, 1800), rendezvous(1, 900)];
    publish(&store, &choices[1], 1000, Encoding::Item).await;
    let fetcher = fetcher(&store, Encoding::Item);
    assert_eq!(fetcher.fetch(&choices).await.unwrap().choice, 1);
    publish(&store, &choices[0], 2000, Encoding::Item).await;
    // So slow that the search for the second begins meanwhile, and ends first when only it is fast.
    store.set_faults(Faults { delay: Duration::from_secs(2), ..Faults::default() });
    let found = fetcher.fetch(&choices).await.unwrap();
    assert_eq!((found.choice, found.introduction.published_ms), (0, 2000));
    assert_eq!(found.took.as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn garbage_forgeries_and_foreign_items_are_refused_and_counted() {
    let store = MemoryStore::new();
    let own = rendezvous(1, 900);
    publish(&store, &own, 1000, Encoding::Item).await;
    publish(&store, &rendezvous(2, 900), 1000, Encoding::Item).await;
    publish(&store, &rendezvous(1, 0), 1000, Encoding::Item).await;
    store.set_faults(Faults { garbage: true, forged: true, foreign: true, ..Faults::default() });
    let fetcher = fetcher(&store, Encoding::Item);
    let found = fetcher.fetch(std::slice::from_ref(&own)).await.unwrap();
    assert_eq!(found.introduction, introduction(1000));
    let expected = Counters { fetched: 1, wrong_length: 2, foreign: 3, invalid: 1, ..Counters::default() };
    assert_eq!(fetcher.counters(), expected);

    store.set_faults(Faults { garbage: true, foreign: true, absent: true, ..Faults::default() });
    assert_eq!(fetcher.fetch(&[own]).await.unwrap_err(), FetchError::Absent { refused: 5 });
}

#[tokio::test(start_paused = true)]
async fn older_items_are_refused_once_a_newer_one_was_seen() {
    let store = MemoryStore::new();
    let own = [rendezvous(1, 900)];
    publish(&store, &own[0], 1000, Encoding::Item).await;
    publish(&store, &own[0], 2000, Encoding::Item).await;
    // The old one first, but the new one soon after it.
    store.set_faults(Faults { stale: true, between: Duration::from_millis(20), ..Faults::default() });
    let fetcher = fetcher(&store, Encoding::Item);
    assert_eq!(fetcher.fetch(&own).await.unwrap().introduction.published_ms, 2000);
    assert_eq!(fetcher.fetch(&own).await.unwrap().introduction.published_ms, 2000);
    assert_eq!(fetcher.counters(), Counters { fetched: 2, stale: 1, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn a_newer_item_that_comes_late_is_counted_and_the_older_never_taken_again() {
    let store = MemoryStore::new();
    let own = [rendezvous(1, 900)];
    publish(&store, &own[0], 1000, Encoding::Item).await;
    publish(&store, &own[0], 2000, Encoding::Item).await;
    store.set_faults(Faults { stale: true, between: Duration::from_secs(1), ..Faults::default() });
    let fetcher = fetcher(&store, Encoding::Item);
    let found = fetcher.fetch(&own).await.unwrap();
    assert_eq!((found.introduction.published_ms, found.took.as_millis()), (1000, 100));
    settle().await;
    assert_eq!(fetcher.counters(), Counters { fetched: 1, late: 1, ..Counters::default() });
    assert_eq!(fetcher.fetch(&own).await.unwrap().introduction.published_ms, 2000);
    settle().await;
    assert_eq!(fetcher.counters(), Counters { fetched: 2, late: 1, stale: 1, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn copies_are_no_news() {
    let store = MemoryStore::new();
    let own = [rendezvous(1, 900)];
    publish(&store, &own[0], 1000, Encoding::Item).await;
    let fetcher = fetcher(&store, Encoding::Item);
    for _ in 0..3 {
        fetcher.fetch(&own).await.unwrap();
    }
    assert_eq!(fetcher.counters(), Counters { fetched: 3, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn a_sequence_number_that_is_not_the_sealed_one_is_refused() {
    let store = MemoryStore::new();
    let own = rendezvous(1, 900);
    let mut item = introduction(1000);
    item.published_ms = 1001;
    let sealed = item.seal(&own, [9; 24]).unwrap();
    // Sequence number and sealed time differ.
    store.publish(Item::new(&own, sealed.to_vec(), 1000), Encoding::Item).await.unwrap();
    let fetcher = fetcher(&store, Encoding::Item);
    assert_eq!(fetcher.fetch(&[own]).await.unwrap_err(), FetchError::Absent { refused: 1 });
    assert_eq!(fetcher.counters(), Counters { absent: 1, unusable: 1, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn a_search_that_takes_too_long_is_given_up() {
    let store = MemoryStore::new();
    store.set_faults(Faults { delay: Duration::from_hours(1), ..Faults::default() });
    let fetcher = fetcher(&store, Encoding::Item);
    let start = Instant::now();
    let error = fetcher.fetch(&[rendezvous(1, 900)]).await.unwrap_err();
    assert_eq!(error, FetchError::Store(StoreError::Stuck));
    assert_eq!(start.elapsed().as_secs(), 20);
}
