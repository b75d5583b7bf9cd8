//! What a handshake and a session's controllers say to each other.

use mtd::proto::messages::{Control, MAX_TEXT, Reason, Reply, Request, Response, Text, Tunnel};
use mtd_common::address::{End, is_prefix_length};
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
    if let Control::Term { reason, text } = message {
        // What must not be shown is replaced.
        let encoded = message.encode();
        assert_eq!((encoded.len(), Control::decode(&encoded)), (data.len(), Some(message)));
        assert!(!matches!(reason, Reason::Other(1..=6)));
        require_harmless(text);
        return true;
    }
    assert_eq!(message.encode(), data, "a second form of the same message");
    match message {
        Control::Request(body) | Control::Response(body) => assert_eq!(body, &data[4..]),
        Control::Term { .. }
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

/// The payload of a first handshake message: of one size, and the same again without what this version skips.
pub fn request(data: &[u8]) -> bool {
    let Some(request) = Request::decode(data) else { return false };
    let encoded = request.encode();
    assert_eq!(encoded.len(), data.len());
    assert_eq!(Request::decode(&encoded), Some(Request { unknown: None, ..request }));
    require_end(&request.end);
    true
}

/// The payload of a second handshake message, likewise: terms that a session can be kept by, or a refusal.
pub fn response(data: &[u8]) -> bool {
    let Some(reply) = Reply::decode(data) else { return false };
    let encoded = reply.encode();
    assert_eq!(encoded.len(), data.len());
    let known = match reply {
        Reply::Session(response) => Reply::Session(Response { unknown: None, ..response }),
        denied @ Reply::Denied(_) => denied,
    };
    assert_eq!(Reply::decode(&encoded), Some(known));
    match reply {
        Reply::Session(response) => require_terms(&response),
        Reply::Denied(denial) => require_harmless(denial.text),
    }
    true
}

fn require_terms(response: &Response) {
    require_end(&response.end);
    assert!(matches!(response.mode, 1 | 2) && (1000..=3_600_000).contains(&response.period_ms));
    assert!(response.rekey_after > 0 && response.rekey_after < response.expire_after);
    assert!(response.inner_mtu >= 1280 && response.client != Tunnel::default());
    for tunnel in [response.client, response.server] {
        assert!(tunnel.iter().all(|address| !address.is_multicast() && !address.is_loopback()));
        assert!(tunnel.iter().all(|address| !address.is_unspecified()));
        assert_eq!(Tunnel::from_map(tunnel.to_map()), tunnel);
    }
}

/// It is one line, and can be shown.
fn require_harmless(text: Text) {
    assert!(text.as_str().len() <= MAX_TEXT && !text.as_str().chars().any(char::is_control));
    assert_eq!(Text::new(text.as_str()), text);
}

/// Addresses can be derived for it.
fn require_end(end: &End) {
    assert!(is_prefix_length(end.network.length));
    let host = u128::from_be_bytes(end.network.prefix).checked_shl(end.network.length.into());
    assert_eq!(host.unwrap_or(0), 0);
    assert_ne!(end.network.prefix, [0; 16]);
}
