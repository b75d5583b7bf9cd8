//! One table of the file: typed access to its keys, with the place of each value.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::problems::{Problems, nearest};
use super::{Format, Key, Kind, Schema, values};
use crate::model::{Fault, shown};

/// A value and its place in the text.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The byte at which it begins.
    pub at: usize,
}

impl<T> Located<T> {
    /// Another value in the same place.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: convert(self.value), at: self.at }
    }
}

/// One table of the file.
#[derive(Debug)]
pub struct Section<'a, 'i> {
    format: &'static Format,
    table: &'a DeTable<'i>,
    schema: &'static Schema,
    /// The place of the table, for problems about missing keys.
    at: usize,
}

impl<'a, 'i> Section<'a, 'i> {
    /// Takes the table and reports the keys that are not in the schema.
    pub fn new(
        (table, at): (&'a DeTable<'i>, usize),
        schema: &'static Schema,
        format: &'static Format,
        problems: &mut Problems<'_>,
    ) -> Self {
        let section = Self { format, table, schema, at };
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !format.has(schema, name) {
                let fault = unknown_key(name, schema, format);
                problems.add(key.span().start, section.name(&shown(name)), fault);
            }
        }
        section
    }

    /// The place of the table.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The name of a key in messages.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.schema.path)
    }

    /// The value of `key` as `convert` makes it; `None` when there is none or a problem has been reported.
    pub fn optional<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        self.convert(key, problems, |value| match value {
            DeValue::String(text) => convert(text),
            other => Err(self.wrong_type(key, other, "a string")),
        })
    }

    /// As [`Section::optional`]; a whole number is converted as text in decimal digits.
    pub fn text_or_number<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        self.convert(key, problems, |value| match value {
            DeValue::String(text) => convert(text),
            DeValue::Integer(digits) => {
                let number = i128::from_str_radix(digits.as_str(), digits.radix());
                convert(&number.map_or_else(|_| digits.to_string(), |number| number.to_string()))
            }
            other => Err(self.wrong_type(key, other, "a string or a whole number")),
        })
    }

    /// As [`Section::optional`], but a missing key is a problem.
    pub fn required<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        self.check_present(key, problems);
        self.optional(key, problems, convert)
    }

    /// The choice that the word of `key` stands for.
    pub fn choice<T: Copy>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        value(self.optional(key, problems, |text| values::choice(text, choices)))
    }

    /// The duration of `key`, which must be in the range of the schema.
    pub fn duration(&self, key: &str, problems: &mut Problems<'_>) -> Option<Located<Duration>> {
        let Some(&Key { kind: Kind::Duration(least, most), .. }) = self.schema.key(key) else {
            unreachable!("the schema says that {key} is a duration")
        };
        self.optional(key, problems, |text| values::duration(text, (least, most)))
    }

    /// The whole number of `key`, which must be in the range of the schema.
    pub fn integer(&self, key: &str, problems: &mut Problems<'_>) -> Option<Located<u32>> {
        let Some(&Key { kind: Kind::Integer(least, most), .. }) = self.schema.key(key) else {
            unreachable!("the schema says that {key} is a whole number")
        };
        self.convert(key, problems, |value| match value {
            DeValue::Integer(digits) => u32::from_str_radix(digits.as_str(), digits.radix())
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| {
                    let what = format!("{} is out of range", shown(&digits.to_string()));
                    Fault::new(what, format!("write a whole number from {least} to {most}"))
                }),
            other => Err(self.wrong_type(key, other, "a whole number")),
        })
    }

    /// The truth value of `key`.
    pub fn boolean(&self, key: &str, problems: &mut Problems<'_>) -> Option<Located<bool>> {
        self.convert(key, problems, |value| match value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(self.wrong_type(key, other, "true or false")),
        })
    }

    /// Whether there is a value of `key`, good or bad.
    pub fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The place of the value of `key`, if it is this single word.
    pub fn word(&self, key: &str, word: &str) -> Option<usize> {
        let value = self.table.get(key)?;
        matches!(value.get_ref(), DeValue::String(text) if *text == word).then(|| value.span().start)
    }

    /// As [`Section::optional_list`], but a missing key is a problem.
    pub fn list<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<Located<T>> {
        self.check_present(key, problems);
        self.optional_list(key, problems, convert)
    }

    /// As [`Section::strings`], but an empty list is a problem.
    pub fn optional_list<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<Located<T>> {
        if let Some(value) = self.table.get(key)
            && value.get_ref().as_array().is_some_and(|elements| elements.is_empty())
        {
            let fault = Fault::new("is an empty list", format!("put in at least one: {}", self.example(key)));
            problems.add(value.span().start, self.name(key), fault);
        }
        self.strings(key, problems, convert)
    }

    /// The strings of `key`, a list or a single string, as `convert` makes them; those with a problem are left out.
    pub fn strings<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<Located<T>> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let elements = match value.get_ref() {
            DeValue::Array(elements) => elements.iter().as_slice(),
            _ => std::slice::from_ref(value),
        };
        let mut converted = Vec::new();
        for element in elements {
            let at = element.span().start;
            let result = match element.get_ref() {
                DeValue::String(text) => convert(text),
                other => Err(self.wrong_type(key, other, "a string")),
            };
            match result {
                Ok(value) => converted.push(Located { value, at }),
                Err(fault) => problems.add(at, self.name(key), fault),
            }
        }
        converted
    }

    /// The table under `[key]`.
    pub fn table(&self, key: &str, schema: &'static Schema, problems: &mut Problems<'_>) -> Option<Self> {
        let value = self.table.get(key)?;
        let at = value.span().start;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Section::new((table, at), schema, self.format, problems));
        }
        let what = format!("is {}, not a table", with_article(value.get_ref()));
        let remedy = format!("begin it with one line {}, in single brackets", schema.header);
        problems.add(at, self.name(key), Fault::new(what, remedy));
        None
    }

    /// The tables under `[[key]]`.
    pub fn tables(&self, key: &str, schema: &'static Schema, problems: &mut Problems<'_>) -> Vec<Self> {
        let tables = self.list_of_tables(key, problems);
        tables.into_iter().map(|table| Section::new(table, schema, self.format, problems)).collect()
    }

    fn list_of_tables(&self, key: &str, problems: &mut Problems<'_>) -> Vec<(&'a DeTable<'i>, usize)> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let mut tables = Vec::new();
        let mut wrong = |at, other: &DeValue| {
            let what = format!("is {}, not a list of tables", with_article(other));
            let remedy = format!("begin each one with a line [[{key}]], in double brackets");
            problems.add(at, self.name(key), Fault::new(what, remedy));
        };
        match value.get_ref() {
            DeValue::Array(elements) => {
                for element in elements {
                    match element.get_ref() {
                        DeValue::Table(table) => tables.push((table, element.span().start)),
                        other => wrong(element.span().start, other),
                    }
                }
            }
            other => wrong(value.span().start, other),
        }
        tables
    }

    fn convert<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        convert: impl FnOnce(&DeValue<'i>) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        let value = self.table.get(key)?;
        let at = value.span().start;
        match convert(value.get_ref()) {
            Ok(value) => Some(Located { value, at }),
            Err(fault) => {
                problems.add(at, self.name(key), fault);
                None
            }
        }
    }

    fn check_present(&self, key: &str, problems: &mut Problems<'_>) {
        if !self.table.contains_key(key) {
            let fault = Fault::new("is missing", format!("add a line such as {}", self.example(key)));
            problems.add(self.at, self.name(key), fault);
        }
    }

    fn wrong_type(&self, key: &str, value: &DeValue, wanted: &str) -> Fault {
        let what = format!("is {}, not {wanted}", with_article(value));
        Fault::new(what, format!("write it like {}", self.example(key)))
    }

    fn example(&self, key: &str) -> String {
        let value = self.schema.key(key).map_or("…", |key| key.example);
        format!("{key} = {value}")
    }
}

