//! The memory of the maps, for each session and in total, and the size of the programs for the verifier.

use std::collections::BTreeMap;

use aya::maps::MapInfo;
use mtd::dataplane::Capacity;

use crate::harness::load;

/// Bytes that a session takes, beside its slots: element of the table, state with the window.
const SESSION_BYTES: u64 = 192 + 576;
/// Bytes of a slot's addresses.
const SLOT_BYTES: u64 = 32;
/// Bytes of a bucket of the table of addresses, and of its part of the filter.
const BUCKET_BYTES: u64 = 64 + 4;

/// Key and value size and number of entries of the maps of the programs, by name (the kernel cuts it at 15 bytes).
fn maps(capacity: Capacity) -> BTreeMap<String, (u64, u64, u64)> {
    mtd_tests::require_root();
    let mut plane = load(capacity);
    let receive = plane.receive_program().expect("a program").info();
    let advertise = plane.advertise_program().expect("a program").info();
    let send = plane.send_program().expect("a program").info();
    [receive, advertise, send]
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
    for (sessions, slots) in [(1, 4), (1000, 24), (15_000, 5)] {
        let capacity = Capacity { sessions, slots, lanes: 0 };
        let maps = maps(capacity);
        let grown = ["SESSIONS", "SESSION_STATE", "SLOTS", "ADDRESSES", "FILTER"];
        let bytes: u64 = grown
            .into_iter()
            .map(|name| {
                let (_, value, entries) = maps.get(name).unwrap_or_else(|| panic!("no {name} in {maps:?}"));
                value * entries
            })
            .sum();
        let (sessions, buckets) = (u64::from(sessions), 1 << capacity.table_bits());
        let slots = sessions << capacity.ring_bits();
        assert_eq!(bytes, sessions * SESSION_BYTES + slots * SLOT_BYTES + buckets * BUCKET_BYTES, "{maps:?}");
    }
}

#[test]
fn nothing_else_grows_with_the_sessions() {
    let (small, big) = (
        maps(Capacity { sessions: 1, slots: 8, lanes: 0 }),
        maps(Capacity { sessions: 4000, slots: 8, lanes: 0 }),
    );
    let grown: Vec<_> =
        small.iter().filter(|(name, shape)| big[*name] != **shape).map(|(name, _)| name).collect();
    assert_eq!(grown, ["ADDRESSES", "FILTER", "SESSIONS", "SESSION_STATE", "SLOTS"]);
    // Fixed ones, apart from ring buffers and the memory of introductions: counters, limits, working memory of each CPU, settings.
    let fixed: u64 = small
        .iter()
        .filter(|(name, _)| !grown.contains(name))
        .filter(|(name, _)| !matches!(name.as_str(), "EVENTS" | "ROUTES" | "CONTROL" | "INTRODUCED"))
        .map(|(_, (_, value, entries))| value * entries)
        .sum();
    assert!(fixed < 10_240, "{fixed} bytes for each CPU: {small:?}");
}

/// Verified instructions that each program may take: room for stages to come is what the kernel's limit of a million leaves,
/// and time at each start of a controller.
const VERIFIED: [(&str, u32); 7] = [
    ("mtd_receive", 250_000),
    ("mtd_take", 220_000),
    ("mtd_advertise", 10_000),
    ("mtd_send", 150_000),
    ("mtd_filter", 30_000),
    ("mtd_filter_take", 30_000),
    ("mtd_filter_send", 30_000),
];

#[test]
fn no_program_takes_the_verifier_longer_than_planned() {
    mtd_tests::require_root();
    let plane = load(Capacity { sessions: 8, slots: 8, lanes: 1 });
    for (name, most) in VERIFIED {
        let info = plane.program_info(name).expect("its facts");
        assert_eq!(info.name_as_str(), Some(name));
        let count = info.verified_instruction_count().expect("a kernel of 5.16 or newer");
        assert!(count <= most, "{name} takes {count} verified instructions of at most {most}");
    }
}
