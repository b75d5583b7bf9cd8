//! `tests/vectors/handshake.json`: introduction packets, handshakes and the sessions that come of them, byte for byte.

use mtd_common::abi::DirectionKeys;
use mtd_common::address::{End, Endpoint, Network};
use serde::Deserialize;

use super::exchange::{Binding, NO_COMMUNITY};
use super::messages::{Capabilities, Control, Denial, Reason, Reply, Request, Response, Text, Tunnel};
use super::noise::{Ephemeral, Identity, Initiator, Responder, Secrets};
use super::packet::{self, Path};
use super::rendezvous::{Introduction, Shared};
use super::session::{Ends, Parts, Role, Session, Terms};
use crate::keys::SecretKey;
use crate::model::SessionNs;

const MILLISECOND: u64 = 1_000_000;

#[derive(Deserialize)]
struct Vector {
    server_private: Hex,
    client_private: Hex,
    introduction: IntroductionVector,
    rekeyed_address_key: Option<Hex>,
    binding: Option<Hex>,
    prologue: Hex,
    psk: Hex,
    ephemeral_private: [Hex; 2],
    request: RequestVector,
    response: ResponseVector,
    denial: DenialVector,
    term: TermVector,
    messages: [Hex; 2],
    sequences: [u64; 2],
    packets: Option<[Hex; 2]>,
    handshake_hash: Hex,
    split: Hex,
    session: SessionVector,
}

#[derive(Deserialize)]
struct IntroductionVector {
    window: u64,
    key: Hex,
    server_prefix: Hex,
    server_prefix_length: u8,
    server_seed: Hex,
    versions: [u8; 2],
    client_prefix: Hex,
    client_prefix_length: u8,
    client_seed: Hex,
    slot_ms: u64,
    slot: u64,
    server: EndpointVector,
    client: EndpointVector,
    seal: [Hex; 2],
    mask: [Hex; 2],
}

#[derive(Deserialize)]
struct RequestVector {
    session_seed: Hex,
    tunnel: Hex,
    capabilities: u64,
    instance: Option<Hex>,
    token: Option<Hex>,
    payload: Hex,
}

#[derive(Deserialize)]
struct ResponseVector {
    session_seed: Hex,
    mode: u8,
    period_ms: u32,
    rekey_after: u32,
    expire_after: u32,
    inner_mtu: u16,
    time: u64,
    client_tunnel: Hex,
    server_tunnel: Hex,
    capabilities: u64,
    payload: Hex,
}

#[derive(Deserialize)]
struct DenialVector {
    reason: u8,
    token: Hex,
    text: String,
    payload: Hex,
}

#[derive(Deserialize)]
struct TermVector {
    reason: u8,
    text: String,
    message: Hex,
}

#[derive(Deserialize)]
struct SessionVector {
    address_key: Hex,
    phase_ns: u64,
    seal: [Hex; 2],
    mask: [Hex; 2],
    slot: u64,
    client: EndpointVector,
    server: EndpointVector,
    sequence: u64,
    data: Hex,
    data_packets: [Hex; 2],
    control_addresses: [Hex; 2],
    ping: Hex,
    ping_packets: [Hex; 2],
}

#[derive(Deserialize)]
struct EndpointVector {
    address: Hex,
    port: u16,
}

impl EndpointVector {
    fn get(&self) -> Endpoint {
        Endpoint { address: self.address.array(), port: self.port }
    }
}

/// Bytes that are written as hexadecimal digits.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl Hex {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0.as_slice().try_into().unwrap()
    }

    fn secret(&self) -> SecretKey {
        SecretKey::from_bytes(self.array())
    }
}

impl Vector {
    fn server_network(&self) -> Network {
        let IntroductionVector { server_prefix, server_prefix_length, .. } = &self.introduction;
        Network { prefix: server_prefix.array(), length: *server_prefix_length }
    }

