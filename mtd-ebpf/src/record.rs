//! Records for the controller: control messages, and routers' reports.

use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use mtd_common::DropReason;
use mtd_common::abi::Counter;
use mtd_common::bytes::part;
use mtd_common::control_record::{CONTROL_VERSION, ControlRecord, MAX_CONTROL, PROBE_HEAD};
use mtd_common::packet::{IPV6, UDP, outer};

use crate::count;
use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{INNER, IP, PAYLOAD};

#[map]
static CONTROL: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

/// Lets `fill` write a record, all zero before, into the controller's ring buffer. `None`: there is no room, or `fill` gave
/// up.
#[inline(always)]
pub(crate) fn send(fill: impl FnOnce(&mut ControlRecord) -> Option<()>) -> Option<()> {
    let mut entry = CONTROL.reserve::<ControlRecord>(0)?;
    let record = entry.as_mut_ptr();
    // SAFETY: the entry has room for one record, of which all zeros are a valid value, and nobody else has it yet.
    let record = unsafe {
        record.write_bytes(0, 1);
        &mut *record
    };
    let filled = fill(record);
    match filled {
        Some(()) => entry.submit(0),
        None => entry.discard(0),
    }
    filled
}

/// Hands an opened control message to the controller. A function of its own in the program, too: the variables of all stages
/// together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn control_message(frame: &XdpFrame, job: &Job, now: u64) -> Result<(), DropReason> {
    send(|record| {
        let ip = frame.get::<[u8; IPV6]>(IP)?;
        let udp = frame.get::<[u8; UDP]>(PAYLOAD)?;
        record.time = now;
        record.session = job.session;
        record.generation = job.generation;
        record.slot = job.nonce[0];
        record.version = CONTROL_VERSION;
        record.source = *outer::source(ip);
        record.destination = *outer::destination(ip);
        record.source_port = *part::<0, 2, UDP>(udp);
        record.destination_port = *part::<2, 2, UDP>(udp);
        record.inner_source = *outer::source(frame.get::<[u8; IPV6]>(INNER)?);
        let message = job.length.checked_sub(IPV6)?;
        // What is longer has passed the checks as a probe.
        let length = if message > MAX_CONTROL { PROBE_HEAD } else { message };
        record.length = length as u16;
        frame.copy(INNER + IPV6, length, &mut record.payload)
    })
    .ok_or(DropReason::ControlFull)?;
    count::one(Counter::Control);
    Ok(())
}
