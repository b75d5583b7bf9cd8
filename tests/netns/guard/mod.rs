//! The means that keep operators from locking themselves out: the time to confirm, the policy, the allow list, the check of
//! the caller's own connection; and removing everything, however incomplete it is.

mod confirm;
mod leftovers;
mod operator;
mod policy;
mod ssh;
pub(crate) mod upgrade;
