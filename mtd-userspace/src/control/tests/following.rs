//! Streams of events.

use super::*;

#[tokio::test]
async fn events_come_in_order_until_the_shutdown() {
    let running = Running::start();
    let mut lines = client::drops(&running.socket()).await.unwrap();
    for number in 0..5 {
        running.send(number);
    }
    for number in 0..5 {
        assert_eq!(next(&mut lines).await, Some(DropLine::Drop(event(number))));
    }
    // A cancelled wait loses nothing.
    assert!(timeout(Duration::from_millis(20), lines.next_line()).await.is_err());
    running.send(5);
    assert_eq!(next(&mut lines).await, Some(DropLine::Drop(event(5))));

    let begin = Instant::now();
    running.stop.send(()).unwrap();
    assert_eq!(next(&mut lines).await, None);
    running.server.await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(900), "the shutdown waited for a follower");
}

#[tokio::test]
async fn a_slow_reader_loses_events_and_is_told_how_many() {
    const SENT: u64 = 20_000;
    let running = Running::start();
    let mut slow = client::drops(&running.socket()).await.unwrap();
    let begin = Instant::now();
    for number in 0..SENT {
        running.send(number);
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "the sender waited for the reader");
    // Other clients are served meanwhile.
    client::status(&running.socket()).await.unwrap();

    let (mut received, mut lost, mut newest) = (0, 0, None);
    while newest != Some(SENT - 1) {
        match next(&mut slow).await.expect("the stream ended") {
            DropLine::Drop(drop) => {
                assert!(Some(drop.time_ns) > newest, "out of order");
                (received, newest) = (received + 1, Some(drop.time_ns));
            }
            DropLine::Lost { lost: more } => lost += more,
        }
    }
    assert!(lost > 0, "the reader was not slow");
    assert_eq!(received + lost, SENT);
}

#[tokio::test]
async fn followers_are_limited_and_leave_room_for_the_status() {
    let running = Running::start();
    let mut followers = Vec::new();
    let error = loop {
        assert!(followers.len() < 64, "no limit");
        match client::drops(&running.socket()).await {
            Ok(lines) => followers.push(lines),
            Err(error) => break error,
        }
    };
    assert_eq!(followers.len(), 32);
    assert!(error.to_string().contains("32 clients follow the drop events already"), "{error}");
    client::status(&running.socket()).await.unwrap();

    // A follower that went away makes room, even if no event has shown the server that it is gone.
    followers.pop();
    let begin = Instant::now();
    while client::drops(&running.socket()).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(5), "the place was not freed");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn broken_streams_of_events_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (format!("{head}2\r\n{{}}\r\n0\r\n\r\n"), "half a line"),
        (format!("{head}20000\r\n{}\r\n", "a".repeat(0x20000)), "endless line"),
        (format!("{head}20\r\nab"), "broke"),
    ];
    for (number, (answer, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        answer_with(&path, answer);
        let error = client::drops(&path).await.unwrap().next_line().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn events_are_kept_for_those_who_come_later_and_followed_as_they_come() {
    let running = Running::start();
    running.send(1);
    let mut kept = client::events(&running.socket(), false).await.unwrap();
    let mut followed = client::events(&running.socket(), true).await.unwrap();
    let line: status::EventDocument =
        serde_json::from_str(&kept.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((line.number, line.kind.as_str(), line.drop), (1, "drop", Some(event(1))));
    assert_eq!(kept.next_line().await.unwrap(), None, "it ends with what there is");
    let key = open_client().public();
    let closed = Event::Session(
        crate::events::Peer { name: None, key: Some(key) },
        crate::events::SessionChange::Closed,
    );
    running.bus.publish_at(2, closed);
    let line: serde_json::Value =
        serde_json::from_str(&followed.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(line["session"]["change"], "closed");
    assert_eq!(line["session"]["public_key"], key.to_string());
    assert_eq!(running.get("/v1/events?follow=perhaps").await.0, "HTTP/1.1 400 Bad Request");
}