fn unknown_key(name: &str, schema: &'static Schema, format: &'static Format) -> Fault {
    let places: Vec<&str> =
        format.schemas().filter(|other| format.has(other, name)).map(|other| other.header).collect();
    match places.as_slice() {
        [] => {}
        ["", ..] => {
            let header = schema.header;
            let place =
                format!("move it above the first line in brackets: lines below {header} belong to it");
            return Fault::new("unknown key here", place);
        }
        headers => {
            let place = format!("move it below a line {}, where it belongs", headers.join(" or "));
            return Fault::new("unknown key here", place);
        }
    }
    let remedy = if let Some(known) = nearest(name, format.names(schema)) {
        format!("did you mean {known}?")
    } else {
        let known: Vec<_> = format.names(schema).collect();
        format!("remove it; the keys known here are {}", known.join(", "))
    };
    Fault::new("unknown key", remedy)
}

fn with_article(value: &DeValue) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// The value alone.
pub fn unlocated<T>(located: Located<T>) -> T {
    located.value
}

/// The value alone, if there is one.
pub fn value<T>(located: Option<Located<T>>) -> Option<T> {
    located.map(unlocated)
}

/// The value alone, or the default of its type.
pub fn value_or_default<T: Default>(located: Option<Located<T>>) -> T {
    value(located).unwrap_or_default()
}
