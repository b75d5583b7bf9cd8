//! The responder to neighbour solicitations for protected addresses (requirement MT-09). The kernel never sees them: it
//! would not answer, but it must not learn from strangers either. (In a shared prefix, it sees those for addresses that are
//! not live.)
//!
//! The receive program drops the solicitations that are not to be answered, and passes the others on to `mtd_advertise`, a TC
//! program in front of the kernel, which sends the answer as the kernel would send one. The receive program cannot do that
//! itself: whether a frame arrives that XDP sends back (`XDP_TX`) depends on the driver, and over a veth pair also on its
//! other end.

use mtd_common::DropReason;
use mtd_common::abi::{Counter, Dataplane};
use mtd_common::bytes::part;
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, ndp};

use crate::frame::{Memory, SkbFrame, XdpFrame};
use crate::layout::{IP, PAYLOAD};
use crate::once::once;
use crate::verdict::{self, Action};
use crate::{clock, count, lookup, settings};

mod maps;

/// Handles a neighbour solicitation for a protected address; `None`: the frame is something else, or about an address of this
/// host, for which the kernel answers.
#[inline(always)]
pub(crate) fn solicited(frame: &XdpFrame, dataplane: &Dataplane) -> Option<Result<Action, DropReason>> {
    let ip = frame.get::<[u8; IPV6]>(IP)?;
    let icmp = frame.get::<[u8; ndp::SOLICITATION_LENGTH]>(PAYLOAD)?;
    if !ndp::is_solicitation(ip, icmp) {
        return None;
    }
    let target = *ndp::target(icmp);
    if dataplane.has_single_addresses() || !packet::is_protected(dataplane, &target) {
        return None;
    }
    match require_answerable(frame, dataplane, &target) {
        // To `mtd_advertise`. It is not counted as passed, since the kernel does not get it.
        Ok(()) => Some(Ok(Action::Pass)),
        // The address may belong to an ordinary host, or to this one.
        Err(DropReason::NeighbourDead) if dataplane.is_shared() => Some(Ok(verdict::pass())),
        Err(reason) => Some(Err(reason)),
    }
}

once! {
    /// Accepts the solicitations that are answered, within the rate limit.
    fn require_answerable = neighbour_require_answerable(
        frame: &XdpFrame,
        dataplane: &Dataplane,
        target: &[u8; 16],
    ) -> Result<(), DropReason> {
        if !dataplane.answers_solicitations() || !lookup::is_live(dataplane, target) {
            return Err(DropReason::NeighbourDead);
        }
        let length = frame.len() - ETHERNET;
        let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::NeighbourMalformed)?;
        let icmp = frame.get::<[u8; ndp::WITH_OPTION]>(PAYLOAD).ok_or(DropReason::NeighbourMalformed)?;
        ndp::require_answerable(ip, icmp, length)?;
        if maps::may_advertise(clock::tick()) { Ok(()) } else { Err(DropReason::NeighbourLimited) }
    }
}

/// Answers a solicitation that the receive program has passed on, and returns whether the frame was one. All checks but the
/// rate limit are made again: the frame may have passed for another reason.
#[inline(always)]
pub(crate) fn advertised(frame: &mut SkbFrame) -> bool {
    // Nearly all frames for the kernel end here.
    if frame.len() != ndp::FRAME || frame.has_vlan_tag() {
        return false;
    }
    let Some(bytes) = maps::frame() else { return false };
    if frame.load_start(bytes).is_none() {
        return false;
    }
    let Some(mac) = answerable(bytes) else { return false };
    ndp::advertise(bytes, mac);
    if frame.store_start(bytes).is_some() && frame.send_back() {
        count::one(Counter::NeighbourAnswered);
    }
    true
}

/// The own MAC address, if the frame is a solicitation that is answered.
#[inline(always)]
fn answerable(frame: &[u8; ndp::FRAME]) -> Option<[u8; 6]> {
    let ip = part::<IP, IPV6, { ndp::FRAME }>(frame);
    let icmp = part::<PAYLOAD, { ndp::WITH_OPTION }, { ndp::FRAME }>(frame);
    let solicitation = part::<0, { ndp::SOLICITATION_LENGTH }, { ndp::WITH_OPTION }>(icmp);
    let ethertype = packet::ethertype(part::<0, ETHERNET, { ndp::FRAME }>(frame));
    if ethertype != ETHERTYPE_IPV6 || !ndp::is_solicitation(ip, solicitation) {
        return None;
    }
    let (dataplane, target) = (settings::dataplane()?, *ndp::target(solicitation));
    let live = dataplane.answers_solicitations()
        && packet::is_protected(dataplane, &target)
        && lookup::is_live(dataplane, &target);
    let sound = live && ndp::require_answerable(ip, icmp, ndp::FRAME - ETHERNET).is_ok();
    sound.then_some(dataplane.underlay_mac)
}
