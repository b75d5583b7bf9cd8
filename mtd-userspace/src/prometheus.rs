//! The text format of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// The type of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A value that only grows, and begins at 0 when the process starts.
    Counter,
    /// A value that goes up and down.
    Gauge,
}

/// The text of an exposition, to which families of samples are added.
#[derive(Default)]
pub struct Text(String);

/// The samples of one metric.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a metric, to which samples are added.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help, &['\\', '\n']));
        Family { text: &mut self.0, name }
    }

    /// A metric with one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// A counter with a sample for each reason. The reasons are names in the code, never data from the network.
    pub fn by_reason(&mut self, name: &'static str, help: &str, counts: &BTreeMap<String, u64>) {
        let mut family = self.family(name, Kind::Counter, help);
        for (reason, count) in counts {
            family.sample(&[("reason", reason)], *count);
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample. The value is a number.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value, &['\\', '\n', '"']));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            c if special.contains(&c) => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_type_and_samples() {
        let mut text = Text::default();
        text.single("up", Kind::Gauge, "Whether \\ it\nruns.", 0.5);
        let mut family = text.family("lost_total", Kind::Counter, "So many.");
        family.sample(&[("why", "a \"b\" \\ c\nd"), ("who", "e")], u64::MAX);
        assert_eq!(
            text.finish(),
            "# HELP up Whether \\\\ it\\nruns.\n# TYPE up gauge\nup 0.5\n# HELP lost_total So many.\n\
             # TYPE lost_total counter\nlost_total{why=\"a \\\"b\\\" \\\\ c\\nd\",who=\"e\"} 18446744073709551615\n"
        );
    }
}
