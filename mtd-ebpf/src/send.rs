//! Sending: from the inner packet to the frame on the underlay. This file has the order of the stages; the stages are
//! elsewhere.

use mtd_common::abi::{Counter, MODE_ENCRYPT};
use mtd_common::keystream::Direction;
use mtd_common::{DropReason, aead, opaque};

use crate::frame::SkbFrame;
use crate::tunnel::{cut, route, seal, wrap};
use crate::{ahead, count, job, session};

/// Seals a packet from the tunnel device and sends it; returns the TC action.
#[inline(always)]
pub(crate) fn send(frame: &mut SkbFrame) -> Result<i32, DropReason> {
    let job = job::job(Direction::Send).ok_or(DropReason::SendFailed)?;
    cut::second_part(frame)?;
    route::choose(frame, job)?;
    let state = session::state(job.session).ok_or(DropReason::SendNoPeer)?;
    cut::cut(frame, state, job)?;
    wrap::make_room(frame, job.version)?;
    let session = session::session(job.session, job.generation).ok_or(DropReason::SendNoPeer)?;
    let sequence = state.next_sequence();
    job.nonce = aead::nonce(job.nonce[0], sequence);
    seal::seal(frame, session, state, job)?;
    wrap::write_headers(frame, session, job, sequence)?;
    if state.count_sent(job.length, job.now) && opaque::reference(session).mode == MODE_ENCRYPT {
        ahead::want(job, Direction::Send);
    }
    count::one(Counter::Sent);
    wrap::transmit(frame)
}
