//! Receiving: from the opened packet to the tunnel device.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_redirect;
use mtd_common::DropReason;
use mtd_common::bytes::part_mut;
use mtd_common::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, OVERHEAD, inner};

use crate::frame::{Memory, XdpFrame};
use crate::layout::INNER;
use crate::settings;

/// Source MAC address of opened packets: locally administered, the same for all.
pub(crate) const INSIDE_MAC: [u8; 6] = [0x02, b'm', b't', b'd', 0, 0];

/// Replaces the outer headers by an Ethernet header and redirects the frame into the tunnel device.
#[inline(never)]
pub(crate) fn deliver(frame: &mut XdpFrame) -> Result<(), DropReason> {
    let dataplane = settings::dataplane().ok_or(DropReason::ReceiveFailed)?;
    let first = frame.get::<[u8; 1]>(INNER).ok_or(DropReason::ReceiveFailed)?[0];
    let ethertype = if inner::version(first) == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    frame.strip(OVERHEAD).ok_or(DropReason::ReceiveFailed)?;
    let ethernet = frame.get_mut::<[u8; ETHERNET]>(0).ok_or(DropReason::ReceiveFailed)?;
    // The kernel accepts only packets for its own MAC address.
    *part_mut::<0, 6, ETHERNET>(ethernet) = dataplane.tunnel_mac;
    *part_mut::<6, 6, ETHERNET>(ethernet) = INSIDE_MAC;
    *part_mut::<12, 2, ETHERNET>(ethernet) = ethertype.to_be_bytes();
    // SAFETY: takes two numbers. A packet sent into one end of the pair comes out of the other.
    let action = unsafe { bpf_redirect(dataplane.tunnel_ifindex, 0) };
    if action == i64::from(xdp_action::XDP_REDIRECT) { Ok(()) } else { Err(DropReason::ReceiveFailed) }
}
