//! The building blocks of a configuration file's sections: keys and their documentation, values with their place in the
//! file, collected problems, and facts that sections share.
//!
//! It does not depend on any feature. A feature has a file `section.rs` with a [`Schema`] (or [`Key`]s of the root) and a
//! [`Part`] that reads and checks them; [`crate::config`] puts the sections together.

pub mod common;
mod document;
mod facts;
mod networks;
mod problems;
mod section;
mod values;

use std::time::Duration;

pub use document::{manual_page, markdown};
pub use facts::{Claim, Facts, Prefixes, Slots, each_once};
pub use networks::{check_host_bits, check_unicast, inner_network, listen_address, not_a_network, prefix};
pub use problems::{ConfigError, Problem, Problems};
pub use section::{Located, Section, unlocated, value, value_or_default};
pub use values::{MAX_INTERFACE_NAME, absolute_path, duration, interface_name, name, path};

/// One section's part in the reading of a file. First every section adds the facts that others may need, then each section
/// is checked.
pub trait Part {
    /// Adds the facts that other sections may need.
    fn tell(&self, _: &mut Facts) {}

    /// Reports problems within the section, and conflicts with the others.
    fn check(&self, _: &Facts, _: &mut Problems<'_>) {}
}

/// The kind of values that a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A string, described by these words.
    Text(&'static str),
    /// One string, or a list of them, each described by these words.
    List(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A string with a duration, between these two (included).
    Duration(Duration, Duration),
    /// A whole number, between these two (included).
    Integer(u32, u32),
    /// `true` or `false`.
    Boolean,
}

/// The value of a key that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// The key is required.
    Required,
    /// This value, in TOML.
    Value(&'static str),
    /// A default described by these words.
    Words(&'static str),
}

/// A key of a table: the one place for its name, its values, and its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// An example value in TOML, for messages.
    pub example: &'static str,
    /// Its default.
    pub default: Default,
    /// Its meaning, in whole sentences.
    pub help: &'static str,
    /// The requirement behind it; empty: none.
    pub requirement: &'static str,
    /// Whether `mtd reload` applies a changed value to a running controller. Otherwise it takes effect at the next start.
    pub reloads: bool,
}

impl Key {
    /// A required key; see the fields.
    pub const fn required(name: &'static str, kind: Kind, example: &'static str, help: &'static str) -> Self {
        let default = Default::Required;
        Self { name, kind, example, default, help, requirement: "", reloads: false }
    }

    /// A key with this default value in TOML, which is also the example.
    pub const fn preset(name: &'static str, kind: Kind, preset: &'static str, help: &'static str) -> Self {
        Self { default: Default::Value(preset), ..Self::required(name, kind, preset, help) }
    }

    /// The same key, with this default value in TOML.
    #[must_use]
    pub const fn or(self, default: &'static str) -> Self {
        Self { default: Default::Value(default), ..self }
    }

    /// The same key, with a default described by these words.
    #[must_use]
    pub const fn otherwise(self, words: &'static str) -> Self {
        Self { default: Default::Words(words), ..self }
    }

    /// The same key, with this requirement.
    #[must_use]
    pub const fn from_requirement(self, requirement: &'static str) -> Self {
        Self { requirement, ..self }
    }

    /// The same key, whose changes `mtd reload` applies.
    #[must_use]
    pub const fn reloading(self) -> Self {
        Self { reloads: true, ..self }
    }
}

/// The keys of one kind of table.
#[derive(Debug)]
pub struct Schema {
    /// The header of such a table; empty for the root.
    pub header: &'static str,
    /// Prefix of the keys' names in messages.
    pub path: &'static str,
    /// The purpose of the table, in whole sentences.
    pub help: &'static str,
    /// Its keys, in groups that different rooms define.
    pub groups: &'static [&'static [Key]],
}

impl Schema {
    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.groups.iter().copied().flatten()
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// The name of the table; empty for the root.
    pub fn name(&self) -> &'static str {
        self.path.trim_end_matches('.')
    }

    /// Whether there can be several such tables.
    pub fn is_list(&self) -> bool {
        self.header.starts_with("[[")
    }
}

/// All kinds of tables that a file can have.
#[derive(Debug)]
pub struct Format {
    /// The text above the first table.
    pub root: &'static Schema,
    /// The tables.
    pub tables: &'static [&'static Schema],
}

impl Format {
    /// The root and the tables.
    pub fn schemas(&self) -> impl Iterator<Item = &'static Schema> + use<> {
        std::iter::once(self.root).chain(self.tables.iter().copied())
    }

    /// The names that can occur in a table: its keys, and for the root also the tables.
    pub fn names(&self, schema: &'static Schema) -> impl Iterator<Item = &'static str> + use<> {
        let tables = if schema.header.is_empty() { self.tables } else { &[] };
        schema.keys().map(|key| key.name).chain(tables.iter().map(|table| table.name()))
    }

    /// Whether this name can occur in a table.
    pub fn has(&self, schema: &'static Schema, name: &str) -> bool {
        self.names(schema).any(|known| known == name)
    }

    /// Whether `mtd reload` applies a change of this setting, such as `mtu`, `listen.period` or `client.tablet.address`.
    pub fn reloads(&self, setting: &str) -> bool {
        let Some((table, rest)) = setting.split_once('.') else {
            return match self.tables.iter().find(|schema| schema.name() == setting) {
                // The table itself was added or removed.
                Some(table) => table.keys().all(|key| key.reloads),
                None => self.root.key(setting).is_some_and(|key| key.reloads),
            };
        };
        let Some(table) = self.tables.iter().find(|schema| schema.name() == table) else { return false };
        // The name of one of several tables comes first, and may contain dots.
        let key = if table.is_list() { rest.rsplit_once('.').map_or(rest, |(_, key)| key) } else { rest };
        table.key(key).is_some_and(|key| key.reloads)
    }
}

#[cfg(test)]
mod tests;
