//! The means that keep operators from locking themselves out: the time to confirm, the policy, the allow list, the check of
//! the caller's own connection; and removing everything, however incomplete it is.

mod confirm;
mod leftovers;
pub(crate) mod operator;
mod policy;
mod ssh;
mod unconfirmed;
pub(crate) mod upgrade;
