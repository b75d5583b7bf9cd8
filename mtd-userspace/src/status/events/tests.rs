use std::collections::BTreeSet;

use mtd_common::DropReason;
use mtd_common::event::DropEvent;
use serde_json::Value;

use super::*;

/// An event with all its parts, which no real one has at a time.
fn everything() -> EventDocument {
    let packet = DroppedPacket::new(&DropEvent::default(), DropReason::Tcp, 1);
    EventDocument {
        drop: Some(packet),
        session: Some(SessionEvent::default()),
        path: Some(PathEvent::default()),
        enforcement: Some(Guard::default()),
        registration: Some(RegistrationEvent::default()),
        configuration: Some(ConfigurationEvent::default()),
        task: Some(TaskEvent::default()),
        repair: Some(RepairEvent::default()),
        ..EventDocument::default()
    }
}

/// The paths of a document's keys, such as `session.change`.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
        keys(value, &path, found);
        found.insert(path);
    }
}

/// The fields that the first column of the table names.
fn documented(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

#[test]
fn the_document_has_the_documented_keys_and_no_other() {
    let text = include_str!("../../../../docs/events.md");
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(everything()).unwrap(), "", &mut found);
    let (guard, found): (BTreeSet<_>, _) = found.into_iter().partition(|key| key.starts_with("enforcement."));
    assert_eq!(found, documented(text));
    // The page refers to another one for these.
    assert!(text.contains("as `instances[].guard` of [status.md](status.md)"));
    let status = include_str!("../../../../docs/status.md");
    for key in guard {
        let key = key.replace("enforcement.", "instances[].guard.");
        assert!(status.contains(&format!("| `{key}` |")), "{key} is not in docs/status.md");
    }
}

#[test]
fn the_line_of_lost_events_is_as_documented() {
    let line = serde_json::to_string(&EventLine::Lost { lost: 5 }).unwrap();
    assert_eq!(line, r#"{"lost":5}"#);
    assert!(include_str!("../../../../docs/events.md").contains(r#"`{"lost": n}`"#));
}
