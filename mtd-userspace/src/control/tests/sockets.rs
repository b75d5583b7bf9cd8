//! Control sockets: binding and finding them, and errors when something else answers.

use super::*;

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = bind(&path).unwrap();
    assert_eq!(first.path(), path);

    let error = bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::AlreadyRunning { .. }), "{error}");
    assert!(error.to_string().starts_with("another controller is running and answers at "), "{error}");
    assert!(path.exists(), "the refused one removed the socket");

    // A listener whose socket was replaced does not remove its successor's socket.
    fs::remove_file(&path).unwrap();
    let second = bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn a_live_socket_with_a_full_queue_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    let listener = bind(&path).unwrap();
    let waiting: Vec<_> = (0..=64).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(matches!(bind(&path), Err(ControlError::AlreadyRunning { .. })));
    drop((waiting, listener));
}

#[test]
fn what_is_no_control_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (file, datagram) = (folder.path().join("file.sock"), folder.path().join("datagram.sock"));
    File::create(&file).unwrap();
    let _open = UnixDatagram::bind(&datagram).unwrap();
    for path in [&file, &datagram] {
        assert!(matches!(bind(path), Err(ControlError::NotASocket { .. })), "{}", path.display());
        assert!(path.exists());
    }
    let long = folder.path().join("a".repeat(120));
    assert!(matches!(bind(&long), Err(ControlError::PathTooLong { .. })));
    let nowhere = folder.path().join("a/b/eth0.sock");
    assert!(matches!(bind(&nowhere), Err(ControlError::Io { .. })));
}

#[tokio::test]
async fn a_missing_controller_is_told_from_a_missing_permission() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    for _ in 0..2 {
        let error = client::status(&path).await.unwrap_err();
        assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
        // In the second round the socket exists, and nobody serves it.
        drop(std::os::unix::net::UnixListener::bind(&path));
    }
    // Root may connect to everything, so the system's error has to be made by hand.
    let socket = Path::new(RUN_DIR).join("eth0@17.sock");
    let error = |errno: i32| unconnected(&socket, io::Error::from_raw_os_error(errno)).to_string();
    // Root is not told to become root.
    let denied = error(libc::EACCES);
    assert!(denied.starts_with("no permission for /run/mtd/eth0@17.sock; "), "{denied}");
    assert_eq!(denied.contains("run as root (sudo)"), !nix::unistd::geteuid().is_root(), "{denied}");
    assert_eq!(
        error(libc::ECONNREFUSED),
        "no controller is running for eth0; start one with `mtd run -c FILE`"
    );
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let cases = [
        (ok("{\"schema\":2,\"pid\":[]}"), "schema 2 instead of 1"),
        (ok("<html>"), "is not a controller's"),
        (ok("{\"schema\":1}"), "missing field"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_owned(), "broke"),
        ("SSH-2.0-OpenSSH_9.6\r\n".to_owned(), "broke"),
        (String::new(), "broke"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned(), "refused: 500"),
    ];
    for (number, (answer, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        answer_with(&path, answer.clone());
        let error = client::status(&path).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_controller_that_hangs_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    let _silent = bind(&path).unwrap();
    let (status, drops) = tokio::join!(client::status(&path), client::drops(&path));
    for error in [status.unwrap_err(), drops.unwrap_err()] {
        assert!(matches!(error, ControlError::Timeout { .. }), "{error}");
    }
}

#[test]
fn sockets_of_other_namespaces_are_left_out() {
    assert_eq!(own_interface("eth0", None).as_deref(), Some("eth0"));
    assert_eq!(own_interface("eth0@17", None), None);
    assert_eq!(own_interface("eth0@17", Some(17)).as_deref(), Some("eth0"));
    assert_eq!(own_interface("eth0@18", Some(17)), None);
    assert_eq!(own_interface("eth0", Some(17)), None);
    assert_eq!(own_interface("", None), None);
    assert_eq!(own_interface("eth0@x", None), None);

    let folder = tempfile::tempdir().unwrap();
    let own = |interface| Instance::of(interface).unwrap().name().to_owned();
    let stranger = format!("eth2@{}", u64::MAX);
    for name in [own("eth1") + ".sock", own("eth0") + ".sock", own("eth3") + ".lock", stranger + ".sock"] {
        File::create(folder.path().join(name)).unwrap();
    }
    let found = find_sockets(folder.path(), None).unwrap();
    let expected = ["eth0", "eth1"].map(|name| ControlSocket {
        interface: name.to_owned(),
        path: folder.path().join(own(name) + ".sock"),
    });
    assert_eq!(found, expected);

    let wanted = find_sockets(Path::new(RUN_DIR), Some("eth9")).unwrap();
    assert_eq!(wanted[0].path, Instance::of("eth9").unwrap().socket());
    assert!(find_sockets(&folder.path().join("missing"), None).unwrap().is_empty());
}
