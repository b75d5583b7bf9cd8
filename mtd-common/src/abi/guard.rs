//! What is done with what is no valid packet.

use core::mem::{offset_of, size_of};

use crate::allow::{Allow, MAX_ALLOW};

/// Version of the layouts in this module, and of [`Allow`].
pub const VERSION: u32 = 6;

/// The only element of the array map `GUARD`. All zero: everything that is refused is dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardSettings {
    /// [`FLAG_MONITOR`], [`FLAG_LENIENT`].
    pub flags: u32,
    /// Number of valid elements of `allow`.
    pub allow_count: u32,
    /// Boot time in ns from which on nothing is enforced, as with [`FLAG_MONITOR`]; 0: never, somebody has confirmed.
    pub confirm_until: u64,
    /// What passes although it is refused; the elements after `allow_count` are zero.
    pub allow: [Allow; MAX_ALLOW],
}

impl GuardSettings {
    /// Whether anything that is refused may pass: only then must [`GuardSettings::enforces`] and `allow` be asked.
    #[inline(always)]
    pub const fn is_lenient(&self) -> bool {
        self.flags & FLAG_LENIENT != 0
    }

    /// Whether what is refused at boot time `now` (ns) is dropped, if nothing in `allow` names it.
    #[inline(always)]
    pub const fn enforces(&self, now: u64) -> bool {
        self.flags & FLAG_MONITOR == 0 && (self.confirm_until == 0 || now < self.confirm_until)
    }
}

/// What would be dropped passes to the kernel, and is counted as such ([`GuardSettings::flags`]).
pub const FLAG_MONITOR: u32 = 4;

/// There is [`FLAG_MONITOR`], a time to confirm in, or something in `allow` ([`GuardSettings::flags`]): one test tells the
/// programs that there is none.
pub const FLAG_LENIENT: u32 = 8;

const _: () = {
    assert!(size_of::<GuardSettings>() == 656);
    assert!(offset_of!(GuardSettings, confirm_until) == 8);
    assert!(offset_of!(GuardSettings, allow) == 16);
};
