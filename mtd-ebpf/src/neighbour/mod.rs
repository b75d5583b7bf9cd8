//! The responder to neighbour solicitations for protected addresses (requirement MT-09). The kernel never sees them: it
//! would not answer, but it must not learn from strangers either. (In a shared prefix, it sees those for addresses that are
//! not live.)

use mtd_common::DropReason;
use mtd_common::abi::{Counter, Dataplane};
use mtd_common::packet::{self, ETHERNET, IPV6, ndp};

use crate::frame::{Memory, XdpFrame};
use crate::layout::PAYLOAD;
use crate::once::once;
use crate::verdict::{self, Action};
use crate::{clock, count, lookup};

mod maps;

/// Handles a neighbour solicitation for a protected address; `None`: the frame is something else, or about an address of this
/// host, for which the kernel answers.
#[inline(always)]
pub(crate) fn solicited(frame: &mut XdpFrame, dataplane: &Dataplane) -> Option<Result<Action, DropReason>> {
    let ip = frame.get::<[u8; IPV6]>(ETHERNET)?;
    let icmp = frame.get::<[u8; ndp::SOLICITATION_LENGTH]>(PAYLOAD)?;
    if !ndp::is_solicitation(ip, icmp) {
        return None;
    }
    let target = *ndp::target(icmp);
    if dataplane.has_single_addresses() || !packet::is_protected(dataplane, &target) {
        return None;
    }
    match answer(frame, dataplane, &target) {
        Ok(()) => Some(Ok(Action::Transmit)),
        // The address may belong to an ordinary host, or to this one.
        Err(DropReason::NeighbourDead) if dataplane.is_shared() => Some(Ok(verdict::pass())),
        Err(reason) => Some(Err(reason)),
    }
}

once! {
    /// Turns the solicitation into its answer.
    fn answer = neighbour_answer(
        frame: &mut XdpFrame,
        dataplane: &Dataplane,
        target: &[u8; 16],
    ) -> Result<(), DropReason> {
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
}
