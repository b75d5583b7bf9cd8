//! Rendezvous through private DHTs of the real protocol on loopback. Needs no root.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainline::{MutableItem, SigningKey};
use mtd::keys::SecretKey;
use mtd::proto::rendezvous::{Introduction, Rendezvous, Shared};
use mtd::rendezvous::{
    Counters, DhtConfig, Encoding, FetchError, FetchOptions, Fetcher, Item, Job, MainlineStore,
    PublishOptions, Publisher, Store, StoreError,
};
use mtd_common::address::Network;
use mtd_tests::dht::{PrivateDht, Sybil};

const NODES: u8 = 20;

/// Longer than the nodes' own: a busy machine must not look like a dead network.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

const WINDOW: u64 = 1_800_000_000;

fn pair(client: u8) -> (SecretKey, SecretKey) {
    (SecretKey::from_bytes([200; 32]), SecretKey::from_bytes([client; 32]))
}

/// What the server and this client have in common in a window.
fn rendezvous(client: u8, window: u64) -> Rendezvous {
    let (server, client) = pair(client);
    let shared = Shared::new(&client, &server.public()).expect("a good public key");
    shared.rendezvous(&server.public(), &client.public(), window)
}

fn introduction(published_ms: u64) -> Introduction {
    let mut prefix = [0; 16];
    prefix[..6].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1]);
    Introduction {
        network: Network { prefix, length: 64 },
        seed: [7; 8],
        key: SecretKey::from_bytes([9; 32]),
        rot: Duration::from_secs(3),
        slot: Duration::from_secs(10),
        published_ms,
    }
}

fn item(rendezvous: &Rendezvous, published_ms: u64) -> Item {
    let nonce = [u8::try_from(published_ms % 256).expect("below 256"); 24];
    let sealed = introduction(published_ms).seal(rendezvous, nonce).expect("fields that make sense");
    Item::new(rendezvous, sealed.to_vec(), published_ms)
}

fn store(bootstrap: Vec<String>) -> MainlineStore {
    MainlineStore::new(DhtConfig { bootstrap, request_timeout: REQUEST_TIMEOUT, ..DhtConfig::default() })
}

