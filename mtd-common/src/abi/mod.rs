//! Keys and values of the BPF maps, by group.
//!
//! A *group* is the maps of one concern, whose layout has a version of its own: a controller takes over an earlier
//! controller's maps of a group if they have its own version, and otherwise replaces them. So a change in one group ends
//! nothing in another. A change of a layout is a change of its group's version.
//!
//! Every type is `repr(C)`, has no implicit padding, and its size and field offsets are asserted at compile time
//! for both targets. Integers are in host order unless a field says otherwise; network-order fields are byte arrays.
//!
//! | group | maps | what a change of its layout ends |
//! |---|---|---|
//! | [`core`] | `DATAPLANE`, `FILTER`, `ADDRESSES`, `SLOTS`, `SESSIONS`, `SESSION_STATE`, `SESSION_NOTES`, `ROUTES` | all sessions |
//! | [`control_record`] | `CONTROL` | nothing: messages under way are sent again. Goes with `core`, whose sessions its records name |
//! | [`guard`] | `GUARD` | policy and time to confirm begin as the configuration says |
//! | [`counters`] | `DROPS`, `COUNTERS` | counts begin at zero |
//! | [`event`] | `EVENTS` | events that nobody has read are lost |
//! | [`filter`] | `SESSION_POLICY`, `POLICIES`, `FILTER_RULES` | nothing: the controller writes them before the programs are attached |
//!
//! The types in [`steering`], [`introduction`], [`limits`] and [`crate::keystream`] have no version: their maps are not
//! pinned, but belong to one load of the programs. So do the arrays of [`stages`], which are pinned only because the kernel would
//! empty them otherwise: they are never taken over.

pub mod control_record;
pub mod core;
pub mod counters;
pub mod event;
pub mod filter;
pub mod guard;
pub mod introduction;
pub mod limits;
pub mod session_note;
pub mod stages;
pub mod steering;

pub use self::core::{
    CONTROL_METER, Dataplane, DirectionKeys, FLAG_ANYBODY, FLAG_FILTER, FLAG_HEARD, FLAG_ON_LINK,
    FLAG_SHARED, FLAG_SINGLE, LEAST_PATH, MAX_PREFIXES, MAX_SHARED, MODE_AUTHENTICATE, MODE_ENCRYPT,
    MODE_INTRODUCTION, Prefix, ROUTE_KEY_FAMILY_BITS, Route, RouteKey, Session, SessionState, Slot, VERSION,
    route_key,
};
pub use self::counters::{COUNTER_SLOTS, Counter, DROP_COUNTERS, DROP_SLOTS};
pub use self::guard::GuardSettings;
pub use self::introduction::{IntroductionTag, translated};
pub use self::limits::{Local, TokenBucket};
pub use self::steering::{MAX_STEERING_CPUS, Steering, SteeringCpus};

#[cfg(feature = "user")]
mod pod {
    use super::filter::{FragmentKey, Policy};
    use super::{
        Dataplane, GuardSettings, Local, Route, Session, SessionState, Slot, SteeringCpus, TokenBucket,
    };
    use crate::table::Bucket;

    macro_rules! pod {
        ($($type:ty),+) => {
            $(
                // SAFETY: `repr(C)`, no implicit padding (asserted beside the type), every bit pattern is a valid value.
                unsafe impl aya::Pod for $type {}
            )+
        };
    }
    pod!(
        Bucket,
        Dataplane,
        FragmentKey,
        GuardSettings,
        Local,
        Policy,
        Route,
        Session,
        SessionState,
        Slot,
        SteeringCpus,
        TokenBucket
    );
}
