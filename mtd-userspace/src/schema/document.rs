//! The generated documents about the format: every key with its values, its default, and its meaning.

use std::fmt;

use humantime::format_duration;

use super::{Default, Format, Key, Kind, Schema};

const INTRODUCTION: &str = "\
The configuration of mtd is a file in TOML, by default `/etc/mtd/mtd.toml`; `mtd run -c FILE` names another. \
`mtd check` tells every problem of it without doing anything. Relative paths are relative to the folder of the file. \
Durations are written like \"1500ms\", \"3s\" or \"1min 30s\".";

const RELOADING: &str = "\
Most changes take effect at the next start. `mtd reload` applies those keys that say so below while the controller runs, \
and tells which others have changed.";

/// The reference of all keys in Markdown.
pub fn markdown(format: &Format) -> String {
    let mut parts = vec![format!(
        "<!-- Made by `mtd debug configuration --format markdown`: change the schemas of the sections instead. -->\n\n\
         # Configuration\n\n{INTRODUCTION}\n\n{RELOADING}\n\n`packaging/mtd.toml.example` is a file with all of them.\n"
    )];
    for schema in format.schemas() {
        let title = if schema.header.is_empty() { "Top of the file".to_owned() } else { code(schema.header) };
        parts.push(format!("\n## {title}\n\n{}\n", schema.help));
        for key in schema.keys() {
            parts.push(format!("\n### {}\n\n{}\n\n", code(&full_name(schema, key)), key.help));
            parts.extend(facts(key).into_iter().map(|(name, what)| format!("- {name}: {what}\n")));
        }
    }
    parts.concat()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The manual page mtd.toml(5), in roff.
pub fn manual_page(format: &Format) -> String {
    let mut parts = vec![format!(
        ".TH mtd.toml 5 \"\" \"mtd {}\" \"File formats\"\n.SH NAME\nmtd.toml \\- configuration of mtd\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    )];
    parts.extend([INTRODUCTION, RELOADING].map(|paragraph| format!("{}\n.PP\n", roff(paragraph))));
    for schema in format.schemas() {
        let title = if schema.header.is_empty() { "TOP OF THE FILE" } else { schema.header };
        parts.push(format!(".SH {}\n{}\n", roff(title), roff(schema.help)));
        for key in schema.keys() {
            parts.push(format!(".TP\n.B {}\n{}\n", roff(&full_name(schema, key)), roff(key.help)));
            parts
                .extend(facts(key).into_iter().map(|(name, what)| format!(".br\n{name}: {}\n", roff(&what))));
        }
    }
    parts.push(
        ".SH SEE ALSO\n.BR mtd (1),\n.BR mtd\\-run (1),\n.BR mtd\\-check (1),\n.BR mtd\\-reload (1)\n"
            .to_owned(),
    );
    parts.concat()
}

/// Escapes a text so that roff reads no commands in it.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "").replace('…', "...");
    // Characters that begin a command at the start of a line.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn full_name(schema: &Schema, key: &Key) -> String {
    format!("{}{}", schema.path, key.name)
}

/// The facts about a key, as pairs of a name and a text.
fn facts(key: &Key) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Value", key.kind.to_string())];
    facts.push((
        "Default",
        match key.default {
            Default::Required => "none; the key must be there".to_owned(),
            Default::Value(value) => code(value),
            Default::Words(words) => words.to_owned(),
        },
    ));
    facts.push(("Example", code(&format!("{} = {}", key.name, key.example))));
    facts.push((
        "A change takes effect",
        if key.reloads { "at `mtd reload`" } else { "at the next start" }.to_owned(),
    ));
    if !key.requirement.is_empty() {
        facts.push(("Requirement", key.requirement.to_owned()));
    }
    facts
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(what) => write!(f, "a string: {what}"),
            Self::List(what) => write!(f, "a string or a list of strings, each: {what}"),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                write!(f, "one of {}", words.join(", "))
            }
            Self::Duration(least, most) => {
                write!(f, "a duration from {} to {}", format_duration(*least), format_duration(*most))
            }
            Self::Integer(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Boolean => f.write_str("true or false"),
        }
    }
}
