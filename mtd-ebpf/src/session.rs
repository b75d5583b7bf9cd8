//! The sessions, and the state that the programs keep of them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mtd_common::abi::{Session, SessionState};
use mtd_common::session_note::SessionNote;
use mtd_common::window::{WINDOW_WORDS, Word};
use mtd_common::{keystream, opaque};

use crate::atomic::Shared;

#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(1, 0);
#[map]
static SESSION_STATE: Array<SessionState> = Array::with_max_entries(1, MMAPABLE);
/// For controllers only: see [`mtd_common::session_note`].
#[map]
static SESSION_NOTES: Array<SessionNote> = Array::with_max_entries(1, 0);

/// `BPF_F_MMAPABLE`: the controller has the array in its own memory.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// The session at this index, if it has this generation.
#[inline(always)]
pub(crate) fn session(index: u32, generation: u32) -> Option<&'static Session> {
    SESSIONS.get(index).filter(|session| session.generation == generation && generation != 0)
}

/// The state that the programs keep of a session. Features add their methods beside their own code.
#[derive(Clone, Copy)]
pub(crate) struct State(pub(crate) *mut SessionState);

/// The state of a session.
#[inline(always)]
pub(crate) fn state(index: u32) -> Option<State> {
    SESSION_STATE.get_ptr_mut(index).map(State)
}

impl State {
    /// Takes the next sequence number.
    #[inline(always)]
    pub(crate) fn next_sequence(self) -> u64 {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).tx_sequence) }.fetch_add(1)
    }

    /// Counts an inner packet sent at `now` (boot time in ns). Returns whether it is time to request key stream.
    #[inline(always)]
    pub(crate) fn count_sent(self, bytes: usize, now: u64) -> bool {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let before = Shared::new(&raw mut (*self.0).tx_packets).fetch_add(1);
            Shared::new(&raw mut (*self.0).tx_bytes).fetch_add(bytes as u64);
            is_busy(before, Shared::new(&raw mut (*self.0).tx_turn), now)
        }
    }

    /// Counts an inner packet received at `now` (boot time in ns). Returns whether it is time to request key stream.
    #[inline(always)]
    pub(crate) fn count_received(self, bytes: usize, now: u64) -> bool {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let before = Shared::new(&raw mut (*self.0).rx_packets).fetch_add(1);
            Shared::new(&raw mut (*self.0).rx_bytes).fetch_add(bytes as u64);
            Shared::new(&raw mut (*self.0).rx_last_valid).store(now);
            is_busy(before, Shared::new(&raw mut (*self.0).rx_turn), now)
        }
    }

    /// The highest sequence number received.
    #[inline(always)]
    pub(crate) fn highest(self) -> Shared {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).rx_highest) }
    }

    /// A word of the sequence window.
    #[inline(always)]
    pub(crate) fn window_word(self, index: usize) -> Option<Shared> {
        let index = opaque::value(index);
        if index >= WINDOW_WORDS {
            return None;
        }
        // SAFETY: inside the window (checked), aligned by its type.
        Some(unsafe { Shared::new((&raw mut (*self.0).window).cast::<u64>().add(index)) })
    }
}

/// Whether it is this packet's turn, and the packets since the last turn came fast.
#[inline(always)]
fn is_busy(before: u64, turn: Shared, now: u64) -> bool {
    if !keystream::is_turn(before) {
        return false;
    }
    let last = Word::load(&turn);
    turn.store(now);
    keystream::is_busy(last, now)
}
