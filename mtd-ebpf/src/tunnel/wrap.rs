//! Sending: the outer headers, and transmission.

use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_REDIRECT};
use aya_ebpf::helpers::generated::{
    bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_pull_data,
};
use mtd_common::DropReason;
use mtd_common::abi::Session;
use mtd_common::packet::{ETHERNET, ETHERTYPE_IPV6, IPV6, OVERHEAD, inner, outer};

use crate::frame::{Memory, SkbFrame};
use crate::job::Job;
use crate::{lookup, settings};

/// `BPF_ADJ_ROOM_MAC`: make room between the link-layer and the network header.
const ADJUST_AT_MAC: u32 = 1;

/// Makes room for the outer headers, and makes the whole packet writable in one piece.
#[inline(always)]
pub(crate) fn make_room(frame: &mut SkbFrame, version: u8) -> Result<(), DropReason> {
    let skb = frame.context();
    // The helper's own flags for tunnels would do this too, but they refuse packets that already passed another tunnel.
    let room = if version == 4 {
        // SAFETY: as below. Turns the packet into an IPv6 one for the kernel, and adds the 20 bytes between the
        // lengths of the two headers.
        if unsafe { bpf_skb_change_proto(skb, ETHERTYPE_IPV6.to_be(), 0) } != 0 {
            return Err(DropReason::SendFailed);
        }
        OVERHEAD - (IPV6 - inner::IPV4)
    } else {
        OVERHEAD
    };
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
    let made = unsafe { bpf_skb_adjust_room(skb, (room as u16).into(), ADJUST_AT_MAC, flags) };
    // SAFETY: as above. A length of 0 means the whole packet.
    if made != 0 || unsafe { bpf_skb_pull_data(skb, frame.len() as u32) } != 0 {
        return Err(DropReason::SendFailed);
    }
    Ok(())
}

/// Writes the outer headers into the room made for them. A function of its own in the program, too: the variables of all
/// stages together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn write_headers(
    frame: &mut SkbFrame,
    session: &Session,
    job: &Job,
    sequence: u64,
) -> Result<(), DropReason> {
    let slot = lookup::slot(job.place).ok_or(DropReason::SendNoSlot)?;
    let headers = frame.get_mut::<[u8; OVERHEAD]>(ETHERNET).ok_or(DropReason::SendFailed)?;
    outer::Send {
        local: [&session.local_high, &slot.local_low],
        peer: [&job.remote[0], &job.remote[1]],
        local_port: slot.local_port,
        peer_port: job.remote_port,
        mask: &session.tx.mask,
        sequence,
        tag: job.sums.tag,
        checksum: job.sums.checksum,
        inner: job.length as u16,
        ecn: job.ecn,
    }
    .write(headers);
    Ok(())
}

/// Lets the kernel find the next hop and link-layer address for the outer destination. Its routing rules go by the mark: what
/// has mtd's never goes into the tunnel again.
#[inline(always)]
pub(crate) fn transmit(frame: &mut SkbFrame) -> Result<i32, DropReason> {
    let dataplane = settings::dataplane().ok_or(DropReason::SendFailed)?;
    if dataplane.fwmark != 0 {
        frame.set_mark(dataplane.fwmark);
    }
    // SAFETY: no parameters are handed over: the kernel looks the next hop up by the packet's own destination.
    let action = unsafe { bpf_redirect_neigh(dataplane.underlay_ifindex, core::ptr::null_mut(), 0, 0) };
    if action == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::SendFailed) }
}
