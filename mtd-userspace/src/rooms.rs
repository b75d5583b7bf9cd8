//! The order of the rooms, and the test that keeps it: a room uses only those that stand before it in [`ORDER`], so there
//! is no circle of rooms either.
//!
//! Where the order is not obvious: the documents (`status`) are words that everybody uses, as `model` is, and render
//! nothing; `prometheus` is the text format alone, so that each feature writes its metrics beside it. The table of sessions
//! stands below the features: they are subsystems, which get it in their context, and it knows none of them. `proto`
//! stands below `dataplane`, whose table of slots implements a trait of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, those at the bottom first.
const ORDER: &[&str] = &[
    "model",
    "remedy",
    "files",
    "schema",
    "keys",
    "privilege",
    "proto",
    SECTIONS,
    "config",
    "caller",
    "device",
    "instance",
    "dataplane",
    "enforcement",
    "events",
    "http",
    "prometheus",
    "state",
    "status",
    "health",
    "sessions",
    "subsystem",
    "upkeep",
    "keystream",
    "rings",
    "claims",
    "copies",
    "neighbours",
    "resolver",
    "leases",
    "registry",
    "rendezvous",
    "metrics",
    "web",
    "control",
    "controller",
    "cli",
];

/// The sections of the configuration (`section.rs`, or what is in a folder `section`), each beside its feature. They are a
/// room of their own: `config` is put together from them, and the features' other files use `config`.
const SECTIONS: &str = "section";

#[test]
fn no_room_uses_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "the sources were not found");
    let wrong: Vec<_> = files
        .iter()
        .flat_map(|file| upward(file.strip_prefix(&root).unwrap(), &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "these arrows run upwards: {wrong:#?}");
}

/// The arrows that run upwards from a file below `src` with this text: to rooms above its own, or to no room at all.
fn upward(file: &Path, text: &str) -> Vec<String> {
    let room = room_of(file);
    let place = |room: &str| ORDER.iter().position(|known| *known == room);
    let Some(own) = place(room) else {
        assert!(["lib", "main", "rooms"].contains(&room), "{room} has no place in the order");
        return Vec::new();
    };
    let above = |other: &String| place(other).is_none_or(|other| other > own);
    uses(text).into_iter().filter(above).map(|other| format!("{} uses {other}", file.display())).collect()
}

#[test]
fn arrows_that_run_upwards_are_seen() {
    let upward = |file: &str, text: &str| upward(Path::new(file), text);
    let text = "use crate::model::Mode;\nuse crate::{http, web, metrics};\nfn f() { crate::control::x() }";
    assert_eq!(
        upward("http/serve.rs", text),
        ["http/serve.rs uses control", "http/serve.rs uses metrics", "http/serve.rs uses web"]
    );
    assert_eq!(upward("cli/run.rs", text), Vec::<String>::new(), "downwards, and within a room");
    assert_eq!(upward("web/server.rs", text), ["web/server.rs uses control"]);
    assert_eq!(upward("keys.rs", "use crate::newcomer::New;"), ["keys.rs uses newcomer"], "no place yet");
    let section = "use crate::web::section::WEB;";
    assert_eq!(upward("config/mod.rs", section), Vec::<String>::new(), "sections are below it");
    assert_eq!(upward("proto/noise.rs", section), ["proto/noise.rs uses section"]);
    assert_eq!(upward("web/section.rs", "use crate::config::Config;"), ["web/section.rs uses config"]);
    assert_eq!(upward("lib.rs", text), Vec::<String>::new(), "where everything is put together");
}

#[test]
#[should_panic(expected = "newcomer has no place in the order")]
fn a_room_without_a_place_is_seen() {
    upward(Path::new("newcomer/mod.rs"), "");
}

/// The room of a file below `src`.
fn room_of(file: &Path) -> &str {
    let mut parts = file.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs"));
    let room = parts.next().unwrap();
    // `schema` has a file of that name, about sections, not with one.
    if room != "schema" && room != "config" && parts.next() == Some(SECTIONS) { SECTIONS } else { room }
}

/// The Rust files below a folder, without those of tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a text names behind `crate::`, outside of comments and of its tests at the end.
fn uses(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = |text: &str| text.trim_start().chars().take_while(|c| is_name(*c)).collect::<String>();
    // `web::section::WEB` is a section's, wherever it stands.
    let room = |text: &str| {
        let (room, rest) = (name(text), text.trim_start().trim_start_matches(is_name));
        let section = rest.strip_prefix("::").is_some_and(|rest| name(rest) == SECTIONS);
        if section && room != "schema" { SECTIONS.to_owned() } else { room }
    };
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            // `use crate::{a, b::c};`
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                found.extend(group.split(',').map(room).filter(|name| !name.is_empty()));
            }
            None => _ = found.insert(room(part)),
        }
    }
    found.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let text = "use crate::{health, metrics};\nuse crate::registry::section::Listen;\n// crate::cli\nfn f() { crate::web::x(); }\n\
                #[cfg(test)]\nmod tests { use crate::control; }";
    assert_eq!(uses(text).into_iter().collect::<Vec<_>>(), ["health", "metrics", SECTIONS, "web"]);
    assert_eq!(room_of(Path::new("sessions/section/peer.rs")), SECTIONS);
    assert_eq!(room_of(Path::new("web/section.rs")), SECTIONS);
    assert_eq!(room_of(Path::new("schema/section.rs")), "schema");
    assert_eq!(room_of(Path::new("sessions/mod.rs")), "sessions");
}
