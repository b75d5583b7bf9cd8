//! Messages as bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use mtd_common::address::{End, Network};
use mtd_common::control_record::{MAX_CONTROL, PROBE_HEAD};
use proptest::prelude::*;

use super::options::{CRITICAL, put};
use super::*;
use crate::proto::noise::{REQUEST_OVERHEAD, RESPONSE_OVERHEAD};

fn end() -> End {
    let prefix = "2001:db8:1:2::".parse::<Ipv6Addr>().unwrap().octets();
    End { network: Network { prefix, length: 64 }, seed: [7; 8] }
}

fn response() -> Response {
    Response {
        mode: 1,
        end: end(),
        period_ms: 3000,
        rekey_after: 120,
        expire_after: 180,
        inner_mtu: 1428,
        time: 1_800_000_000_000_000_000,
        client: Tunnel { v6: Some("fd00::2".parse().unwrap()), v4: Some(Ipv4Addr::new(10, 0, 0, 2)) },
        server: Tunnel { v6: Some("fd00::1".parse().unwrap()), v4: None },
        capabilities: Some(Capabilities::OWN),
        unknown: None,
    }
}

fn request() -> Request {
    Request {
        end: end(),
        tunnel: [3; 16],
        period_ms: 0,
        capabilities: Some(Capabilities(1 << 40)),
        instance: Some([4; 16]),
        token: None,
        unknown: None,
    }
}

/// A payload with one more option in the room behind those that it has.
fn with_option(mut payload: Vec<u8>, kind: u16, value: &[u8]) -> Vec<u8> {
    let size = payload.len();
    let used = payload.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    payload.truncate(used);
    put(&mut payload, kind, value);
    payload.resize(size, 0);
    payload
}

#[test]
fn messages_round_trip() {
    for message in [
        Control::Request(b"abc"),
        Control::Response(b""),
        Control::Term { reason: Reason::Idle, text: Text::NONE },
        Control::Term { reason: Reason::Other(77), text: Text::new("see you – tomorrow") },
        Control::Term { reason: Reason::InUse, text: Text::new(&"x".repeat(MAX_TEXT)) },
        Control::Ping { stamp: 5 },
        Control::Pong { stamp: 5, time: u64::MAX },
        Control::Translated,
        Control::Opener { where_heard: true, heard: false },
        Control::Opener { where_heard: false, heard: true },
        Control::ProbeRequest { stamp: 6 },
        Control::Probe { stamp: 7 },
        Control::PathProbe { id: 6 },
        Control::PathProbeAnswer { id: u64::MAX },
    ] {
        assert_eq!(Control::decode(&message.encode()), Some(message));
    }
    let long = Control::path_probe(7, 1388);
    assert_eq!((long.len(), Control::decode(&long)), (1388, Some(Control::PathProbe { id: 7 })));
    assert_eq!(
        Control::decode(&long[..PROBE_HEAD]),
        Some(Control::PathProbe { id: 7 }),
        "its head is enough"
    );
    for period_ms in [0, 1_000, 30_000, 3_600_000] {
        let request = Request { period_ms, token: Some([9; 16]), ..request() };
        assert_eq!(Request::decode(&request.encode()), Some(request));
    }
    let bare = Request { capabilities: None, instance: None, ..request() };
    assert_eq!(Request::decode(&bare.encode()), Some(bare));
    let denial = Denial { reason: Reason::InUse, token: [5; 16], text: Text::new("another host") };
    for reply in [Reply::Session(response()), Reply::Denied(denial)] {
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }
    let tunnel = response().client;
    assert_eq!(Tunnel::from_map(tunnel.to_map()), tunnel);
    assert_eq!(Tunnel::from_map(Tunnel::default().to_map()), Tunnel::default());
}

