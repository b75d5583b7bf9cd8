//! Texts from files and sockets.

use std::error::Error;
use std::io;

use mtd::config::{Config, MIN_REKEY_MARGIN, MIN_SLOTS_AHEAD};
use mtd::control::DropLine;
use mtd::keys::{KEY_CHARACTERS, KeyTextError, PublicKey, SecretKey};
use mtd::state::{Past, State};
use mtd::status::{SCHEMA, Status};
use serde_json::Value;

/// A configuration file: settings that hold together, or problems that each have a place in the text and a remedy.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    match Config::parse(text, "mtd.toml") {
        Ok(config) => {
            assert!(config.prefixes.len() <= 4 && config.prefixes.is_empty() == config.follow_prefix);
            assert!(!config.addresses.is_empty() || !config.servers.is_empty());
            assert!(config.identity.is_some() || config.listen.is_none() && config.servers.is_empty());
            if let Some(listen) = &config.listen {
                assert!(listen.pool.networks().next().is_some());
                assert!(listen.expire_after >= listen.rekey_after + MIN_REKEY_MARGIN);
                assert!(listen.introduction_grace <= config.rendezvous.window);
                assert!(listen.period * MIN_SLOTS_AHEAD <= config.horizon);
            }
            assert!(config.prefixes.iter().all(|prefix| (64..=112).contains(&prefix.prefix_len())));
            assert!(config.prefixes.iter().all(|prefix| *prefix == prefix.trunc()));
            assert!(config.inside_device().len() <= 15 && config.peers.len() <= config.max_sessions as usize);
            for peer in &config.peers {
                assert!(config.prefixes.contains(&peer.local_prefix));
                assert!(peer.period * MIN_SLOTS_AHEAD <= config.horizon);
                assert!(peer.seed != peer.peer_seed && !peer.allowed_ips.is_empty());
            }
            true
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let (line, column) = problem.position.expect("a problem of a text has a place");
                let length = text.split('\n').nth(line - 1).map(|line| line.chars().count());
                assert!(length.is_some_and(|length| (1..=length + 1).contains(&column)), "{problem:?}");
                assert!(!problem.fault.what.is_empty() && !problem.fault.remedy.is_empty(), "{problem:?}");
            }
            assert!(error.to_string().lines().count() >= error.problems().len());
            false
        }
    }
}

/// A key in text form: one text for each key, read alike from arguments and from files.
pub fn key(data: &[u8]) -> bool {
    let read = SecretKey::from_reader(data);
    if let Err(error) = &read {
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<KeyTextError>));
    }
    let Ok(text) = str::from_utf8(data) else {
        assert!(read.is_err(), "a key that is no text");
        return false;
    };
    match (text.parse::<SecretKey>(), text.parse::<PublicKey>()) {
        (Ok(secret), Ok(public)) => {
            assert_eq!(text.len(), KEY_CHARACTERS);
            assert_eq!(*secret.to_base64(), text, "a second text for the same key");
            assert_eq!(public.to_string(), text);
            assert_eq!(secret.as_bytes(), public.as_bytes());
            assert!(read.is_ok_and(|read| read == secret));
            true
        }
        (Err(secret), Err(public)) => {
            assert_eq!(secret, public);
            assert_eq!(secret == KeyTextError::Empty, text.is_empty());
            if let Ok(read) = read {
                // White space may follow in a file, and nowhere else.
                assert_eq!(*read.to_base64(), text.trim_ascii_end());
            }
            false
        }
        (secret, public) => panic!("{secret:?} as a secret, {public:?} as a public key"),
    }
}

/// The state file: what is understood can be used, and is the same when it is written and read again.
pub fn state(data: &[u8]) -> bool {
    let Ok(state) = State::decode(data) else { return false };
    let written = serde_json::to_vec(&state).expect("a state can be written");
    assert_eq!(State::decode(&written).as_ref(), Ok(&state));
    let document: Value = serde_json::from_slice(&written).expect("what was written is JSON");
    for fingerprint in document["sessions"].as_object().expect("sessions by fingerprint").keys() {
        assert_ne!(state.past(fingerprint), Past::None);
    }
    true
}

/// The answer to `GET /v1/status`, as the command line reads it: the same when it is written and read again.
pub fn status(data: &[u8]) -> bool {
    let Ok(mut status) = serde_json::from_slice::<Status>(data) else { return false };
    // The parser rounds decimal fractions; all else must come back as it was.
    (status.uptime_seconds, status.schema) = (0.0, SCHEMA);
    for peer in &mut status.peers {
        (peer.period_seconds, peer.clock_offset_seconds) = (0.0, 0.0);
        peer.last_valid_seconds = peer.last_valid_seconds.map(|_| 0.0);
    }
    let zero = |seconds: &mut Option<f64>| *seconds = seconds.map(|_| 0.0);
    for session in &mut status.sessions {
        zero(&mut session.period_seconds);
        zero(&mut session.last_valid_seconds);
        zero(&mut session.clock_offset_seconds);
        zero(&mut session.rekeyed_seconds);
    }
    if let Some(rendezvous) = &mut status.rendezvous {
        zero(&mut rendezvous.last_publication);
        zero(&mut rendezvous.last_fetch);
        zero(&mut rendezvous.next_seconds);
        zero(&mut rendezvous.median_fetch_ms);
    }
    let written = serde_json::to_vec(&status).expect("a status can be written");
    let read: Status = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{status:?}"));
    true
}

/// A line of `GET /v1/drops/events`, as the command line reads it.
pub fn drop_line(data: &[u8]) -> bool {
    let Ok(line) = serde_json::from_slice::<DropLine>(data) else { return false };
    let written = serde_json::to_string(&line).expect("a line can be written");
    assert!(!written.contains('\n'), "a line is one line");
    let read: DropLine = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(read, line);
    true
}
