//! Key stream that the controller has made ahead of its packets: see [`mtd_common::keystream`].

use mtd_common::abi::Counter;
use mtd_common::aead::{self, Operation, Text};
use mtd_common::keystream::{self, Direction, Wanted};

use crate::count;
use crate::job::Job;
use crate::session::State;

mod maps;

impl State {
    /// The lane with the key stream for this direction, plus 1; 0: none.
    #[inline(always)]
    pub(crate) fn lane(self, direction: Direction) -> u64 {
        // SAFETY: fields of a map value, aligned by its type; volatile, since the controller writes them meanwhile.
        unsafe {
            match direction {
                Direction::Receive => (&raw const (*self.0).rx_lane).read_volatile(),
                Direction::Send => (&raw const (*self.0).tx_lane).read_volatile(),
            }
        }
    }
}

/// Reasons why a pass with key stream made ahead can fail.
pub(crate) enum Failure {
    /// The text is longer than the packet memory.
    Text,
    /// The key stream was replaced meanwhile: the result must not be used.
    Changed,
}

/// The packet of a job.
#[inline(always)]
const fn packet(job: &Job, direction: Direction) -> Wanted {
    Wanted {
        sequence: job.nonce[1] as u64 | (job.nonce[2] as u64) << 32,
        slot: job.nonce[0],
        session: job.session,
        generation: job.generation,
        direction: direction as u32,
    }
}

/// Whether there is key stream for the job's packet; if so, notes its place in the job. `lane`: the session's, plus 1. The
/// program has this as a function of its own, too: the variables of all stages together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn find(lane: u64, direction: Direction, job: &mut Job) -> bool {
    if lane == 0 {
        return false;
    }
    let packet = packet(job, direction);
    let index = keystream::index((lane - 1) as u32, packet.sequence);
    let Some(element) = maps::element(index) else { return false };
    let stamp = element.stamp();
    job.element = index;
    job.stamp = stamp;
    stamp != 0 && element.ready().packet() == packet.packet()
}

/// Seals or opens the job's packet with the key stream that [`find`] found. The stamp is checked again after all of the key
/// stream has been read.
#[inline(always)]
pub(crate) fn pass(operation: Operation, text: &mut impl Text, job: &mut Job) -> Result<(), Failure> {
    let element = maps::element(job.element).ok_or(Failure::Changed)?;
    let sums = aead::pass_ready(operation, element.ready(), text, job.length, &mut job.pass);
    job.sums = sums.ok_or(Failure::Text)?;
    if element.stamp() != job.stamp {
        return Err(Failure::Changed);
    }
    count::one(match operation {
        Operation::Open => Counter::OpenedAhead,
        Operation::Seal | Operation::Authenticate => Counter::SealedAhead,
    });
    Ok(())
}

/// Requests the key stream of the packets behind the job's.
#[inline(never)]
pub(crate) fn want(job: &Job, direction: Direction) {
    maps::want(&packet(job, direction));
}
