//! What a handshake and a session's controllers say to each other.

use mtd::proto::messages::{Control, Reason, Request, Response, Tunnel};
use mtd_common::address::End;
use mtd_common::control_record::PROBE_HEAD;

/// A control message: one form for each.
pub fn control_message(data: &[u8]) -> bool {
    let Some(message) = Control::decode(data) else { return false };
    if let Control::PathProbe { id } = message {
        // Whatever follows its head is padding.
        assert_eq!(Control::path_probe(id, 0), data[..PROBE_HEAD]);
        return true;
    }
    if let Control::Opener { .. } = message {
        // Later versions may say more in it.
        let encoded = message.encode();
        assert_eq!((encoded.len(), Control::decode(&encoded)), (data.len(), Some(message)));
        return true;
    }
    assert_eq!(message.encode(), data, "a second form of the same message");
    match message {
        Control::Request(body) | Control::Response(body) => assert_eq!(body, &data[4..]),
        Control::Teardown(Reason::Other(number)) => assert!(!(1..=4).contains(&number)),
        Control::Teardown(_)
        | Control::Ping { .. }
        | Control::Pong { .. }
        | Control::Opener { .. }
        | Control::ProbeRequest { .. }
        | Control::Probe { .. }
        | Control::Translated
        | Control::PathProbe { .. }
        | Control::PathProbeAnswer { .. } => {}
    }
    true
}

/// The payload of a first handshake message: one form for each.
pub fn request(data: &[u8]) -> bool {
    let Some(request) = Request::decode(data) else { return false };
    assert_eq!(request.encode(), data, "a second form of the same request");
    require_end(&request.end);
    true
}

/// The payload of a second handshake message: one form for each, and terms that a session can be kept by.
pub fn response(data: &[u8]) -> bool {
    let Some(response) = Response::decode(data) else { return false };
    assert_eq!(response.encode(), data, "a second form of the same response");
    require_end(&response.end);
    assert!(matches!(response.mode, 1 | 2) && (1000..=3_600_000).contains(&response.period_ms));
    assert!(response.rekey_after > 0 && response.rekey_after < response.expire_after);
    assert!(response.inner_mtu >= 1280 && response.client != Tunnel::default());
    for tunnel in [response.client, response.server] {
        assert!(tunnel.iter().all(|address| !address.is_multicast() && !address.is_loopback()));
        assert!(tunnel.iter().all(|address| !address.is_unspecified()));
        assert_eq!(Tunnel::from_map(tunnel.to_map()), tunnel);
    }
    true
}

/// Addresses can be derived for it.
fn require_end(end: &End) {
    assert!((64..=112).contains(&end.network.length));
    assert_eq!(u128::from_be_bytes(end.network.prefix) << end.network.length, 0);
    assert_ne!(end.network.prefix, [0; 16]);
}
