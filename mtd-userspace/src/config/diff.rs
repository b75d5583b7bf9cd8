//! The differences between two versions of a configuration file, key by key.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::{ConfigError, read_text};

use crate::model::Fault;

/// The settings of a file as they are written: `mtu`, `listen.period`, `peer.laptop.seed`, …, each with its value in TOML.
/// They contain no secrets, which are in files of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, String>);

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key with the names of its tables.
    pub key: String,
    /// The value before, in TOML; `None`: the key was missing.
    pub before: Option<String>,
    /// The value after, in TOML; `None`: the key is missing now.
    pub after: Option<String>,
}

impl Written {
    /// Reads a file. It should be a configuration that [`super::Config::read`] accepts.
    ///
    /// # Errors
    /// When it cannot be read, or is not TOML.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = read_text(path).map_err(|fault| ConfigError::of_file(&origin, fault))?;
        Self::parse(&text, &origin)
    }

    /// Reads a text, which errors call `origin`.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let of_file = |fault| ConfigError::of_file(origin, fault);
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            of_file(Fault::new(error.message(), "correct the TOML; `mtd check` shows the place"))
        })?;
        Ok(Self::of(&table))
    }

    fn of(table: &Table) -> Self {
        let mut settings = BTreeMap::new();
        flatten(String::new(), table, &mut settings);
        Self(settings)
    }

    /// The changes that turn these settings into the others, in the order of the keys.
    pub fn changes(&self, others: &Self) -> Vec<Change> {
        let mut keys: Vec<_> = self.0.keys().chain(others.0.keys()).collect();
        keys.sort();
        keys.dedup();
        let change = |key: &String| {
            let (before, after) = (self.0.get(key), others.0.get(key));
            (before != after).then(|| Change {
                key: key.clone(),
                before: before.cloned(),
                after: after.cloned(),
            })
        };
        keys.into_iter().filter_map(change).collect()
    }

    /// Makes one change.
    pub fn apply(&mut self, change: &Change) {
        match &change.after {
            Some(value) => self.0.insert(change.key.clone(), value.clone()),
            None => self.0.remove(&change.key),
        };
    }
}

fn flatten(path: String, table: &Table, settings: &mut BTreeMap<String, String>) {
    let inside = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in table {
        match value {
            Value::Table(table) => flatten(inside(key), table, settings),
            Value::Array(tables) if tables.iter().any(Value::is_table) => {
                for (nth, value) in tables.iter().enumerate() {
                    let Value::Table(table) = value else { continue };
                    // By name: a table that is inserted before others does not change their settings.
                    let name = table.get("name").and_then(Value::as_str);
                    let name = name.map_or_else(|| nth.to_string(), str::to_owned);
                    flatten(format!("{}.{name}", inside(key)), table, settings);
                }
            }
            value => {
                settings.insert(inside(key), value.to_string());
            }
        }
    }
    if table.is_empty() {
        settings.insert(path, "{}".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Written {
        Written::of(&text.parse().unwrap())
    }

    const BEFORE: &str = "mtu = 1400\nprefix = [\"2001:db8::/64\"]\n[listen]\n\
                          [[peer]]\nname = \"a\"\nseed = \"::1\"\n[[peer]]\nname = \"b\"\nseed = \"::2\"\n";

    #[test]
    fn what_is_the_same_is_no_change_whatever_its_order() {
        let other = "prefix = ['2001:db8::/64']\nmtu = 1_400\nlisten = {}\n\
                     [[peer]]\nseed = \"::2\"\nname = \"b\"\n[[peer]]\nname = \"a\"\nseed = \"::1\"\n";
        assert_eq!(settings(BEFORE).changes(&settings(other)), []);
    }

    #[test]
    fn each_change_is_told_with_both_values() {
        let mut before = settings(BEFORE);
        let after = settings(
            "mtu = 1300\nhorizon = \"9s\"\nprefix = [\"2001:db8::/64\"]\n[[peer]]\nname = \"b\"\nseed = \"::3\"\n",
        );
        let changes = before.changes(&after);
        let told: Vec<_> = changes
            .iter()
            .map(|c| (c.key.as_str(), c.before.as_deref().unwrap_or("-"), c.after.as_deref().unwrap_or("-")))
            .collect();
        assert_eq!(
            told,
            [
                ("horizon", "-", "\"9s\""),
                ("listen", "{}", "-"),
                ("mtu", "1400", "1300"),
                ("peer.a.name", "\"a\"", "-"),
                ("peer.a.seed", "\"::1\"", "-"),
                ("peer.b.seed", "\"::2\"", "\"::3\""),
            ]
        );
        for change in &changes {
            before.apply(change);
        }
        assert_eq!(before, after);
    }
}
