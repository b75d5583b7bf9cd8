//! Output for people: sections, tables, units, a few colours.

use std::collections::BTreeMap;
use std::env;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use mtd_common::DropReason;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    coloured: bool,
}

impl Style {
    /// With colours if standard output is a terminal that supports them and `NO_COLOR` is not set.
    pub(super) fn of_stdout() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let unknown = env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { coloured: io::stdout().is_terminal() && !unwanted && !unknown }
    }

    /// With or without colours.
    #[cfg(test)]
    pub(super) fn new(coloured: bool) -> Self {
        Self { coloured }
    }

    /// A title.
    pub(super) fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Text that should catch the operator's eye.
    pub(super) fn hint(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A title, and below it rows of `label: value` with aligned values.
#[derive(Debug)]
pub(super) struct Section {
    style: Style,
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    label: &'static str,
    value: String,
    is_hint: bool,
}

impl Section {
    /// A section without rows.
    pub(super) fn new(style: Style, title: impl Into<String>) -> Self {
        Self { style, title: title.into(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, label: &'static str, value: impl Display) {
        self.rows.push(Row { label, value: value.to_string(), is_hint: false });
    }

    /// Adds a row with the hint, if there is one; it stands out.
    pub(super) fn hint(&mut self, hint: Option<&str>) {
        self.rows.extend(hint.map(|hint| Row { label: "hint", value: hint.to_owned(), is_hint: true }));
    }

    /// Adds a row with a warning; it stands out.
    pub(super) fn warning(&mut self, text: &str) {
        self.rows.push(Row { label: "warning", value: text.to_owned(), is_hint: true });
    }

    /// The section as lines.
    pub(super) fn render(&self) -> String {
        let width = self.rows.iter().map(|row| row.label.len()).max().unwrap_or(0) + ":".len();
        let mut text = self.style.heading(&self.title);
        text.push('\n');
        for Row { label, value, is_hint } in &self.rows {
            let row = format!("{:width$} {value}", format!("{label}:"));
            let row = if *is_hint { self.style.hint(&row) } else { row };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {row}");
        }
        text
    }
}

/// Reasons and counts, the most frequent one first.
pub(super) fn by_count(drops: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut sorted: Vec<_> = drops.iter().map(|(reason, &count)| (reason.as_str(), count)).collect();
    sorted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    sorted
}

/// A title and the table of drop reasons: name, count, meaning; the most frequent one first.
pub(super) fn drop_table(style: Style, title: &str, drops: &BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return format!("{} none\n", style.heading(&format!("{title}:")));
    }
    let rows = by_count(drops);
    let names = rows.iter().map(|(reason, _)| reason.len()).max().unwrap_or(0).max("reason".len());
    let counts = rows.iter().map(|(_, count)| count.to_string().len()).max().unwrap_or(0).max("count".len());
    let mut text = style.heading(&format!("{title}:"));
    let _ = writeln!(text, "\n  {:names$}  {:>counts$}  meaning", "reason", "count");
    for (reason, count) in rows {
        let _ = writeln!(text, "  {reason:names$}  {count:>counts$}  {}", meaning(reason));
    }
    text
}

/// A title, and below it a table with aligned columns; without rows, the title followed by `none`.
pub(super) fn table<const N: usize>(
    style: Style,
    title: &str,
    columns: [&str; N],
    rows: Vec<[String; N]>,
) -> String {
    let heading = style.heading(&format!("{title}:"));
    if rows.is_empty() {
        return format!("{heading} none\n");
    }
    let mut lines = vec![columns.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = heading + "\n";
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// The items separated by commas, or a hyphen if there are none.
pub(super) fn list_or_dash<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// The meaning of a drop reason. A controller may be newer than this program, and count reasons unknown to it.
fn meaning(name: &str) -> &'static str {
    let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
    reason.map_or("(unknown to this version of mtd)", |reason| reason.help())
}

/// A number of bytes in the largest binary unit that does not exceed it.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let unit = count.ilog2() / 10;
    format!("{:.2} {}", count as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit as usize - 1])
}

/// A span of time, given in seconds, in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    // It can be negative if clocks disagree.
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if whole == 0 => "less than 1 s".to_owned(),
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Writes to standard output. It is no error if the reader has closed the pipe, as in `mtd status | head -1`.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    quiet_if_unread(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Turns the error of a closed pipe into success.
///
/// # Errors
/// Any other failure to write.
pub(super) fn quiet_if_unread(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_536, "1.50 KiB"),
            (1 << 20, "1.00 MiB"),
            ((1 << 30) + (1 << 29), "1.50 GiB"),
            (u64::MAX, "16.00 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn spans_have_two_units() {
        let cases = [
            (-1.0, "less than 1 s"),
            (f64::NAN, "less than 1 s"),
            (0.9, "less than 1 s"),
            (2.7, "2 s"),
            (60.0, "1 min 0 s"),
            (3_599.0, "59 min 59 s"),
            (3_660.0, "1 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn values_of_a_section_are_aligned_and_hints_stand_out() {
        let fill = |style| {
            let mut section = Section::new(style, "peer: office");
            section.hint(Some("look"));
            section.hint(None);
            section.row("clock offset", "1 s");
            section.render()
        };
        assert_eq!(fill(Style::new(false)), "peer: office\n  hint:         look\n  clock offset: 1 s\n");
        assert_eq!(
            fill(Style::new(true)),
            "\x1b[1mpeer: office\x1b[0m\n  \x1b[33mhint:         look\x1b[0m\n  clock offset: 1 s\n"
        );
    }

    #[test]
    fn the_table_of_drops_is_sorted_by_count_and_says_what_they_mean() {
        let drops = [("bad_tag", 7), ("unknown_address", 1_234_567), ("from_the_future", 8)];
        let drops = drops.map(|(name, count)| (name.to_owned(), count)).into();
        let table = drop_table(Style::new(false), "dropped packets", &drops);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "dropped packets:");
        assert_eq!(lines[1], "  reason             count  meaning");
        assert!(lines[2].starts_with("  unknown_address  1234567  No session has this address"), "{table}");
        assert_eq!(lines[3], "  from_the_future        8  (unknown to this version of mtd)");
        assert!(lines[4].starts_with("  bad_tag                7  Authentication failed"), "{table}");
        assert_eq!(lines.len(), 5);
        assert_eq!(
            drop_table(Style::new(false), "dropped packets", &BTreeMap::new()),
            "dropped packets: none\n"
        );
    }

    #[test]
    fn columns_of_a_table_are_aligned() {
        let rows = vec![["a".to_owned(), "é".to_owned()], ["long".to_owned(), "x".to_owned()]];
        let text = table(Style::new(false), "peers", ["name", "key"], rows);
        assert_eq!(text, "peers:\n  name  key\n  a     é\n  long  x\n");
        assert_eq!(table(Style::new(false), "peers", ["name"], Vec::new()), "peers: none\n");
        assert_eq!((list_or_dash::<u8>(&[]), list_or_dash(&[1, 2])), ("-".to_owned(), "1,2".to_owned()));
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        assert!(quiet_if_unread(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let error = quiet_if_unread(Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(error.to_string(), "cannot write to standard output");
    }
}