    fn client_network(&self) -> Network {
        let IntroductionVector { client_prefix, client_prefix_length, .. } = &self.introduction;
        Network { prefix: client_prefix.array(), length: *client_prefix_length }
    }

    fn session_ends(&self) -> (End, End) {
        let client = End { network: self.client_network(), seed: self.request.session_seed.array() };
        let server = End { network: self.server_network(), seed: self.response.session_seed.array() };
        (client, server)
    }

    /// The introduction as client and server have it.
    fn introduction(&self) -> (Session, Session) {
        let given = &self.introduction;
        let introduction = Introduction {
            network: self.server_network(),
            seed: given.server_seed.array(),
            key: given.key.secret(),
            rot: std::time::Duration::from_secs(3),
            slot: std::time::Duration::from_millis(given.slot_ms),
            published_ms: 0,
        };
        let shared =
            Shared::new(&self.client_private.secret(), &self.server_private.secret().public()).unwrap();
        let seed = shared.client_seed(&introduction);
        assert_eq!(seed, given.client_seed.array());
        let remote = End { network: introduction.network, seed: introduction.seed };
        let (key, period) = (given.key.array(), given.slot_ms * MILLISECOND);
        let ends = Ends { local: End { network: self.client_network(), seed }, remote };
        let client = Session::to_introduction(ends, &key, given.window, period);
        (client, Session::introduction(remote, &key, given.window, period))
    }

    fn request(&self) -> Request {
        let given = &self.request;
        Request {
            end: self.session_ends().0,
            tunnel: given.tunnel.array(),
            period_ms: 0,
            capabilities: Some(Capabilities(given.capabilities)),
            instance: given.instance.as_ref().map(Hex::array),
            token: given.token.as_ref().map(Hex::array),
            unknown: None,
        }
    }

    fn response(&self) -> Response {
        let given = &self.response;
        let tunnel = |bytes: &Hex| {
            let [v6, v4] = [&bytes.0[..16], &bytes.0[16..]];
            let (v6, v4) = (<[u8; 16]>::try_from(v6).unwrap(), <[u8; 4]>::try_from(v4).unwrap());
            Tunnel {
                v6: Some(v6.into()).filter(|_| v6 != [0; 16]),
                v4: Some(v4.into()).filter(|_| v4 != [0; 4]),
            }
        };
        Response {
            mode: given.mode,
            end: self.session_ends().1,
            period_ms: given.period_ms,
            rekey_after: given.rekey_after,
            expire_after: given.expire_after,
            inner_mtu: given.inner_mtu,
            time: given.time,
            client: tunnel(&given.client_tunnel),
            server: tunnel(&given.server_tunnel),
            capabilities: Some(Capabilities(given.capabilities)),
            unknown: None,
        }
    }
}

/// The reasons of the vectors.
fn reason(number: u8) -> Reason {
    match number {
        1 => Reason::Stopping,
        5 => Reason::InUse,
        other => Reason::Other(other),
    }
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../tests/vectors/handshake.json")).unwrap();
    assert_eq!(vectors.len(), 3);
    vectors
}

/// Keys of both directions, as one end has them.
fn assert_keys(session: &Session, role: Role, seal: &[Hex; 2], mask: &[Hex; 2]) {
    let [up, down] = [0, 1].map(|n: usize| DirectionKeys { seal: seal[n].array(), mask: mask[n].array() });
    let expected = if role == Role::Client { [up, down] } else { [down, up] };
    assert!([session.tx.0, session.rx.0] == expected, "{role:?}");
}

#[test]
fn introductions_are_where_the_vectors_have_them() {
    for vector in vectors() {
        let (client, server) = vector.introduction();
        let given = &vector.introduction;
        assert_keys(&client, Role::Client, &given.seal, &given.mask);
        assert_keys(&server, Role::Server, &given.seal, &given.mask);
        assert_eq!(client.endpoints(given.slot), (given.client.get(), given.server.get()));
        assert_eq!(server.endpoints(given.slot).0, given.server.get());
        assert_eq!(server.introduced_client(&client.local, given.slot), given.client.get());
    }
}

