//! What happens to the node. (What it does in a network is tested in mtd-tests.)

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A store whose bootstrap node is the discard port.
fn store(serve: bool) -> MainlineStore {
    MainlineStore::new(DhtConfig {
        bootstrap: vec!["127.0.0.1:9".to_owned()],
        bind: Some(Ipv4Addr::LOCALHOST),
        request_timeout: Duration::from_millis(100),
        serve,
        ..DhtConfig::default()
    })
}

async fn started(store: &MainlineStore) -> u64 {
    store.inner.state.lock().await.started
}

#[tokio::test]
async fn a_node_that_dies_is_replaced_and_the_request_made_again() {
    let store = store(false);
    let attempts = Arc::new(AtomicU32::new(0));
    let request = |_| {
        let attempts = Arc::clone(&attempts);
        async move {
            // As the crate does when its actor is gone.
            assert!(attempts.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
            Ok(7)
        }
    };
    assert_eq!(store.inner.call(request).await, Ok(7));
    assert_eq!(started(&store).await, 2);
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up_and_its_node_with_it() {
    for (serve, nodes) in [(false, 2), (true, 1)] {
        let store = store(serve);
        let hung = store.inner.call(|_| std::future::pending::<Result<(), _>>()).await;
        assert_eq!(hung, Err(StoreError::Stuck));
        store.port().await.unwrap();
        assert_eq!(started(&store).await, nodes, "a serving node keeps what it stores");
    }
}

#[tokio::test]
async fn a_client_never_gets_old_enough_to_become_a_server() {
    for (serve, nodes) in [(false, 2), (true, 1)] {
        let store = store(serve);
        store.port().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(CLIENT_AGE + Duration::from_secs(1)).await;
        tokio::time::resume();
        store.port().await.unwrap();
        assert_eq!(started(&store).await, nodes);
    }
}

#[tokio::test]
async fn an_idle_client_ends() {
    let store = store(false);
    store.port().await.unwrap();
    // The task that waits has to begin before time passes.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(CLIENT_AGE + Duration::from_secs(1)).await;
    tokio::time::resume();
    for _ in 0..500 {
        if store.inner.state.lock().await.node.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node is still there");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config =
        DhtConfig { port: Some(taken.local_addr().unwrap().port()), ..store(false).inner.config.clone() };
    let error = MainlineStore::new(config).port().await.unwrap_err();
    assert!(matches!(&error, StoreError::Socket(why) if why.contains("in use")), "{error:?}");
}

#[tokio::test]
async fn what_is_too_large_is_said_before_anything_is_sent() {
    let store = store(false);
    let key = crate::keys::SecretKey::from_bytes([1; 32]);
    let item = |bytes| Item::raw(crate::proto::rendezvous::Descriptor([0; 20]), &key, vec![0; bytes], 1);
    for (encoding, bytes) in [(Encoding::Item, MAX_VALUE + 1), (Encoding::Ports, 256)] {
        assert_eq!(store.publish(item(bytes), encoding).await, Err(StoreError::TooLarge(bytes)));
    }
    assert_eq!(started(&store).await, 0);
}

#[tokio::test]
async fn many_publications_are_shared_out_among_nodes() {
    let store = store(false);
    let helpers = || store.helpers.lock().unwrap().len();
    let mut turns: Vec<_> = (0..PER_NODE).map(|_| store.turn()).collect();
    assert!(turns.iter().all(|turn| Arc::ptr_eq(&turn.0, &store.inner)) && helpers() == 0);
    turns.extend((0..=PER_NODE).map(|_| store.turn()));
    assert_eq!(helpers(), 2);
    // Places that get free are taken first.
    turns.drain(..2);
    assert!(Arc::ptr_eq(&store.turn().0, &store.inner));
    drop(turns);
    turns = (0..3 * PER_NODE).map(|_| store.turn()).collect();
    assert_eq!((turns.len(), helpers()), (3 * PER_NODE, 2));
    let helper = &turns[PER_NODE].0.config;
    assert!(helper.port.is_none() && !helper.serve && helper.bootstrap == store.inner.config.bootstrap);
}

#[tokio::test]
async fn a_node_that_nobody_answers_is_replaced_by_one_that_resolves_the_names_again() {
    for serve in [false, true] {
        let store = store(serve);
        let lookup = Lookup { descriptor: crate::proto::rendezvous::Descriptor([3; 20]), item_key: [9; 32] };
        for nodes in 1..=2 {
            let mut answers = store.look(lookup, Encoding::Item, 116);
            assert_eq!(answers.next().await, Answer::End(Err(StoreError::Dead)));
            assert_eq!(started(&store).await, nodes, "serving: {serve}");
            assert!(store.inner.state.lock().await.node.is_none());
        }
    }
}
