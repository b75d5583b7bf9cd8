//! Where the peer was heard: noted on receipt, and used for sending if the peer asks to be answered there. See
//! [`mtd_common::heard`].

use mtd_common::abi::{FLAG_ANYBODY, FLAG_HEARD, Session};
use mtd_common::bytes::part;
use mtd_common::heard::{self, Source, WORDS};
use mtd_common::packet::inner::{OPENER_MARK, PROBE_MARK};
use mtd_common::packet::{IPV6, UDP, outer};
use mtd_common::window::Word;

use crate::atomic::Shared;
use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{IP, PAYLOAD};
use crate::session::State;

impl State {
    /// The entry for a slot in the ring of slots in which the peer was heard.
    #[inline(always)]
    fn heard(self, slot: u64) -> [Shared; WORDS] {
        // SAFETY: fields of a map value (the index is below the ring's length), aligned by their type.
        unsafe {
            let entry = (&raw mut (*self.0).heard).cast::<u64>().add(heard::index(slot) * WORDS);
            [
                Shared::new(entry),
                Shared::new(entry.add(1)),
                Shared::new(entry.add(2)),
                Shared::new(entry.add(3)),
            ]
        }
    }
}

/// Notes where an accepted packet of this slot and this sequence number came from. A function of its own in the program,
/// too: the variables of all stages together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn note(frame: &XdpFrame, state: State, slot: u64, sequence: u64) {
    let Some(ip) = frame.get::<[u8; IPV6]>(IP) else { return };
    let Some(udp) = frame.get::<[u8; UDP]>(PAYLOAD) else { return };
    let address = outer::source(ip);
    let address =
        [u64::from_ne_bytes(*part::<0, 8, 16>(address)), u64::from_ne_bytes(*part::<8, 8, 16>(address))];
    let source = Source { address, port: u16::from_ne_bytes(*part::<0, 2, UDP>(udp)) };
    heard::note(&state.heard(slot), slot, source, || state.highest().load() == sequence);
}

/// The slot in which a packet is sent now, the present one being `present`; `mark` is that of a control message. Whether it
/// goes to where the peer was heard: the destination is then in the job. A translated peer has no other destination.
#[inline(always)]
pub(crate) fn choose(
    session: &Session,
    state: State,
    present: u64,
    mark: Option<u32>,
    job: &mut Job,
) -> (u64, bool) {
    match mark {
        _ if session.flags & FLAG_ANYBODY != 0 => {}
        Some(PROBE_MARK) => return (present.wrapping_add(1), false),
        Some(OPENER_MARK) => return (present, false),
        _ => {}
    }
    if session.flags & FLAG_HEARD == 0 {
        return (present, false);
    }
    let before = present.wrapping_sub(1);
    if is_heard(state, present, job) {
        (present, true)
    } else if is_heard(state, before, job) {
        (before, true)
    } else {
        (present, false)
    }
}

/// Whether the peer was heard in a slot; notes in the job where. Nothing but this is returned: of a source that is not there,
/// LLVM would keep undefined parts, which the verifier refuses.
#[inline(always)]
fn is_heard(state: State, slot: u64, job: &mut Job) -> bool {
    let Some(source) = heard::read(&state.heard(slot), slot) else { return false };
    job.remote = source.address.map(u64::to_ne_bytes);
    job.remote_port = source.port.to_ne_bytes();
    true
}
