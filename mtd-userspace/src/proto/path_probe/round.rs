//! A round of probes: several sizes, tried a few times.

use super::{LEAST, MAX_PROBES, SHORT};
use crate::model::BootNs;

/// Tries without any answer after which a round is given up.
const MAX_SILENT: u8 = 3;

/// Sizes that a search begins with: what usual links and tunnels carry.
const USUAL: [u32; 9] = [LEAST, 1320, 1352, 1400, 1420, 1440, 1460, 1480, 1492];

/// As many sizes, the one in use among them, missing in one try while all shorter ones are answered are hardly missing by
/// chance: the traffic need not wait for the last try. (The search that follows finds out if they were.)
const CLEAR: usize = 2;

/// Sizes between two limits that are tried at once.
const BETWEEN: u32 = 7;

/// What becomes of a round when the time for answers is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What is missing is asked once more.
    Again,
    /// Nothing at all is answered.
    Unanswered,
    /// What is missing by now is too long.
    Done,
}

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whether the peer answers at all: nothing but the short probe.
    Short,
    /// Whether the size in use still arrives: in the first try it is asked alone …
    Confirm,
    /// … and then, since it was not answered, with others.
    Doubt,
    /// What the path carries.
    Search,
    /// The same; if nothing more is found, the search is over.
    Last,
}

/// See the module's documentation.
pub(super) struct Round {
    pub(super) kind: Kind,
    /// The longest size that was answered.
    pub(super) low: u32,
    /// The shortest size that is known to fail.
    pub(super) high: u32,
    /// The sizes that are asked, ascending; those that were answered, and all below, are gone.
    pub(super) sizes: Vec<u32>,
    /// When it was last asked.
    pub(super) asked: BootNs,
    /// Tries in a row without any answer.
    pub(super) silent: u8,
    tries: u8,
    /// The short probe of this try was answered.
    short: bool,
}

impl Round {
    const fn new(kind: Kind, low: u32, high: u32, sizes: Vec<u32>) -> Self {
        Self { kind, low, high, sizes, asked: BootNs::NEVER, silent: 0, tries: 0, short: false }
    }

    /// A round of [`Kind::Short`].
    pub(super) const fn short() -> Self {
        Self::new(Kind::Short, 0, 0, Vec::new())
    }

    /// The first round of a search above `known` (0: nothing is known). Most paths carry what the interface carries.
    pub(super) fn search(known: u32, most: u32) -> Self {
        let sizes = if known < LEAST { vec![most] } else { between(known, most + 1, most) };
        Self::new(Kind::Search, if known < LEAST { 0 } else { known }, most + 1, sizes)
    }

    /// Whether the size in use still arrives.
    pub(super) fn confirm(size: u32) -> Self {
        Self::new(Kind::Confirm, 0, size + 1, vec![size])
    }

    /// Whether a router is right that says `size`: then it is answered, and nothing longer is.
    pub(super) fn told(size: u32, most: u32) -> Self {
        let mut sizes = vec![size, (size + 1).min(most), most];
        sizes.dedup();
        Self::new(Kind::Last, 0, most + 1, sizes)
    }

    /// Goes on between these limits; `most` is what the interface carries.
    pub(super) fn narrow(low: u32, high: u32, most: u32) -> Self {
        let sizes = match high - low {
            _ if low < LEAST => USUAL.into_iter().filter(|size| *size < high).collect(),
            1 => vec![high],
            _ => between(low, high, most),
        };
        let kind = if high - low == 1 { Kind::Last } else { Kind::Search };
        Self::new(kind, low, high, sizes)
    }

    /// Whether this is about the size in use.
    pub(super) const fn checks(&self) -> bool {
        matches!(self.kind, Kind::Confirm | Kind::Doubt)
    }

    /// The sizes of the next try. The short one is the last: if that gets through the other end's limit on control messages,
    /// those before it have.
    pub(super) fn ask(&mut self) -> Vec<u32> {
        self.short = false;
        // While nothing is answered, the short one has to do.
        let mut sizes = if self.silent == 0 { self.sizes.clone() } else { Vec::new() };
        if self.kind != Kind::Confirm {
            sizes.push(SHORT);
        }
        sizes
    }

    /// A probe of this size was answered. Returns whether nothing is left to ask.
    pub(super) fn take_answer(&mut self, size: u32) -> bool {
        if size == SHORT {
            self.short = true;
            if self.silent > 0 {
                // The others go out again at once.
                (self.silent, self.asked) = (0, BootNs::NEVER);
            }
            return self.kind == Kind::Short;
        }
        if self.kind == Kind::Short {
            return false;
        }
        self.low = self.low.max(size);
        self.sizes.retain(|asked| *asked > size);
        self.sizes.is_empty()
    }

    /// The time for answers is over.
    pub(super) fn time_out(&mut self) -> Verdict {
        if self.kind == Kind::Confirm {
            // The size in use was not answered: by chance, or the path has changed. The search for what it carries now
            // begins at the same time, since the traffic waits.
            (self.kind, self.tries) = (Kind::Doubt, 1);
            let size = self.high - 1;
            self.sizes = USUAL.into_iter().filter(|usual| *usual < size).chain([size]).collect();
            return Verdict::Again;
        }
        if !self.short {
            self.silent += 1;
            return if self.silent >= MAX_SILENT { Verdict::Unanswered } else { Verdict::Again };
        }
        self.silent = 0;
        self.tries += 1;
        let clear = self.checks() && self.low >= LEAST && self.sizes.len() >= CLEAR;
        if clear || self.tries >= MAX_PROBES { Verdict::Done } else { Verdict::Again }
    }
}

/// Sizes between two limits, evenly; and `most`, if the upper limit is above it.
fn between(low: u32, high: u32, most: u32) -> Vec<u32> {
    let count = BETWEEN.min(high - low - 1);
    let mut sizes: Vec<_> = (1..=count).map(|n| low + (high - low) * n / (count + 1)).collect();
    if high > most && sizes.last() != Some(&most) && most > low {
        sizes.push(most);
    }
    sizes
}
