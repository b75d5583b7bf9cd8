//! What the maps cost: per session, and in all.

use std::collections::BTreeMap;

use aya::maps::MapInfo;
use mtd::dataplane::{Capacity, Plane};
use mtd_common::session_note::SessionNote;

/// Bytes of keys and values that a session takes, beside its slots: element of the table, state, with the window.
const SESSION_BYTES: u64 = 168 + 704;
/// Bytes of keys and values that a slot takes: address of receipt (12 + 48), element of the send ring (48).
const SLOT_BYTES: u64 = 60 + 48;

/// Key and value size and number of entries of the maps of both programs, by name (the kernel cuts it at 15 bytes).
fn maps(capacity: Capacity) -> BTreeMap<String, (u64, u64, u64)> {
    mtd_tests::require_root();
    let mut plane = Plane::load(capacity).expect("the programs load");
    let receive = plane.receive_program().expect("a program").info();
    let send = plane.send_program().expect("a program").info();
    [receive, send]
        .into_iter()
        .flat_map(|info| info.expect("its facts").map_ids().expect("its maps").unwrap_or_default())
        .map(|id| MapInfo::from_id(id).expect("a map"))
        .map(|map| {
            let name = map.name_as_str().expect("a name").to_owned();
            (name, (map.key_size().into(), map.value_size().into(), map.max_entries().into()))
        })
        .collect()
}

#[test]
fn a_session_takes_what_was_planned() {
    for (sessions, ring) in [(1, 4), (1000, 32), (15_000, 32)] {
        let maps = maps(Capacity { sessions, ring });
        let (sessions, slots) = (u64::from(sessions), u64::from(sessions * ring));
        let entries = |name: &str| maps.get(name).unwrap_or_else(|| panic!("no {name} in {maps:?}")).2;
        assert_eq!((entries("SESSIONS"), entries("SESSION_STATE")), (sessions, sessions));
        assert_eq!((entries("RX_SLOTS"), entries("TX_SLOTS")), (slots, slots));
        let bytes: u64 = ["SESSIONS", "SESSION_STATE", "RX_SLOTS", "TX_SLOTS"]
            .into_iter()
            .map(|name| {
                let (key, value, entries) = maps[name];
                // An array has no keys in memory.
                (value + if name == "RX_SLOTS" { key } else { 0 }) * entries
            })
            .sum();
        assert_eq!(bytes, sessions * SESSION_BYTES + slots * SLOT_BYTES, "{maps:?}");
        // With the default horizon (60 s of slots of 3 s, a ring of 32): not more than a page and a half.
        let each = bytes / sessions + size_of::<SessionNote>() as u64;
        assert!(ring > 32 || each <= 6 * 1024, "{each} bytes per session");
    }
}

#[test]
fn nothing_else_grows_with_the_sessions() {
    let (small, big) = (maps(Capacity { sessions: 1, ring: 8 }), maps(Capacity { sessions: 4000, ring: 8 }));
    let grown: Vec<_> =
        small.iter().filter(|(name, shape)| big[*name] != **shape).map(|(name, _)| name).collect();
    assert_eq!(grown, ["RX_SLOTS", "SESSIONS", "SESSION_STATE", "TX_SLOTS"]);
    // Fixed ones, apart from ring buffers and the memory of introductions: counters, limits, working memory of each CPU, settings.
    let fixed: u64 = small
        .iter()
        .filter(|(name, _)| !grown.contains(name))
        .filter(|(name, _)| !matches!(name.as_str(), "EVENTS" | "ROUTES" | "CONTROL" | "INTRODUCED"))
        .map(|(_, (_, value, entries))| value * entries)
        .sum();
    assert!(fixed < 4096, "{fixed} bytes for each CPU: {small:?}");
}
