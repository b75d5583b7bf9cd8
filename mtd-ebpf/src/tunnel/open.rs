//! Receiving: decrypting and authenticating.

use mtd_common::DropReason;
use mtd_common::abi::{MODE_AUTHENTICATE, MODE_ENCRYPT, Session};
use mtd_common::aead::{self, Operation};
use mtd_common::keystream::Direction;

use super::find::{Found, Header};
use crate::ahead::{self, Failure};
use crate::frame::{InnerText, XdpFrame};
use crate::job::Job;
use crate::once::once;

/// Notes in the job the data of a packet that the cipher needs.
#[inline(always)]
pub(crate) fn prepare(found: &Found, header: &Header, job: &mut Job) {
    job.nonce = aead::nonce(found.slot.slot as u32, header.sequence);
    job.length = header.length;
    job.session = found.index;
    job.generation = found.session.generation;
}

/// Opens the inner packet in place, according to the session's mode, and compares the tag.
#[inline(always)]
pub(crate) fn open(
    frame: &mut XdpFrame,
    found: &Found,
    tag: [u64; 2],
    job: &mut Job,
) -> Result<(), DropReason> {
    let session = found.session;
    match session.mode {
        MODE_ENCRYPT if ahead::find(found.state.lane(Direction::Receive), Direction::Receive, job) => {
            decrypt_ahead(frame, job)?;
        }
        MODE_ENCRYPT => decrypt(frame, session, job)?,
        MODE_AUTHENTICATE => authenticate(frame, session, job)?,
        _ => return Err(DropReason::SessionEnded),
    }
    require_tag(job, tag)
}

/// Whether the tag is the one that the cipher has computed.
#[inline(always)]
pub(crate) fn require_tag(job: &Job, tag: [u64; 2]) -> Result<(), DropReason> {
    if aead::verify(job.sums.tag, tag) { Ok(()) } else { Err(DropReason::BadTag) }
}

once! {
    /// Decrypts the inner packet in place.
    pub(crate) fn decrypt = open_decrypt(
        frame: &mut XdpFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let (nonce, length, key) = (job.nonce, job.length, &session.rx.seal);
        let sums = aead::pass(Operation::Open, key, nonce, &mut InnerText(frame), length, &mut job.pass);
        job.sums = sums.ok_or(DropReason::Oversized)?;
        Ok(())
    }
}

once! {
    /// The same with key stream made ahead.
    fn decrypt_ahead = open_ahead(frame: &mut XdpFrame, job: &mut Job) -> Result<(), DropReason> {
        ahead::pass(Operation::Open, &mut InnerText(frame), job).map_err(|failure| match failure {
            Failure::Text => DropReason::Oversized,
            Failure::Changed => DropReason::StreamChanged,
        })
    }
}

once! {
    /// Authenticates the inner packet.
    fn authenticate = open_authenticate(
        frame: &mut XdpFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let (nonce, length, key) = (job.nonce, job.length, &session.rx.seal);
        let sums = aead::pass(Operation::Authenticate, key, nonce, &mut InnerText(frame), length, &mut job.pass);
        job.sums = sums.ok_or(DropReason::Oversized)?;
        Ok(())
    }
}
