//! Handling of packets that are not valid: policy, confirmation, and exceptions.

use core::mem::{offset_of, size_of};

use crate::allow::{Allow, MAX_ALLOW};

/// Version of the layouts in this module, and of [`Allow`].
pub const VERSION: u32 = 6;

/// The only element of the array map `GUARD`. All zero: every refused packet is dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardSettings {
    /// [`FLAG_MONITOR`], [`FLAG_LENIENT`].
    pub flags: u32,
    /// Number of valid elements of `allow`.
    pub allow_count: u32,
    /// Boot time in ns from which on nothing is enforced, as with [`FLAG_MONITOR`]; 0: never, since somebody has confirmed.
    pub confirm_until: u64,
    /// Flows that pass although they are refused; the elements after `allow_count` are zero.
    pub allow: [Allow; MAX_ALLOW],
}

impl GuardSettings {
    /// Whether any refused packet may pass: only then must [`GuardSettings::enforces`] and `allow` be checked.
    #[inline(always)]
    pub const fn is_lenient(&self) -> bool {
        self.flags & FLAG_LENIENT != 0
    }

    /// Whether a packet refused at boot time `now` (ns) is dropped, unless `allow` names it.
    #[inline(always)]
    pub const fn enforces(&self, now: u64) -> bool {
        self.flags & FLAG_MONITOR == 0 && (self.confirm_until == 0 || now < self.confirm_until)
    }
}

/// Packets that would be dropped pass to the kernel, and are counted separately ([`GuardSettings::flags`]).
pub const FLAG_MONITOR: u32 = 4;

/// [`FLAG_MONITOR`] is set, or there is a time to confirm in, or a rule in `allow` ([`GuardSettings::flags`]): the programs
/// need only one test if none of them applies.
pub const FLAG_LENIENT: u32 = 8;

const _: () = {
    assert!(size_of::<GuardSettings>() == 656);
    assert!(offset_of!(GuardSettings, confirm_until) == 8);
    assert!(offset_of!(GuardSettings, allow) == 16);
};
