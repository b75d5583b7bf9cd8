//! The responder to neighbour solicitations for protected addresses (requirement MT-09). The kernel never sees
//! one: it would not answer, but neither should it learn from strangers. (In a shared prefix it sees those that are for
//! no live address.)

use mtd_common::DropReason;
use mtd_common::abi::{Counter, Dataplane};
use mtd_common::packet::{self, ETHERNET, IPV6, ndp};

use crate::frame::{Memory, XdpFrame};
use crate::layout::PAYLOAD;
use crate::verdict::{self, Action};
use crate::{clock, count, lookup};

mod maps;

/// Decides on a neighbour solicitation for a protected address; `None`: the frame is something else.
#[inline(always)]
pub(crate) fn solicited(
    frame: &mut XdpFrame<'_>,
    dataplane: &Dataplane,
) -> Option<Result<Action, DropReason>> {
    let ip = frame.get::<[u8; IPV6]>(ETHERNET)?;
    let icmp = frame.get::<[u8; ndp::SOLICITATION_LENGTH]>(PAYLOAD)?;
    if !ndp::is_solicitation(ip, icmp) {
        return None;
    }
    let target = *ndp::target(icmp);
    if !packet::is_protected(dataplane, &target) {
        return None;
    }
    match answer(frame, dataplane, &target) {
        Ok(()) => Some(Ok(Action::Transmit)),
        // It may be an ordinary host's address, or this one's.
        Err(DropReason::NeighbourDead) if dataplane.is_shared() => Some(Ok(verdict::pass())),
        Err(reason) => Some(Err(reason)),
    }
}

/// Makes the solicitation into its answer. A function of its own in the program too, for the sake of
/// the stack.
#[inline(never)]
fn answer(frame: &mut XdpFrame<'_>, dataplane: &Dataplane, target: &[u8; 16]) -> Result<(), DropReason> {
    if !dataplane.answers_solicitations() || !lookup::is_live(dataplane, target) {
        return Err(DropReason::NeighbourDead);
    }
    let length = frame.len() - ETHERNET;
    let ip = frame.get::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::NeighbourMalformed)?;
    let icmp = frame.get::<[u8; ndp::WITH_OPTION]>(PAYLOAD).ok_or(DropReason::NeighbourMalformed)?;
    ndp::require_answerable(ip, icmp, length)?;
    if !maps::may_advertise(clock::tick()) {
        return Err(DropReason::NeighbourLimited);
    }
    let whole = frame.get_mut::<[u8; ndp::FRAME]>(0).ok_or(DropReason::NeighbourMalformed)?;
    ndp::advertise(whole, dataplane.underlay_mac);
    count::one(Counter::NeighbourAnswered);
    Ok(())
}
