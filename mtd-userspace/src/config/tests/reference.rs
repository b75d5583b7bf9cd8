//! Tests of the configuration: the reference of its keys is complete, true and committed.

use std::collections::BTreeSet;

use super::*;
use crate::schema::{Default, Key, markdown};

const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

/// The lines of the example below each header, the root first; commented-out values as they would be written.
fn example_sections() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut sections = vec![("", Vec::new())];
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            sections.push((line, Vec::new()));
        } else if let Some((_, lines)) = sections.last_mut() {
            let assigned = line.strip_prefix('#').unwrap_or(line);
            if assigned.starts_with(char::is_alphabetic) && assigned.contains(" = ") {
                lines.push(line);
            }
        }
    }
    sections
}

fn keys() -> impl Iterator<Item = (&'static str, &'static Key)> {
    FORMAT.schemas().flat_map(|schema| schema.keys().map(move |key| (schema.header, key)))
}

#[test]
fn the_committed_reference_is_what_the_table_gives() {
    let current = markdown(&FORMAT);
    assert!(
        REFERENCE == current,
        "run: cargo run -p mtd-userspace -- debug configuration --format markdown > docs/configuration.md"
    );
}

#[test]
fn the_example_and_the_table_have_the_same_keys() {
    let in_example: BTreeSet<(&str, &str)> = example_sections()
        .into_iter()
        .flat_map(|(header, lines)| {
            lines
                .into_iter()
                .map(move |line| (header, line.trim_start_matches('#').split(' ').next().unwrap()))
        })
        .collect();
    let in_table: BTreeSet<_> = keys().map(|(header, key)| (header, key.name)).collect();
    assert_eq!(in_example, in_table);
}

/// Together with the test that the example's defaults are true, the table's are.
#[test]
fn a_default_in_the_table_is_the_one_in_the_example() {
    let sections = example_sections();
    for (header, key) in keys() {
        let lines = &sections.iter().find(|(found, _)| *found == header).unwrap().1;
        let commented = lines.iter().find_map(|line| line.strip_prefix(&format!("#{} = ", key.name)));
        match key.default {
            Default::Value(default) => assert_eq!(Some(default), commented, "{header} {}", key.name),
            Default::Required => assert_eq!(commented, None, "{header} {}", key.name),
            Default::Words(_) => {}
        }
    }
}

#[test]
fn every_key_is_explained_in_whole_sentences() {
    for (header, key) in keys() {
        assert!(key.help.ends_with('.'), "{header} {}", key.name);
        assert!(key.help.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit()), "{}", key.name);
    }
}

/// An example is shown to whoever wrote something else: it must not be refused.
#[test]
fn every_example_is_accepted() {
    for (header, key) in keys() {
        let own = format!("{} = {}\n", key.name, key.example);
        let lines = EXAMPLE.lines().map(|line| format!("{line}\n"));
        let mut text = String::new();
        let mut section = String::new();
        let mut written = false;
        for line in lines {
            if line.starts_with('[') {
                section = line.trim_end().to_owned();
            }
            let name = line.trim_start_matches('#').split(" = ").next().unwrap_or_default();
            if section == header && name == key.name {
                text.push_str(&own);
                written = true;
            } else {
                text.push_str(&line);
            }
        }
        assert!(written, "{header} {}", key.name);
        let found = errors(&text);
        assert_eq!(found, "no error", "{header} {own}");
    }
}

#[test]
fn reload_applies_what_is_about_clients_and_filters_and_nothing_else() {
    let reloading: Vec<_> =
        keys().filter(|(_, key)| key.reloads).map(|(header, key)| (header, key.name)).collect();
    assert_eq!(
        reloading,
        [
            ("", "filter_reject"),
            ("[listen]", "clients_dir"),
            ("[[client]]", "name"),
            ("[[client]]", "public_key"),
            ("[[client]]", "address"),
            ("[[client]]", "slot"),
            ("[[client]]", "filter"),
            ("[[server]]", "filter"),
            ("[[peer]]", "filter"),
        ]
    );
    for (setting, expected) in [
        // Its filter alone, which is in force for nobody yet.
        ("peer.new.filter", true),
        ("peer.new.name", false),
        ("client", true),
        ("client.tablet.address", true),
        ("client.tablet.slot", true),
        ("client.my.tablet.name", true),
        ("listen.clients_dir", true),
        ("listen.period", false),
        ("listen", false),
        ("clients", false),
        ("mtu", false),
        ("peer.laptop.seed", false),
    ] {
        assert_eq!(reloads(setting), expected, "{setting}");
    }
}
