//! The result of one run of a program: what it returned, which counters and states changed, and whether it may have.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use mtd_common::DropReason;
use mtd_common::abi::SessionState;
use mtd_common::event::DropEvent;

use crate::harness::{TUNNEL_MAC, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use crate::inner::ethertype;
use crate::message::Message;

use mtd::model::Frames;

/// Source MAC address of opened packets.
const INSIDE_MAC: [u8; 6] = *b"\x02mtd\0\0";

/// The result of one run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    pub(crate) frame: Vec<u8>,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    /// Counts of packets that passed but would have been dropped if the policy were enforced.
    pub(crate) would_drop: BTreeMap<DropReason, u64>,
    pub(crate) frames: Frames,
    pub(crate) events: Vec<(DropEvent, DropReason)>,
    /// Records for the controller, as in the ring buffer.
    pub(crate) records: Vec<Vec<u8>>,
    /// Before and after.
    pub(crate) states: (Vec<SessionState>, Vec<SessionState>),
    /// Boot time in ns, before and after.
    pub(crate) time: (u64, u64),
}

impl Outcome {
    /// The result in one line.
    fn summary(&self) -> String {
        format!("verdict {}, drops {:?}, {:?}", self.verdict, self.drops, self.frames)
    }

    /// Checks that exactly these counters changed, and that no drop was reported.
    pub(crate) fn moved(&self, verdict: u32, frames: Frames) -> Result<()> {
        ensure!(self.verdict == verdict && self.frames == frames, "{}", self.summary());
        ensure!(self.drops.is_empty() && self.events.is_empty(), "drops beside: {}", self.summary());
        ensure!(self.would_drop.is_empty(), "counted as to be dropped: {:?}", self.would_drop);
        ensure!(self.records.len() as u64 == frames.control, "{} records", self.records.len());
        Ok(())
    }

    /// Checks that the state of all sessions is unchanged.
    pub(crate) fn left_sessions_alone(&self) -> Result<()> {
        ensure!(self.states.0 == self.states.1, "the state of a session changed");
        Ok(())
    }

    pub(crate) fn passed(&self, frame: &[u8]) -> Result<()> {
        self.moved(XDP_PASS, Frames { passed: 1, ..Frames::default() })?;
        self.left_sessions_alone()?;
        ensure!(self.frame == frame, "the frame was changed");
        Ok(())
    }

    /// Checks that the frame was dropped, and that the state of all sessions is unchanged.
    pub(crate) fn dropped(&self, verdict: u32, frame: &[u8], reason: DropReason) -> Result<()> {
        self.reported(verdict, frame, reason)?;
        ensure!(self.records.is_empty(), "a record of what was dropped");
        self.left_sessions_alone()
    }

    /// Checks that the frame was passed unchanged, and counted as one that would have been dropped.
    pub(crate) fn monitored(&self, frame: &[u8], reason: DropReason) -> Result<()> {
        ensure!(self.drops.is_empty(), "{}", self.summary());
        self.counted(XDP_PASS, frame, (reason, &self.would_drop))?;
        ensure!(self.events.iter().all(|(event, _)| event.passed == 1), "the event says that it was dropped");
        ensure!(self.frame == frame, "the frame was changed");
        ensure!(self.records.is_empty(), "a record of what was passed");
        self.left_sessions_alone()
    }

    /// Checks that the frame was passed unchanged because it is allowed.
    pub(crate) fn allowed(&self, frame: &[u8]) -> Result<()> {
        self.moved(XDP_PASS, Frames { allowed: 1, ..Frames::default() })?;
        ensure!(self.frame == frame, "the frame was changed");
        self.left_sessions_alone()
    }

    /// Checks that one drop was counted, and that there is one matching event, or one was suppressed.
    fn reported(&self, verdict: u32, frame: &[u8], reason: DropReason) -> Result<()> {
        ensure!(self.would_drop.is_empty(), "counted as to be dropped: {:?}", self.would_drop);
        ensure!(self.events.iter().all(|(event, _)| event.passed == 0), "the event says that it passed");
        self.counted(verdict, frame, (reason, &self.drops))
    }