#[test]
fn handshakes_have_the_bytes_of_the_vectors() {
    for vector in vectors() {
        let (client, server) = (vector.client_private.secret(), vector.server_private.secret());
        let (public, key) = (server.public(), vector.introduction.key.array());
        let parent = vector.rekeyed_address_key.as_ref().map(|address_key| {
            // Of the session whose keys are replaced, this is all that the handshake is bound to.
            let (any, _) = vector.introduction();
            let terms = Terms { period: any.period, mode: any.mode, until: any.until };
            Session::adopted(Parts {
                tx: any.tx.clone(),
                rx: any.rx.clone(),
                address_key: address_key.array(),
                ends: Ends { local: any.local, remote: any.remote },
                terms,
                phase: any.phase,
            })
        });
        assert_eq!(parent.as_ref().map(Session::binding), vector.binding.as_ref().map(Hex::array));
        let IntroductionVector { window, slot, .. } = vector.introduction;
        let introduction = Binding::Introduction { window, key: &key, slot: slot as u32 };
        let place = parent.as_ref().map_or(introduction, |parent| Binding::Session(parent.binding()));
        let shared = Shared::new(&server, &client.public()).unwrap();
        let psk = place.psk(&NO_COMMUNITY, &shared, &public, &client.public());
        let prologue = place.prologue(&public);
        assert_eq!((prologue.as_slice(), psk), (vector.prologue.0.as_slice(), vector.psk.array()));

        let (request, response) = (vector.request(), vector.response());
        assert_eq!(request.encode(), vector.request.payload.0);
        let reply = Reply::Session(response);
        assert_eq!(reply.encode(), vector.response.payload.0);
        let [e, f] = vector.ephemeral_private.each_ref().map(|key| Ephemeral(key.array()));
        let [first, second] = vector.messages.each_ref().map(|message| message.0.as_slice());
        let (mut initiator, message) =
            Initiator::start(&client, &public, &prologue, e, &request.encode()).unwrap();
        assert_eq!(message, first);
        let (responder, who, payload) =
            Responder::read(&Identity::new(server.clone()), &prologue, f, first).unwrap();
        assert_eq!((who, Request::decode(&payload)), (client.public(), Some(request)));
        let (message, theirs) = responder.answer(&psk, &reply.encode()).unwrap();
        assert_eq!(message, second);
        let (payload, ours) = initiator.finish(second, &psk).unwrap();
        assert_eq!(Reply::decode(&payload), Some(reply));
        for secrets in [theirs, ours] {
            assert_eq!((secrets.hash, secrets.keys), (vector.handshake_hash.array(), vector.split.array()));
        }
    }
}

#[test]
fn refusals_and_ends_have_the_bytes_of_the_vectors() {
    for vector in vectors() {
        let given = &vector.denial;
        let (token, text) = (given.token.array(), Text::new(&given.text));
        let reply = Reply::Denied(Denial { reason: reason(given.reason), token, text });
        assert_eq!(hex::encode(reply.encode()), hex::encode(&given.payload.0));
        assert_eq!(Reply::decode(&given.payload.0), Some(reply));
        let given = &vector.term;
        let term = Control::Term { reason: reason(given.reason), text: Text::new(&given.text) };
        assert_eq!(hex::encode(term.encode()), hex::encode(&given.message.0));
        assert_eq!(Control::decode(&given.message.0), Some(term));
    }
}

