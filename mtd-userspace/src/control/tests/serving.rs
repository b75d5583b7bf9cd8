//! Requests and their answers.

use super::*;

#[tokio::test]
async fn the_status_arrives_as_it_was_sent() {
    let running = Running::start();
    let status = client::status(&running.socket()).await.unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), serde_json::to_value(sample()).unwrap());
    let (code, body) = running.get(STATUS_PATH).await;
    assert_eq!(code, "HTTP/1.1 200 OK");
    assert_eq!(body["interface"], "eth0");
}

#[tokio::test]
async fn only_the_owner_may_connect_and_nothing_is_left_behind() {
    let running = Running::start();
    let (socket, folder) = (running.socket(), running.folder.path().join("run"));
    assert_eq!((mode(&socket), mode(&folder)), (0o600, 0o755));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the socket");
    running.stop.send(()).unwrap();
    running.server.await.unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test]
async fn errors_are_json_and_reach_the_client() {
    let running = Running::start();
    let (code, body) = running.get("/v2/nothing").await;
    assert_eq!(
        (code.as_str(), body),
        ("HTTP/1.1 404 Not Found", serde_json::json!({"error": "no such path"}))
    );

    let answer = running.raw(b"POST /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("{\"error\":"), "{answer}");

    running.reports.failing.store(true, Ordering::Relaxed);
    let error = client::status(&running.socket()).await.unwrap_err();
    assert!(matches!(&error, ControlError::Refused { message, .. }
        if message == "cannot read the counters: no such map"));
    assert_eq!(running.get(STATUS_PATH).await.0, "HTTP/1.1 500 Internal Server Error");
}

