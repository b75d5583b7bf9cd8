//! What keeps operators from locking themselves out: the time to confirm in, the policy, what is allowed, the look at the
//! caller's own connection; and what takes everything back, whatever is left of it.

mod confirm;
mod leftovers;
mod operator;
mod policy;
mod ssh;
pub(crate) mod upgrade;
