//! Places in the program arrays of the stages. The arrays belong to one load of the programs, but are pinned with it.

/// Version of the group of maps: `STAGES_RECEIVE`, `STAGES_TAKE`, `STAGES_SEND`.
pub const VERSION: u32 = 1;

/// Number of places in each array.
pub const ENTRIES: u32 = 4;

/// The filter of sessions ([`crate::filter`]).
pub const FILTER: u32 = 0;

/// Sampled drops.
pub const OBSERVE: u32 = 1;

/// Behind `mtd_send` only: the send program itself, which goes on with a packet that the filter has allowed.
pub const SEAL: u32 = 2;