    fn counted(
        &self,
        verdict: u32,
        frame: &[u8],
        (reason, counts): (DropReason, &BTreeMap<DropReason, u64>),
    ) -> Result<()> {
        ensure!(self.verdict == verdict && *counts == BTreeMap::from([(reason, 1)]), "{}", self.summary());
        let suppressed = 1 - self.events.len().min(1) as u64;
        ensure!(
            self.frames == Frames { events_suppressed: suppressed, ..Frames::default() }
                && self.events.len() < 2,
            "{} events, {}",
            self.events.len(),
            self.summary()
        );
        for (event, reported) in &self.events {
            ensure!(*reported == reason, "the event says {reported:?}");
            ensure!((self.time.0..=self.time.1).contains(&event.time), "time of the event");
            ensure!(event.length as usize == frame.len(), "length {} in the event", event.length);
        }
        Ok(())
    }

    /// Checks that the frame was opened: the inner packet with an Ethernet header for the tunnel device, all counters, and
    /// the mark in the window.
    pub(crate) fn accepted(&self, session: u32, sequence: u64, inner: &[u8]) -> Result<()> {
        let opened_ahead = self.frames.opened_ahead.min(1);
        self.moved(XDP_REDIRECT, Frames { accepted: 1, opened_ahead, ..Frames::default() })?;
        let expected = [&TUNNEL_MAC, INSIDE_MAC.as_slice(), &ethertype(inner), inner].concat();
        ensure!(self.frame == expected, "out came {:02x?} instead of {expected:02x?}", self.frame);
        self.received(session, Some(sequence), inner.len(), false)
    }

    /// Checks that a control message was handed only to the controller: its record, all counters, and the mark in the
    /// window if the session has one.
    pub(crate) fn diverted(&self, message: &Message) -> Result<()> {
        self.moved(XDP_DROP, Frames { control: 1, ..Frames::default() })?;
        message.require_record(&self.records[0], self.time)?;
        self.received(message.session, message.sequence, message.inner_len(), true)
    }

    /// Checks that a valid control message was dropped: the same as [`Outcome::diverted`], except that there is no record of
    /// it. There may be records of earlier messages.
    pub(crate) fn lost(&self, frame: &[u8], reason: DropReason, message: &Message) -> Result<()> {
        self.reported(XDP_DROP, frame, reason)?;
        let metered = reason != DropReason::ControlLimited;
        self.received(message.session, message.sequence, message.inner_len(), metered)
    }

    /// Checks that only this packet was counted for its session, that its number, if it has one, was marked as used, and
    /// that a control message inside a session was counted for that session's limit.
    fn received(&self, session: u32, sequence: Option<u64>, bytes: usize, metered: bool) -> Result<()> {
        let (mut model, after) = (self.states.0.clone(), &self.states.1);
        let state = &mut model[session as usize];
        state.rx_packets += 1;
        state.rx_bytes += bytes as u64;
        state.rx_last_valid = after[session as usize].rx_last_valid;
        if state.rx_packets.is_multiple_of(64) {
            state.rx_turn = state.rx_last_valid;
        }
        ensure!((self.time.0..=self.time.1).contains(&state.rx_last_valid), "time of the last valid packet");
        if let Some(sequence) = sequence {
            mark(state, sequence);
            // What it is, the tests of `heard` say.
            let heard = after[session as usize].heard;
            let changed = state.heard.iter().zip(&heard).filter(|(before, after)| before != after);
            ensure!(changed.count() <= 1, "heard in several slots: {heard:?}");
            state.heard = heard;
            if metered {
                // The run took place between two known times, and moved the limit on by 50 ms.
                let (began, ended) = self.time;
                let from = began.max(state.rx_control)..=ended.max(state.rx_control);
                state.rx_control = after[session as usize].rx_control;
                ensure!(from.contains(&(state.rx_control - 50_000_000)), "the limit on control messages");
            }
        }
        ensure!(model == *after, "session state {after:?} instead of {model:?}");
        Ok(())
    }
}

/// Marks a number in the window, as documented: 33 words of 32 numbers each, with the ring's round above the marks.
fn mark(state: &mut SessionState, sequence: u64) {
    let words = state.window.len() as u64;
    let (group, bit) = (sequence / 32, 1 << (sequence % 32));
    let word = &mut state.window[(group % words) as usize];
    let round = (group / words) & 0xffff_ffff;
    *word = if *word >> 32 == round { *word | bit } else { round << 32 | bit };
    state.rx_highest = state.rx_highest.max(sequence);
}