#[test]
fn introductions_say_which_versions_the_server_takes() {
    for vector in vectors() {
        let given = &vector.introduction;
        let (lowest, highest) = (given.versions[0], given.versions[1]);
        let seed = Introduction::seed_for(&(lowest..=highest), &given.key.secret());
        assert_eq!(seed, given.server_seed.array());
        let introduction = Introduction {
            network: vector.server_network(),
            seed,
            key: given.key.secret(),
            rot: std::time::Duration::from_secs(3),
            slot: std::time::Duration::from_millis(given.slot_ms),
            published_ms: 0,
        };
        assert_eq!(introduction.versions(), lowest..=highest);
        // What a server of the first version draws, or another key.
        for seed in [*b"introSRV", [lowest, highest, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Introduction { seed, ..introduction.clone() }.versions(), 1..=1);
        }
        let key = SecretKey::from_bytes([1; 32]);
        assert_eq!(Introduction { key, ..introduction }.versions(), 1..=1);
    }
}

#[test]
fn introduction_packets_have_the_bytes_of_the_vectors() {
    let mut count = 0;
    for vector in vectors() {
        let Some(packets) = &vector.packets else { continue };
        let (client, server) = vector.introduction();
        let given = &vector.introduction;
        let (here, there) = (given.client.get(), given.server.get());
        let messages = [Control::Request(&vector.messages[0].0), Control::Response(&vector.messages[1].0)];
        let ways = [(&client, &server, here, there), (&server, &client, there, here)];
        for (n, (sender, receiver, local, remote)) in ways.into_iter().enumerate() {
            let message = messages[n].encode();
            let inner = packet::control(local.address, remote.address, &message);
            let path = Path { slot: given.slot, local, remote };
            let sealed = packet::seal(sender, &path, vector.sequences[n], &inner).unwrap();
            assert_eq!(hex::encode(&sealed), hex::encode(&packets[n].0));
            let opened = packet::open(receiver, given.slot as u32, &sealed).unwrap();
            assert_eq!(opened, (vector.sequences[n], inner));
            assert_eq!(packet::control_message(&opened.1), Some(message.as_slice()));
            count += 1;
        }
    }
    assert_eq!(count, 4);
}

#[test]
fn sessions_have_the_keys_and_packets_of_the_vectors() {
    for vector in vectors() {
        let given = &vector.session;
        let secrets = Secrets { keys: vector.split.array(), hash: vector.handshake_hash.array() };
        let terms = Terms {
            period: u64::from(vector.response.period_ms) * MILLISECOND,
            mode: u32::from(vector.response.mode),
            until: SessionNs::NEVER,
        };
        let (near, far) = vector.session_ends();
        let client = Session::negotiated(&secrets, Role::Client, Ends { local: near, remote: far }, terms);
        let server = Session::negotiated(&secrets, Role::Server, Ends { local: far, remote: near }, terms);
        let (here, there) = (given.client.get(), given.server.get());
        assert_eq!(client.endpoints(given.slot), (here, there));
        assert_eq!(server.endpoints(given.slot), (there, here));
        for (session, role) in [(&client, Role::Client), (&server, Role::Server)] {
            assert_keys(session, role, &given.seal, &given.mask);
            assert_eq!((session.phase, *session.address_key()), (given.phase_ns, given.address_key.array()));
        }
        let [from, to] = given.control_addresses.each_ref().map(Hex::array);
        assert_eq!((client.control_addresses(), server.control_addresses()), ([from, to], [from, to]));
        let ping = Control::Ping { stamp: 0x0123_4567_89ab_cdef }.encode();
        assert_eq!(packet::control(from, to, &ping), given.ping.0);

        let texts = [(&given.data, &given.data_packets, 0), (&given.ping, &given.ping_packets, 2)];
        for (text, packets, offset) in texts {
            let ways = [(&client, &server, here, there), (&server, &client, there, here)];
            for (n, (sender, receiver, local, remote)) in ways.into_iter().enumerate() {
                let sequence = given.sequence + offset + n as u64;
                let path = Path { slot: given.slot, local, remote };
                let sealed = packet::seal(sender, &path, sequence, &text.0).unwrap();
                assert_eq!(hex::encode(&sealed), hex::encode(&packets[n].0));
                let opened = packet::open(receiver, given.slot as u32, &sealed);
                assert_eq!(opened, Ok((sequence, text.0.clone())));
            }
        }
    }
}
