use mtd_common::DropReason;
use mtd_common::event::DropEvent;
use tokio::time::timeout;

use super::*;
use crate::events::{Configuration, Dropped, Peer, SessionChange};

fn bus(room: usize) -> Bus {
    Bus::with_backlog(|| 7, Room { drops: room, rest: room })
}

fn dropped() -> Event {
    Event::Drop(Dropped { packet: DropEvent::default(), reason: DropReason::BadTag })
}

fn opened() -> Event {
    Event::Session(Peer::named("laptop"), SessionChange::Opened)
}

/// The numbers of what comes without a wait; a loss is told by its negative count.
async fn drain(subscriber: &mut Subscriber) -> Vec<i64> {
    let mut got = Vec::new();
    while let Ok(received) = timeout(std::time::Duration::ZERO, subscriber.next()).await {
        got.push(match received {
            Received::Event(record) => record.number.cast_signed(),
            Received::Lost(count) => -count.cast_signed(),
        });
    }
    got
}

#[tokio::test]
async fn events_come_in_order_to_those_who_were_there() {
    let bus = bus(8);
    bus.publish(dropped());
    let (mut first, mut drops) = (bus.subscribe(None), bus.subscribe(Some(Kind::Drop)));
    bus.publish(opened());
    bus.publish(dropped());
    assert_eq!(drain(&mut first).await, [2, 3]);
    assert_eq!(drain(&mut drops).await, [3]);
    let Received::Event(record) = ({
        bus.publish_at(99, opened());
        first.next().await
    }) else {
        panic!("lost");
    };
    assert_eq!((record.time_ns, record.event.kind()), (99, Kind::Session));
    assert_eq!(bus.history().iter().map(|record| record.time_ns).collect::<Vec<_>>(), [7, 7, 7, 99]);
}

#[tokio::test]
async fn each_subscriber_counts_its_own_losses_and_a_flood_of_drops_displaces_nothing_else() {
    let bus = bus(4);
    let (mut slow, mut quick) = (bus.subscribe(None), bus.subscribe(None));
    bus.publish(opened());
    for _ in 0..10 {
        bus.publish(dropped());
        assert_ne!(drain(&mut quick).await.last(), None);
    }
    assert_eq!(drain(&mut slow).await, [-6, 1, 8, 9, 10, 11]);
    assert_eq!(bus.lost(), 6, "the quick one has lost nothing");
    for _ in 0..1000 {
        bus.publish(dropped());
    }
    let kept = bus.history();
    assert_eq!(kept.first().map(|record| record.number), Some(1), "the session's event is still there");
    assert_eq!(kept.len(), 1 + HISTORY.drops);
    for _ in 0..1000 {
        bus.publish(Event::Configuration(Configuration { not_in_force: Vec::new() }));
    }
    assert_eq!(bus.history().len(), HISTORY.rest + HISTORY.drops);
}

#[tokio::test]
async fn a_waiting_subscriber_is_woken_and_one_that_is_gone_is_forgotten() {
    let bus = Arc::new(bus(4));
    let mut subscriber = bus.subscribe(None);
    let waiter = tokio::spawn(async move { matches!(subscriber.next().await, Received::Event(_)) });
    tokio::task::yield_now().await;
    bus.publish(opened());
    assert!(waiter.await.unwrap());
    bus.publish(opened());
    assert_eq!(bus.subscribers(), 0);
    assert_eq!(bus.published(), 2);
}
