//! Handing the packets of a busy session to another CPU: see [`mtd_common::steering`].

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use mtd_common::abi::{Counter, MAX_STEERING_CPUS, SteeringCpus};
use mtd_common::opaque;
use mtd_common::steering::Decision;

use crate::count;
use crate::session::State;

mod maps;
mod state;

/// The program that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The program on the underlay, which may hand packets on.
    Arrived,
    /// The program of a CPU to which packets were handed.
    Handed,
}

/// The next step of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is opened here.
    Here,
    /// It was handed on.
    Handed,
    /// It is dropped: too many wait on the other CPU.
    Full,
}

/// Counts a packet that was handed to this program, before any check that may refuse it: a packet that is not counted would
/// appear to wait forever.
#[inline(always)]
pub(crate) fn arrived(stage: Stage, state: State) {
    if stage == Stage::Handed {
        state.count_taken();
    }
}

/// Decides where a packet with `length` bytes of inner packet is opened. Only for packets that have passed every check
/// except that of the tag, so that strangers cannot fill the queue.
#[inline(always)]
pub(crate) fn turn(stage: Stage, state: State, session: u32, length: usize, now: u64) -> Turn {
    match stage {
        Stage::Arrived => hand_on(state, session, length, now),
        // This program must not use the map of queues: the queues refer to this program, so neither would ever be freed.
        Stage::Handed => Turn::Here,
    }
}

/// Hands a packet on if its session is to be opened elsewhere. A function of its own in the program, too: the variables of
/// all stages together do not fit on a stack of 512 bytes.
#[inline(never)]
fn hand_on(state: State, session: u32, length: usize, now: u64) -> Turn {
    let Some(cpus) = maps::cpus().filter(|cpus| cpus.count > 1) else { return Turn::Here };
    // SAFETY: takes nothing, returns a number.
    let here = unsafe { bpf_get_smp_processor_id() };
    let taken = state.taken();
    let mut steering = state.steering();
    steering.measure(length, now);
    let (decision, lost) = steering.decide(taken, here, now, || other(cpus, session, here));
    state.set_steering(&steering);
    if lost > 0 {
        count::several(Counter::SteeringLost, lost);
        state.forget_handed(taken);
    }
    match decision {
        Decision::There(cpu) if maps::redirect_to_cpu(cpu) => {
            state.count_handed(now);
            count::one(Counter::Steered);
            Turn::Handed
        }
        Decision::Here | Decision::There(_) => Turn::Here,
        Decision::Full => Turn::Full,
    }
}

/// The CPU for a session: the same each time, unless that is the one that this program runs on.
#[inline(always)]
fn other(cpus: &SteeringCpus, session: u32, here: u32) -> Option<u32> {
    let nth = |n: u32| -> Option<u32> {
        // With a bound that the verifier can see.
        let place = opaque::value(n.checked_rem(cpus.count)? as usize);
        if place < MAX_STEERING_CPUS { Some(cpus.cpus[place]) } else { None }
    };
    nth(session).filter(|&cpu| cpu != here).or_else(|| nth(session.wrapping_add(1)))
}
