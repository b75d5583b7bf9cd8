//! The CPUs to which received packets may be handed: see [`mtd_common::steering`].

use aya::Ebpf;
use aya::maps::{Array, CpuMap};
use aya::programs::ProgramFd;
use aya::util::{nr_cpus, online_cpus};
use mtd_common::abi::{MAX_STEERING_CPUS, SteeringCpus};
use mtd_common::steering::QUEUE;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use super::error::Error;

/// The map of queues, one place for each possible CPU.
pub(super) const QUEUES: &str = "CPUS";

/// The map of the CPUs that have a queue.
const TARGETS: &str = "STEERING_CPUS";

/// Number of places that the map of queues has.
pub(super) fn queues() -> u32 {
    nr_cpus().map_or(1, |cpus| cpus as u32)
}

/// The available CPUs that this process may run on (`taskset`, `CPUAffinity=` of systemd, `isolcpus=` of the kernel), at
/// most [`MAX_STEERING_CPUS`].
pub fn steering_cpus() -> Vec<u32> {
    let (Ok(allowed), Ok(online)) = (sched_getaffinity(Pid::from_raw(0)), online_cpus()) else {
        return Vec::new();
    };
    let usable = |cpu: &u32| allowed.is_set(*cpu as usize).unwrap_or(false);
    online.into_iter().filter(usable).take(MAX_STEERING_CPUS).collect()
}

/// Gives each of `cpus` a queue with `program` behind it, and tells the receive program of them.
pub(super) fn set(ebpf: &mut Ebpf, program: &ProgramFd, cpus: &[u32]) -> Result<(), Error> {
    let map = ebpf.map_mut(QUEUES).ok_or(Error::Missing(QUEUES))?;
    let mut queues = CpuMap::try_from(map).map_err(Error::map(QUEUES))?;
    let mut targets = SteeringCpus::default();
    for (place, &cpu) in targets.cpus.iter_mut().zip(cpus) {
        queues.set(cpu, QUEUE, Some(program), 0).map_err(|e| Error::Steering(Box::new(e)))?;
        *place = cpu;
        targets.count += 1;
    }
    let map = ebpf.map_mut(TARGETS).ok_or(Error::Missing(TARGETS))?;
    let mut array = Array::<_, SteeringCpus>::try_from(map).map_err(Error::map(TARGETS))?;
    array.set(0, targets, 0).map_err(Error::map(TARGETS))
}
