//! Receiving: no sequence number is accepted twice.

use mtd_common::DropReason;
use mtd_common::window::{self, Word};

use crate::atomic::Shared;
use crate::session::State;

/// The place of a sequence number in the window of its session.
pub(crate) struct Mark {
    place: window::Place,
    word: Shared,
}

/// Checks that this sequence number was not accepted before; returns the place to mark.
#[inline(always)]
pub(crate) fn require_new(state: State, sequence: u64) -> Result<Mark, DropReason> {
    let place = window::place(sequence);
    let word = state.window_word(place.index).ok_or(DropReason::InvalidSequence)?;
    place.check(word.load(), state.highest().load())?;
    Ok(Mark { place, word })
}

impl Mark {
    /// Marks the number as used. To be called last: if a copy with a changed checksum or changed ECN bits comes first, it
    /// must not use the number up.
    #[inline(always)]
    pub(crate) fn set(&self, state: State) -> Result<(), DropReason> {
        self.place.mark(&self.word, &state.highest())
    }
}
