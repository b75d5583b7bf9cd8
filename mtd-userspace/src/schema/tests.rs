//! What follows from a schema, on a small format of its own.

use std::time::Duration;

use super::*;

const KEYS: &[Key] = &[
    Key::required("name", Kind::Text("a name"), r#""a""#, "Its name."),
    Key::preset("age", Kind::Integer(1, 9), "3", "Its age.").from_requirement("MT-99").reloading(),
];

const LIST: Schema = Schema { header: "[[pet]]", path: "pet.", help: "A pet.", groups: &[KEYS] };

const TABLE: Schema = Schema {
    header: "[house]",
    path: "house.",
    help: "The house.",
    groups: &[&[Key::preset(
        "rest",
        Kind::Duration(Duration::from_secs(1), Duration::from_secs(90)),
        r#""5s""#,
        "-h is no help.",
    )
    .otherwise("none")
    .reloading()]],
};

const ROOT: Schema = Schema { header: "", path: "", help: "The top.", groups: &[&[KEYS[0]], &[KEYS[1]]] };

const FORMAT: Format = Format { root: &ROOT, tables: &[&TABLE, &LIST] };

const BAD: Schema = Schema { header: "[bad]", path: "bad.", help: ".so /etc/passwd", groups: &[] };

#[test]
fn what_reload_applies_is_a_property_of_the_key() {
    for (setting, expected) in [
        ("age", true),
        ("name", false),
        ("house.rest", true),
        ("house", true),
        ("house.other", false),
        ("pet", false),
        ("pet.rex.age", true),
        ("pet.the.second.age", true),
        ("pet.age.name", false),
        ("car.age", false),
    ] {
        assert_eq!(FORMAT.reloads(setting), expected, "{setting}");
    }
}

#[test]
fn the_root_knows_its_keys_and_the_tables() {
    assert_eq!(FORMAT.names(&ROOT).collect::<Vec<_>>(), ["name", "age", "house", "pet"]);
    assert_eq!(FORMAT.names(&LIST).collect::<Vec<_>>(), ["name", "age"]);
}

#[test]
fn markdown_tells_everything_about_a_key() {
    let text = markdown(&FORMAT);
    assert!(
        text.contains(
            "### `pet.age`\n\nIts age.\n\n- Value: a whole number from 1 to 9\n- Default: `3`\n- Example: `age = 3`\n\
             - A change takes effect: at `mtd reload`\n- Requirement: MT-99\n"
        ),
        "{text}"
    );
    assert!(text.contains("- Value: a duration from 1s to 1m 30s\n- Default: none\n"), "{text}");
    assert!(text.contains("- Default: none; the key must be there\n"), "{text}");
}

#[test]
fn nothing_in_a_manual_page_is_read_as_a_command() {
    let page = manual_page(&FORMAT);
    assert!(page.contains(".TP\n.B house.rest\n\\-h is no help.\n"), "{page}");
    let page = manual_page(&Format { root: &ROOT, tables: &[&BAD] });
    assert!(page.contains("\n\\&.so /etc/passwd\n"), "{page}");
}