#[tokio::test]
async fn what_is_enforced_is_confirmed_and_changed() {
    let running = Running::start();
    let socket = running.socket();
    let error = client::confirm(&socket).await.unwrap_err();
    assert!(matches!(&error, ControlError::Refused { message, .. } if message == "too late"), "{error}");
    let policy = |policy: &str| NewPolicy { policy: policy.to_owned(), confirm_within_ms: Some(1500) };
    let guard = client::set_policy(&socket, &policy("monitor")).await.unwrap();
    assert_eq!((guard.policy.as_str(), guard.confirm_seconds_left), ("monitor", Some(1.5)));
    let error = client::set_policy(&socket, &policy("open")).await.unwrap_err().to_string();
    assert!(error.contains("no policy is called"), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn clients_are_registered_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_clients(dir.path());
    let socket = running.socket();
    let public_key = SecretKey::generate().unwrap().public().to_string();
    let peer = NewPeer { name: "laptop".to_owned(), public_key: public_key.clone() };
    let added = client::add_peer(&socket, &peer).await.unwrap();
    assert_eq!((added.name.as_str(), &added.public_key), ("laptop", &public_key));
    let file = dir.path().join("laptop.pub");
    assert_eq!(added.file.as_ref(), Some(&file));
    let registered = client::peers(&socket).await.unwrap();
    assert_eq!((registered.schema, registered.peers), (SCHEMA, vec![added.clone()]));

    let refused = |result: Result<status::Client, ControlError>, part: &str| match result {
        Err(ControlError::Refused { message, .. }) => assert!(message.contains(part), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(client::add_peer(&socket, &peer).await, "laptop is registered already");
    let nameless = NewPeer { name: "a/b".to_owned(), ..peer.clone() };
    refused(client::add_peer(&socket, &nameless).await, "no name for a peer");
    let keyless = NewPeer { public_key: "topsecret".to_owned(), ..peer.clone() };
    refused(client::add_peer(&socket, &keyless).await, "that is no public key");
    let long = Farewell { tell: Some("x".repeat(129)) };
    refused(client::remove_peer(&socket, "desk", &long).await, "128 bytes at most, and this has 129");
    let farewell = Farewell { tell: Some("x".repeat(128)) };
    refused(client::remove_peer(&socket, "desk", &farewell).await, "no client desk");

    fs::rename(&file, dir.path().join("desk.pub")).unwrap();
    let reload = client::reload(&socket).await.unwrap();
    assert_eq!((reload.changed, reload.added.len(), reload.removed.len()), (vec!["desk".to_owned()], 0, 0));
    assert_eq!(client::remove_peer(&socket, "desk", &farewell).await.unwrap().public_key, public_key);
    assert!(client::peers(&socket).await.unwrap().peers.is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_controller_that_is_no_server_says_so() {
    let running = Running::start();
    for result in [
        client::peers(&running.socket()).await.map(|_| ()),
        client::remove_peer(&running.socket(), "laptop", &Farewell::default()).await.map(|_| ()),
        client::reload(&running.socket()).await.map(|_| ()),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(
            error.ends_with(
                "refused: this host does not listen for clients: its configuration has no [listen]"
            ),
            "{error}"
        );
    }
    assert_eq!(running.get(PEERS_PATH).await.0, "HTTP/1.1 409 Conflict");
}

#[tokio::test]
async fn requests_with_bad_bodies_and_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_clients(dir.path());
    let send = async |head: &str, body: &str| {
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = running.raw(request.as_bytes(), false).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body["error"].as_str().unwrap().to_owned())
    };
    let key = SecretKey::generate().unwrap().public();
    let long = format!("{{\"name\":\"a\",\"public_key\":\"{}\"}}", "A".repeat(5000));
    let extra = format!("{{\"name\":\"a\",\"public_key\":\"{key}\",\"admin\":true}}");
    for (head, body, code, part) in [
        ("POST /v1/peers", "", "400", "is not a new peer"),
        ("POST /v1/peers", "[]", "400", "is not a new peer"),
        ("POST /v1/peers", &extra, "400", "unknown field `admin`"),
        ("POST /v1/peers", &long, "400", "is longer than 4096 bytes"),
        ("PUT /v1/peers", "", "405", "no such method"),
        ("GET /v1/reload", "", "405", "no such method"),
        ("DELETE /v1/peers/..%2Fx", "", "400", "no name for a peer"),
        ("DELETE /v1/peers/x", "", "404", "no client x"),
        ("DELETE /v1/peers/", "", "404", "no such path"),
    ] {
        let (found, message) = send(head, body).await;
        assert_eq!(found, code, "{head} {body}: {message}");
        assert!(message.contains(part), "{head} {body}: {message}");
    }
    // A body that never comes delays nothing for long.
    let begin = Instant::now();
    let answer =
        running.raw(b"POST /v1/peers HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{", false).await;
    assert!(answer.contains("did not come in time"), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn garbage_and_silence_do_not_harm_the_server() {
    let running = Running::start();
    let answer = running.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let endless_path = [b"GET /".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let answer = running.raw(&endless_path, false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let endless_header = [b"GET /v1/status HTTP/1.1\r\nx: ".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let answer = running.raw(&endless_header, false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let body = [
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n".as_slice(),
        &vec![0; 1 << 20],
    ];
    running.raw(&body.concat(), false).await;
    assert_eq!(running.raw(b"", true).await, "");
    assert_eq!(running.raw(b"GET /v1/sta", true).await, "");

    // As many connections as are served at a time, none of which ever sends a request: the server closes them.
    let silent: Vec<_> = (0..64).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    client::status(&running.socket()).await.unwrap();
    drop(silent);
}

/// What `mtd peers list` promises: the state of each client's session.
#[tokio::test]
async fn registered_clients_are_told_with_their_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_clients(dir.path());
    for (name, key) in [("laptop", open_client()), ("desk", SecretKey::generate().unwrap())] {
        let peer = NewPeer { name: name.to_owned(), public_key: key.public().to_string() };
        client::add_peer(&running.socket(), &peer).await.unwrap();
    }
    let peers = client::peers(&running.socket()).await.unwrap().peers;
    let sessions: Vec<_> = peers.iter().map(|peer| (peer.name.as_str(), peer.session)).collect();
    assert_eq!(sessions, [("desk", None), ("laptop", Some(SessionState::Open))]);
    running.stop().await;
}
