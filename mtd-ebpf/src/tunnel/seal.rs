//! Sending: encrypting and authenticating.

use mtd_common::DropReason;
use mtd_common::abi::{MODE_AUTHENTICATE, MODE_ENCRYPT, Session};
use mtd_common::aead::{self, Operation};
use mtd_common::keystream::Direction;

use crate::ahead::{self, Failure};
use crate::frame::{InnerText, SkbFrame};
use crate::job::Job;
use crate::once::once;
use crate::session::State;

/// Seals the inner packet in place, according to the session's mode.
#[inline(always)]
pub(crate) fn seal(
    frame: &mut SkbFrame,
    session: &Session,
    state: State,
    job: &mut Job,
) -> Result<(), DropReason> {
    match session.mode {
        MODE_ENCRYPT if ahead::find(state.lane(Direction::Send), Direction::Send, job) => {
            encrypt_ahead(frame, job)
        }
        MODE_ENCRYPT => encrypt(frame, session, job),
        MODE_AUTHENTICATE => authenticate(frame, session, job),
        _ => Err(DropReason::SendNoPeer),
    }
}

once! {
    /// Encrypts and authenticates the inner packet in place.
    fn encrypt = seal_encrypt(
        frame: &mut SkbFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let (nonce, length, key) = (job.nonce, job.length, &session.tx.seal);
        let sums = aead::pass(Operation::Seal, key, nonce, &mut InnerText(frame), length, &mut job.pass);
        job.sums = sums.ok_or(DropReason::SendFailed)?;
        Ok(())
    }
}

once! {
    /// The same with key stream made ahead.
    fn encrypt_ahead = seal_ahead(frame: &mut SkbFrame, job: &mut Job) -> Result<(), DropReason> {
        ahead::pass(Operation::Seal, &mut InnerText(frame), job).map_err(|failure| match failure {
            Failure::Text => DropReason::SendFailed,
            Failure::Changed => DropReason::SendStreamChanged,
        })
    }
}

once! {
    /// Authenticates the inner packet.
    fn authenticate = seal_authenticate(
        frame: &mut SkbFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let (nonce, length, key) = (job.nonce, job.length, &session.tx.seal);
        let sums = aead::pass(Operation::Authenticate, key, nonce, &mut InnerText(frame), length, &mut job.pass);
        job.sums = sums.ok_or(DropReason::SendFailed)?;
        Ok(())
    }
}
