//! Functions that the verifier checks once, independent of their calls.
//!
//! The verifier walks an ordinary function for each call, and for each state that it remembers at a call: a cipher called in
//! three places costs three times as much, and a check in a loop as often as the loop runs. It walks a *global* function
//! separately, with arguments of which it knows only the types; at a call it only compares the types of the arguments. It
//! finds the types in BTF. Each argument must be a context, a number, or a pointer to an object of fixed size, which may be
//! null until the function has checked it; the result must be a number. All kernels since 5.12 support such functions.

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use mtd_common::DropReason;
use mtd_common::abi::{Dataplane, GuardSettings, Session};
use mtd_common::allow::Flow;
use mtd_common::filter::Verdict;
use mtd_common::table::Hash;

use crate::frame::{SkbFrame, XdpFrame};
use crate::job::Job;

/// Makes a global function `$symbol`, and a function `$name` that calls it. The first argument is a frame. The result is
/// passed as a number, by [`Returned`].
macro_rules! once {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident = $symbol:ident($($arg:ident: $type:ty),+ $(,)?) -> $returned:ty $body:block
    ) => {
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name($($arg: $type),+) -> $returned {
            $crate::once::Returned::from_number($symbol($($crate::once::Argument::raw($arg)),+))
        }

        #[inline(never)]
        #[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
        extern "C" fn $symbol($($arg: <$type as $crate::once::Argument>::Raw),+) -> u64 {
            #[inline(always)]
            fn body($($arg: $type),+) -> $returned $body
            $(
                // SAFETY: `$name`, which alone can call this, has made it of the argument, which it still borrows.
                let Some($arg) = (unsafe { <$type as $crate::once::Argument>::from_raw($arg) }) else {
                    return $crate::once::Returned::number(<$returned as $crate::once::Returned>::NULL);
                };
            )+
            $crate::once::Returned::number(body($($arg),+))
        }
    };
}

pub(crate) use once;

/// The 16 bytes of an IPv6 address.
type Address = [u8; 16];

/// A type that can be an argument of a global function.
pub(crate) trait Argument: Sized {
    /// Its type for the kernel.
    type Raw;

    /// Its form for the call.
    fn raw(self) -> Self::Raw;

    /// Its form inside the function. `None`: null, or not a valid number.
    ///
    /// # Safety
    /// `raw` must come from [`Argument::raw`] of an argument that lives as long as the result, and that nobody else uses
    /// meanwhile.
    unsafe fn from_raw(raw: Self::Raw) -> Option<Self>;
}

/// Numbers.
macro_rules! number {
    ($($type:ty as $raw:ty),+ $(,)?) => {$(
        impl Argument for $type {
            type Raw = $raw;

            #[inline(always)]
            fn raw(self) -> $raw {
                self as $raw
            }

            #[inline(always)]
            unsafe fn from_raw(raw: $raw) -> Option<Self> {
                Some(raw as Self)
            }
        }
    )+};
}

number!(u32 as u32, usize as u64);

impl Argument for bool {
    type Raw = u32;

    #[inline(always)]
    fn raw(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    unsafe fn from_raw(raw: u32) -> Option<Self> {
        Some(raw != 0)
    }
}

impl Argument for DropReason {
    type Raw = u32;

    #[inline(always)]
    fn raw(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    unsafe fn from_raw(raw: u32) -> Option<Self> {
        Self::from_number(raw as u8)
    }
}

/// References that the kernel sees as pointers to this type.
macro_rules! reference {
    ($($type:ty as $raw:ty),+ $(,)?) => {$(
        impl<'a> Argument for &'a $type {
            type Raw = *const $raw;

            #[inline(always)]
            fn raw(self) -> *const $raw {
                core::ptr::from_ref(self).cast()
            }

            #[inline(always)]
            unsafe fn from_raw(raw: *const $raw) -> Option<&'a $type> {
                // SAFETY: the pointer of a reference, by the contract.
                unsafe { raw.cast::<$type>().as_ref() }
            }
        }

        impl<'a> Argument for &'a mut $type {
            type Raw = *mut $raw;

            #[inline(always)]
            fn raw(self) -> *mut $raw {
                core::ptr::from_mut(self).cast()
            }

            #[inline(always)]
            unsafe fn from_raw(raw: *mut $raw) -> Option<&'a mut $type> {
                // SAFETY: the pointer of a reference, by the contract.
                unsafe { raw.cast::<$type>().as_mut() }
            }
        }
    )+};
}

reference!(
    XdpFrame as xdp_md,
    SkbFrame as __sk_buff,
    Dataplane as Dataplane,
    GuardSettings as GuardSettings,
    Address as Address,
    Flow as Flow,
    Hash as Hash,
    Job as Job,
    Session as Session,
);

/// A type that a global function can return.
pub(crate) trait Returned {
    /// The result for an invalid argument. No caller passes one, but the verifier requires the check.
    const NULL: Self;

    /// As a number.
    fn number(self) -> u64;

    /// The value for this number. The verifier does not know that it comes from [`Returned::number`].
    fn from_number(number: u64) -> Self;
}

impl Returned for bool {
    const NULL: Self = false;

    #[inline(always)]
    fn number(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn from_number(number: u64) -> Self {
        number != 0
    }
}

impl Returned for () {
    const NULL: Self = ();

    #[inline(always)]
    fn number(self) -> u64 {
        0
    }

    #[inline(always)]
    fn from_number(_number: u64) -> Self {}
}

/// The verdict of a filter.
impl Returned for Verdict {
    const NULL: Self = Self::NoPolicy;

    #[inline(always)]
    fn number(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn from_number(number: u64) -> Self {
        Self::from_number(number)
    }
}

/// The verdict of an XDP program.
impl Returned for u32 {
    const NULL: Self = XDP_ABORTED;

    #[inline(always)]
    fn number(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn from_number(number: u64) -> Self {
        number as Self
    }
}

impl Returned for Result<(), DropReason> {
    const NULL: Self = Err(DropReason::ReceiveFailed);

    #[inline(always)]
    fn number(self) -> u64 {
        match self {
            Ok(()) => 0,
            Err(reason) => reason as u64,
        }
    }

    #[inline(always)]
    fn from_number(number: u64) -> Self {
        match number {
            0 => Ok(()),
            other => Err(DropReason::from_number(other as u8).unwrap_or(DropReason::ReceiveFailed)),
        }
    }
}
