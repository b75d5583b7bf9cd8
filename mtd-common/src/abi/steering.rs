//! The CPUs on which packets are opened: see [`crate::steering`]. [`Steering`] is part of the state of a session, the rest
//! belongs to one load of the programs.

use core::mem::size_of;

/// The receiving CPU's data on a session, by which it decides where packets are opened (see [`crate::steering`]). All zero:
/// where they arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Packets handed to another CPU. Those that [`SessionState::rx_taken`] has not counted yet are on their way.
    pub handed: u64,
    /// Boot time in ns at which the last one was handed over.
    pub handed_at: u64,
    /// Boot time in ns at which the present interval of the measurement began.
    pub began: u64,
    /// Work since then, in bytes.
    pub work: u64,
    /// Recent work per interval, in bytes.
    pub rate: u64,
    /// The CPU to which packets are handed, plus 1; 0: none.
    pub target: u64,
}

/// The CPUs to which packets may be handed: the only element of the array map `STEERING_CPUS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCpus {
    /// Valid elements of `cpus`; fewer than two: every packet is opened where it arrives.
    pub count: u32,
    /// Their numbers, which are also their places in the map `CPUS`.
    pub cpus: [u32; MAX_STEERING_CPUS],
}

/// Largest number of CPUs to which packets are handed: each has a kernel thread and a queue.
pub const MAX_STEERING_CPUS: usize = 16;

const _: () = {
    assert!(size_of::<Steering>() == 48);
    assert!(size_of::<SteeringCpus>() == 68);
};
