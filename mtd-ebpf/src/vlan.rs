//! Frames with VLAN tags: mtd never sends or expects one.

use mtd_common::DropReason;
use mtd_common::abi::Dataplane;
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV6, IPV6, outer};

use crate::frame::{Memory, XdpFrame};

/// A VLAN-tagged frame towards a protected prefix is never a packet of mtd; more than two tags are not parsed.
#[inline(always)]
pub(crate) fn require_not_ours(frame: &XdpFrame, dataplane: &Dataplane) -> Result<(), DropReason> {
    let mut at = ETHERNET;
    let mut tags = 0;
    while tags < 2 {
        let Some(tag) = frame.get::<[u8; 4]>(at) else { return Ok(()) };
        let ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        at += 4;
        if ethertype == ETHERTYPE_IPV6 {
            let ip = frame.get::<[u8; IPV6]>(at).ok_or(DropReason::Truncated)?;
            let ours = packet::is_protected(dataplane, outer::destination(ip));
            return if ours { Err(DropReason::Vlan) } else { Ok(()) };
        }
        if !packet::is_vlan(ethertype) {
            return Ok(());
        }
        tags += 1;
    }
    Err(DropReason::Vlan)
}
