//! Text that one end writes for the people at the other end.

use std::fmt;

/// Longest text in bytes of UTF-8.
pub const MAX_TEXT: usize = 128;

/// A short text in one line, safe to be shown: without control characters, and without those that only change how others
/// look or in which order they are read. In their place there is a question mark, whoever made the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; MAX_TEXT],
    length: u8,
}

impl Text {
    /// No text.
    pub const NONE: Self = Self { bytes: [0; MAX_TEXT], length: 0 };

    /// This text, cut off at [`MAX_TEXT`].
    pub fn new(text: &str) -> Self {
        let mut safe = Self::NONE;
        for character in text.trim().chars() {
            let character = if is_safe(character) { character } else { '?' };
            let start = usize::from(safe.length);
            let end = start + character.len_utf8();
            let Some(room) = safe.bytes.get_mut(start..end) else { break };
            character.encode_utf8(room);
            safe.length = end as u8;
        }
        // Where it was cut off, too.
        safe.length = safe.as_str().trim_end().len() as u8;
        safe
    }

    /// Reads a text. `None`: it is not UTF-8, or too long.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MAX_TEXT).then(|| std::str::from_utf8(bytes).ok()).flatten().map(Self::new)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(used).unwrap_or_default()
    }
}

/// Whether a character shows as itself, and changes nothing around it: no control characters (Cc), no format characters (Cf)
/// such as those that turn the direction of writing, no separators of lines.
fn is_safe(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

impl Default for Text {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_short_and_changes_nothing_around_it() {
        assert_eq!(Text::new(" moved to gate 7 – ask Zoë ").as_str(), "moved to gate 7 – ask Zoë");
        let nasty = "a\x1b[31mred\r\nb\u{202e}txt.exe\u{0}\u{200b}";
        assert_eq!(Text::new(nasty).as_str(), "a?[31mred??b?txt.exe??");
        let long = "é".repeat(100);
        assert_eq!(Text::new(&long).as_str(), "é".repeat(64));
        assert_eq!(Text::new(&format!("x{long}")).as_str().len(), 127, "cut between characters");
        assert_eq!(Text::new(&format!("{} b", "a".repeat(127))).as_str(), "a".repeat(127));
        assert_eq!(Text::decode(b"\xff"), None);
        assert_eq!(Text::decode(long.as_bytes()), None);
        assert_eq!(Text::decode(nasty.as_bytes()), Some(Text::new(nasty)));
        assert_eq!(format!("{:?} {:>5}", Text::NONE, Text::new("ab")), "\"\"    ab");
    }
}
