//! Introductions in a file: the same sealed messages as in the DHT, carried by hand or by any web server. Whoever reads the
//! file and is not the client that it is for learns only for which windows it is.
//!
//! The text has a line `mtd-introduction 1 N`, N being the length of a window in s, and then a line for each window: its
//! start (Unix time in s) and the sealed introduction in base64. Empty lines and those that begin with `#` are ignored.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{SEALED_BYTES, WINDOWS};

/// Longest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 256 << 10;

/// Largest number of introductions in a file.
pub const MAX_INTRODUCTIONS: usize = 1024;

/// The first word of a file.
const MAGIC: &str = "mtd-introduction";

/// Version of the format.
const VERSION: u32 = 1;

/// Longest line, in bytes.
const MAX_LINE: usize = 512;

/// Sealed introductions of one server for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Length of a window in s.
    pub window: u64,
    /// The sealed introductions, by the starts of their windows (Unix time in s).
    pub sealed: BTreeMap<u64, [u8; SEALED_BYTES]>,
}

impl Carried {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CarriedError`] for everything that [`Self::to_text`] does not write.
    pub fn parse(text: &[u8]) -> Result<Self, CarriedError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(CarriedError::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| CarriedError::Foreign)?;
        let lines = (1..).zip(text.lines().map(str::trim_end));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let window = lines.next().map_or(Err(CarriedError::Empty), |(_, line)| head(line))?;
        let mut sealed = BTreeMap::new();
        for (number, line) in lines {
            let broken = || CarriedError::Line(number);
            let (start, message) = item(line).ok_or_else(broken)?;
            if start % window != 0 || sealed.insert(start, message).is_some() {
                return Err(broken());
            }
            if sealed.len() > MAX_INTRODUCTIONS {
                return Err(CarriedError::TooLarge);
            }
        }
        if sealed.is_empty() { Err(CarriedError::Empty) } else { Ok(Self { window, sealed }) }
    }

    /// The content of a file.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC} {VERSION} {}\n", self.window);
        for (start, message) in &self.sealed {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{start} {}", BASE64_STANDARD.encode(message));
        }
        text
    }

    /// End of the last window, Unix time in s: from then on the file is of no use, but for the server's time of grace.
    pub fn end(&self) -> u64 {
        self.sealed.last_key_value().map_or(0, |(start, _)| start.saturating_add(self.window))
    }
}

/// The length of a window, from the first line.
fn head(line: &str) -> Result<u64, CarriedError> {
    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(CarriedError::Foreign);
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(CarriedError::Foreign)?;
    if version != VERSION {
        return Err(CarriedError::Version(version));
    }
    let window = words.next().and_then(|word| word.parse().ok()).filter(|window| WINDOWS.contains(window));
    window.filter(|_| words.next().is_none()).ok_or(CarriedError::Foreign)
}

fn item(line: &str) -> Option<(u64, [u8; SEALED_BYTES])> {
    let (start, message) = line.split_once(' ').filter(|_| line.len() <= MAX_LINE)?;
    Some((start.parse().ok()?, BASE64_STANDARD.decode(message).ok()?.try_into().ok()?))
}

/// Reasons why a file is not one with introductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarriedError {
    /// It is not one at all.
    #[error("it is not a file of `mtd introduction`")]
    Foreign,
    /// It has no introductions.
    #[error("there is no introduction in it")]
    Empty,
    /// It has too many bytes or introductions.
    #[error("it is larger than any file of `mtd introduction`")]
    TooLarge,
    /// It was written in another version of the format.
    #[error("it has version {0} of the format, this program knows version {VERSION}")]
    Version(u32),
    /// This line is broken.
    #[error("its line {0} is broken: it was changed or cut off on the way")]
    Line(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn carried(windows: &[u64]) -> Carried {
        let message = |start: &u64| (*start, [*start as u8; SEALED_BYTES]);
        Carried { window: 900, sealed: windows.iter().map(message).collect() }
    }

    #[test]
    fn what_is_written_is_read() {
        let carried = carried(&[1_800_000_000, 1_800_000_900]);
        let text = carried.to_text();
        assert!(text.starts_with("mtd-introduction 1 900\n1800000000 "));
        assert_eq!(Carried::parse(text.as_bytes()), Ok(carried.clone()));
        assert_eq!(carried.end(), 1_800_001_800);
        let decorated = format!("# by hand\r\n\n{}", text.replace('\n', "\r\n"));
        assert_eq!(Carried::parse(decorated.as_bytes()), Ok(carried));
    }

    #[test]
    fn what_is_no_such_file_is_said() {
        let good = carried(&[900]).to_text();
        let line = good.lines().nth(1).unwrap();
        for (text, error) in [
            (String::new(), CarriedError::Empty),
            ("mtd-introduction 1 900\n".to_owned(), CarriedError::Empty),
            ("<!DOCTYPE html>".to_owned(), CarriedError::Foreign),
            (good.replace("1 900", "1 59"), CarriedError::Foreign),
            (good.replace("1 900", "1 900 7"), CarriedError::Foreign),
            (good.replace("1 900", "2 900"), CarriedError::Version(2)),
            (good.replace("\n900 ", "\n901 "), CarriedError::Line(2)),
            (good[..good.len() - 3].to_owned(), CarriedError::Line(2)),
            (format!("{good}{line}\n"), CarriedError::Line(3)),
            (" ".repeat(MAX_FILE_BYTES + 1), CarriedError::TooLarge),
        ] {
            assert_eq!(Carried::parse(text.as_bytes()), Err(error), "{}", &text[..text.len().min(80)]);
        }
        assert_eq!(Carried::parse(&[0xff, 0xfe]), Err(CarriedError::Foreign));
        let many: Vec<_> = (0..=MAX_INTRODUCTIONS as u64).map(|n| n * 900).collect();
        assert_eq!(Carried::parse(carried(&many).to_text().as_bytes()), Err(CarriedError::TooLarge));
        let most = carried(&many[1..]).to_text();
        assert!(Carried::parse(most.as_bytes()).is_ok() && most.len() < MAX_FILE_BYTES);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(mut bytes in any::<Vec<u8>>(), changes in any::<Vec<(u16, u8)>>()) {
            let _ = Carried::parse(&bytes);
            // Files that are nearly right.
            bytes = carried(&[900, 1800]).to_text().into_bytes();
            for (at, byte) in changes.into_iter().take(3) {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            if let Ok(read) = Carried::parse(&bytes) {
                prop_assert_eq!(Carried::parse(read.to_text().as_bytes()), Ok(read));
            }
        }
    }
}