#[test]
fn what_is_not_sound_is_refused() {
    for bad in [
        Response { period_ms: 999, ..response() },
        Response { rekey_after: 0, ..response() },
        Response { rekey_after: 180, ..response() },
        Response { rekey_after: u32::MAX, expire_after: u32::MAX, ..response() },
        Response { mode: 3, ..response() },
        Response { inner_mtu: 1279, ..response() },
        Response { client: Tunnel::default(), ..response() },
        Response { end: End { network: Network { length: 63, ..end().network }, ..end() }, ..response() },
        Response { client: Tunnel { v4: Some(Ipv4Addr::BROADCAST), v6: None }, ..response() },
    ] {
        assert_eq!(Reply::decode(&Reply::Session(bad).encode()), None, "{bad:?}");
    }
    let mut host_bits = end();
    host_bits.network.prefix[15] = 1;
    for (end, period_ms) in [(host_bits, 0), (end(), 999), (end(), 3_600_001)] {
        assert_eq!(Request::decode(&Request { end, period_ms, ..request() }.encode()), None);
    }
    assert_eq!(Control::decode(&[9, 1, 0, 0]), None);
    let opener = Control::decode(&[5, 1, 0, 0, 0xff, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        opener,
        Some(Control::Opener { where_heard: true, heard: true }),
        "with what a later version may add"
    );
    assert_eq!(Control::decode(&[5, 1, 0, 0, 1, 0, 0, 0]), None);
    assert_eq!(Control::decode(&[3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    // A message that ends a session, as the version before had it.
    assert_eq!(Control::decode(&[2, 1, 0, 0, 1, 0, 0, 0]), None);
    let term = Control::Term { reason: Reason::Stopping, text: Text::new("ab") }.encode();
    for (at, byte) in [(5, 129), (6, 1), (8, 0xff), (10, 1), (135, 1)] {
        let mut bad = term.clone();
        bad[at] = byte;
        assert_eq!(Control::decode(&bad), None, "{at}");
    }
    assert_eq!(Control::decode(&term[..135]), None);
}

#[test]
fn all_requests_have_one_size_and_all_answers_too() {
    let denial = Denial { reason: Reason::UnknownOption, token: [5; 16], text: Text::NONE };
    for request in [request(), Request { token: Some([1; 16]), instance: None, ..request() }] {
        let message = vec![0; REQUEST_OVERHEAD + request.encode().len()];
        assert_eq!(Control::Request(&message).encode().len(), MAX_CONTROL);
    }
    for reply in [Reply::Session(response()), Reply::Denied(denial)] {
        let message = vec![0; RESPONSE_OVERHEAD + reply.encode().len()];
        assert_eq!(Control::Response(&message).encode().len(), MAX_CONTROL);
    }
    let longest = Control::Term { reason: Reason::Removed, text: Text::new(&"y".repeat(500)) }.encode();
    let shortest = Control::Term { reason: Reason::Idle, text: Text::NONE }.encode();
    assert_eq!((longest.len(), shortest.len()), (136, 136));
    assert_eq!(Request::decode(&request().encode()[..REQUEST_BYTES - 1]), None);
    assert_eq!(Reply::decode(&[Reply::Denied(denial).encode(), vec![0]].concat()), None);
}

#[test]
fn an_option_of_a_later_version_is_skipped_or_found_to_be_missing() {
    let later = with_option(request().encode(), 99, b"whatever");
    assert_eq!(Request::decode(&later), Some(request()));
    let must = with_option(request().encode(), CRITICAL + 99, b"whatever");
    assert_eq!(Request::decode(&must), Some(Request { unknown: Some(99), ..request() }));
    let reply = Reply::Session(response()).encode();
    assert_eq!(Reply::decode(&with_option(reply.clone(), 5, &[1; 64])), Some(Reply::Session(response())));
    let must = with_option(reply.clone(), CRITICAL + 5, &[1; 64]);
    assert_eq!(Reply::decode(&must), Some(Reply::Session(Response { unknown: Some(5), ..response() })));
    // Terms and a refusal exclude each other.
    assert_eq!(Reply::decode(&with_option(reply, 4, &[1; 18])), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), at in 0_usize..716) {
        let _ = Control::decode(&bytes);
        let _ = request_of_any_version(&bytes);
        // Behind the fixed parts, which are hardly ever sound by chance.
        let mut payload = request().encode();
        let at = at.max(44).min(payload.len() - bytes.len());
        payload[at..at + bytes.len()].copy_from_slice(&bytes);
        if let Some(request) = Request::decode(&payload) {
            prop_assert_eq!(Request::decode(&request.encode()).map(|r| r.token), Some(request.token));
        }
        let mut payload = Reply::Session(response()).encode();
        let at = at.max(92).min(payload.len() - bytes.len());
        payload[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = Reply::decode(&payload);
    }
}
