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
    "files",
    "keys",
    "privilege",
    "caller",
    "device",
    "instance",
    "config",
    "proto",
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
    "keystream",
    "rings",
    "leases",
    "registry",
    "rendezvous",
    "metrics",
    "web",
    "control",
    "controller",
    "cli",
];

/// Arrows that still run upwards, to be emptied: from, to, why.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("sessions", "controller", "protected prefixes and MTU are worked out in controller/host.rs")];

#[test]
fn no_room_uses_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    sources(&root, &mut files);
    assert!(files.len() > 100, "the sources were not found");
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(place) = ORDER.iter().position(|known| *known == room) else {
            assert!(["lib", "main", "rooms"].contains(&room), "{room} has no place in the order");
            continue;
        };
        for other in uses(&fs::read_to_string(&file).unwrap()) {
            let above = ORDER.iter().position(|known| *known == other).is_none_or(|other| other > place);
            let known = EXCEPTIONS.iter().find(|(from, to, _)| (*from, *to) == (room, other.as_str()));
            match known {
                Some(exception) => _ = used.insert(exception.1),
                None if above => wrong.push(format!("{} uses {other}", inside.display())),
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "these arrows run upwards: {wrong:#?}");
    assert_eq!(used.len(), EXCEPTIONS.len(), "an exception is no longer needed");
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
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            // `use crate::{a, b::c};`
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                found.extend(group.split(',').map(name).filter(|name| !name.is_empty()));
            }
            None => _ = found.insert(name(part)),
        }
    }
    found.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let text = "use crate::{health, metrics};\n// crate::cli\nfn f() { crate::web::x(); }\n#[cfg(test)]\nmod tests { use crate::control; }";
    assert_eq!(uses(text).into_iter().collect::<Vec<_>>(), ["health", "metrics", "web"]);
}