fn fetcher(store: &MainlineStore, encoding: Encoding) -> Fetcher {
    // The machine may be busy: everything may take longer, but nothing may be wrong.
    let settle = Duration::from_secs(2);
    let options = FetchOptions { encoding, settle, ..FetchOptions::default() };
    Fetcher::new(Arc::new(store.clone()), options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_item_is_found() {
    let network = PrivateDht::on_loopback(NODES).unwrap();
    let (server, client) = (store(network.bootstrap()), store(network.bootstrap()));
    let own = rendezvous(1, WINDOW);
    let start = Instant::now();
    let stored = server.publish(item(&own, 1000), Encoding::Item).await.unwrap();
    let published = start.elapsed();
    assert!(stored.copies.is_some_and(|copies| copies >= 15), "{stored:?}");
    let fetcher = fetcher(&client, Encoding::Item);
    let found = fetcher.fetch(&[own, rendezvous(1, WINDOW - 900)]).await.unwrap();
    assert_eq!((found.introduction, found.choice), (introduction(1000), 0));
    println!("published {stored:?} in {published:?}, found in {:?} with a new node", found.took);
    let neighbour = fetcher.fetch(&[rendezvous(1, WINDOW + 900), rendezvous(1, WINDOW)]).await.unwrap();
    assert_eq!(neighbour.choice, 1);
    println!("found in the neighbouring window in {:?}", neighbour.took);
    let counters = fetcher.counters();
    assert_eq!((counters.fetched, counters.absent), (2, 1), "{counters:?}");
    assert_eq!(
        counters.foreign + counters.stale + counters.invalid + counters.wrong_length,
        0,
        "{counters:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuffed_ports_are_found() {
    let network = PrivateDht::on_loopback(NODES).unwrap();
    let (server, client) = (store(network.bootstrap()), store(network.bootstrap()));
    let own = rendezvous(1, WINDOW);
    let start = Instant::now();
    server.publish(item(&own, 1000), Encoding::Ports).await.unwrap();
    println!("announced in {:?}", start.elapsed());
    let fetcher = fetcher(&client, Encoding::Ports);
    let found = fetcher.fetch(std::slice::from_ref(&own)).await.unwrap();
    assert_eq!(found.introduction, introduction(1000));
    println!("collected in {:?}", found.took);
    assert_eq!(fetcher.counters().fetched, 1);
    let absent = fetcher.fetch(&[rendezvous(2, WINDOW)]).await.unwrap_err();
    assert_eq!(absent, FetchError::Absent { refused: 0 });
    let announced = client.announced(own.descriptor().0).await.unwrap();
    assert_eq!(announced.len(), 116);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_nodes_can_go_and_without_any_it_is_said() {
    let mut network = PrivateDht::on_loopback(NODES).unwrap();
    let (server, client) = (store(network.bootstrap()), store(network.bootstrap()));
    let own = [rendezvous(1, WINDOW)];
    server.publish(item(&own[0], 1000), Encoding::Item).await.unwrap();
    let known = fetcher(&client, Encoding::Item);
    known.fetch(&own).await.unwrap();

    network.kill(usize::from(NODES) / 2).unwrap();
    assert_eq!(network.living(), 10);
    // With the node that knows the dead ones, and with a new one.
    let took = known.fetch(&own).await.unwrap().took;
    let fresh = fetcher(&store(network.bootstrap()), Encoding::Item);
    println!("found in {took:?}, and with a new node in {:?}", fresh.fetch(&own).await.unwrap().took);
    let absent = known.fetch(&[rendezvous(2, WINDOW)]).await.unwrap_err();
    assert_eq!(absent, FetchError::Absent { refused: 0 });
    let stored = server.publish(item(&own[0], 2000), Encoding::Item).await.unwrap();
    assert!(stored.copies.is_some_and(|copies| copies >= 5), "{stored:?}");

    network.kill(network.living()).unwrap();
    let fresh = fetcher(&store(network.bootstrap()), Encoding::Item);
    for fetcher in [&known, &fresh] {
        let start = Instant::now();
        assert_eq!(fetcher.fetch(&own).await.unwrap_err(), FetchError::Store(StoreError::Dead));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(fetcher.counters().failed, 1);
    }
    for encoding in [Encoding::Item, Encoding::Ports] {
        let error = store(network.bootstrap()).publish(item(&own[0], 3000), encoding).await.unwrap_err();
        assert_eq!(error, StoreError::Dead);
    }
    let nowhere = store(vec!["no.such.name.invalid:6881".to_owned()]);
    let error = nowhere.publish(item(&own[0], 1000), Encoding::Item).await.unwrap_err();
    assert_eq!(error, StoreError::Unresolved("no.such.name.invalid:6881".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_and_forged_items_of_sybils_are_never_taken() {
    let network = PrivateDht::on_loopback(NODES).unwrap();
    let server = store(network.bootstrap());
    let own = [rendezvous(1, WINDOW)];
    server.publish(item(&own[0], 1000), Encoding::Item).await.unwrap();
    // A quarter of the honest nodes keeps the old item; the others get the new one.
    network.freeze(5);
    server.publish(item(&own[0], 2000), Encoding::Item).await.unwrap();

    let signing = SigningKey::from_bytes(own[0].item_seed());
    let old = item(&own[0], 1000);
    let replayed = MutableItem::new(signing.clone(), &old.value, old.seq, None);
    let key = *replayed.key();
    let newer = item(&own[0], 9000);
    let forged = MutableItem::new_signed_unchecked(key, [3; 64], &newer.value, newer.seq, None);
    // Signed with the right key, as only server and client can, but not sealed.
    let foreign = MutableItem::new(signing.clone(), &item(&rendezvous(2, WINDOW), 9000).value, 9000, None);
    let oversized = MutableItem::new(signing, &[1; 990], 9000, None);
    let sybils = [replayed, forged, foreign, oversized].map(|item| Sybil::start(item).unwrap());

    let mut bootstrap: Vec<_> = sybils.iter().map(Sybil::address).collect();
    bootstrap.extend(network.bootstrap());
    let client = store(bootstrap);
    let fetcher = fetcher(&client, Encoding::Item);
    for _ in 0..10 {
        assert_eq!(fetcher.fetch(&own).await.unwrap().introduction, introduction(2000));
    }
    let counters = fetcher.counters();
    println!("{counters:?}");
    assert_eq!((counters.fetched, counters.late, counters.unusable), (10, 0, 0));
    assert!(sybils.iter().all(|sybil| sybil.told() > 0), "{sybils:?}");
    // Every lie that was told in time is counted, once.
    for (count, sybil) in [(counters.invalid, 1), (counters.foreign, 2), (counters.wrong_length, 3)] {
        assert!((1..=sybils[sybil].told()).contains(&count), "{counters:?} {:?}", sybils[sybil]);
    }
    assert!(counters.stale > 0, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_invisible() {
    let network = PrivateDht::on_loopback(NODES).unwrap();
    let client = store(network.bootstrap());
    fetcher(&client, Encoding::Item).fetch(&[rendezvous(1, WINDOW)]).await.unwrap_err();
    let port = client.port().await.unwrap();
    assert_ne!(port, 6881, "the port that everybody knows BitTorrent by");
    let suffix = format!(":{port}");
    let known = network.known().unwrap();
    assert_eq!(known.len(), usize::from(NODES));
    assert!(!known.iter().any(|address| address.ends_with(&suffix)), "{port}: {known:?}");

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aaaa1:y1:qe";
    let node: std::net::SocketAddr = network.bootstrap()[0].parse().unwrap();
    let mut answer = [0; 512];
    socket.send_to(ping, node).unwrap();
    assert!(socket.recv_from(&mut answer).is_ok(), "a node answers pings");
    socket.send_to(ping, (Ipv4Addr::LOCALHOST, port)).unwrap();
    assert!(socket.recv_from(&mut answer).is_err(), "a client does not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_published_for() {
    const CLIENTS: u8 = 200;
    let network = PrivateDht::on_loopback(NODES).unwrap();
    let publisher = Publisher::new(Arc::new(store(network.bootstrap())), PublishOptions::default());
    let job = |client: u8| {
        let item = item(&rendezvous(client, WINDOW), 1000);
        Job { client: pair(client).1.public(), window: WINDOW, item }
    };
    let start = Instant::now();
    let set = publisher.replace((0..CLIENTS).map(job).collect(), Duration::ZERO);
    let mut progress = publisher.watch();
    let done = progress.wait_for(|progress| progress.set == set && progress.finished_ms.is_some());
    let progress = tokio::time::timeout(Duration::from_mins(2), done).await.unwrap().unwrap().clone();
    println!("{progress:?} in {:?}", start.elapsed());
    assert_eq!((progress.total, progress.done), (usize::from(CLIENTS), usize::from(CLIENTS)));
    let fetcher = fetcher(&store(network.bootstrap()), Encoding::Item);
    for client in [0, 99, CLIENTS - 1] {
        fetcher.fetch(&[rendezvous(client, WINDOW)]).await.unwrap();
    }
    assert_eq!(
        fetcher.counters(),
        Counters { fetched: 3, copies: fetcher.counters().copies, ..Counters::default() }
    );
}
