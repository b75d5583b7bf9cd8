//! Inner packets as they come from the tunnel device.

use mtd_common::DropReason;
use mtd_common::packet::inner::{self, Inner};
use mtd_common::packet::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6};

use crate::frame::{Memory, SkbFrame};

/// Reads the header of the inner packet, which has `length` bytes.
#[inline(always)]
pub(crate) fn read(frame: &SkbFrame, length: usize) -> Result<Inner, DropReason> {
    let ethernet = frame.get::<[u8; ETHERNET]>(0).ok_or(DropReason::SendMalformed)?;
    let facts = match packet::ethertype(ethernet) {
        ETHERTYPE_IPV4 => inner::ipv4(frame.get(ETHERNET).ok_or(DropReason::SendMalformed)?, length),
        ETHERTYPE_IPV6 => {
            inner::ipv6(frame.get::<[u8; IPV6]>(ETHERNET).ok_or(DropReason::SendMalformed)?, length)
        }
        _ => Err(DropReason::SendMalformed),
    };
    facts.map_err(|_| DropReason::SendMalformed)
}
