//! Slot turn-over: the cost of loading the next slot of very many sessions, and whether it is loaded in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use mtd::proto::session::nanoseconds;
use nix::time::{ClockId, clock_gettime};
use serde_json::Map;

use crate::cable::{Cable, Headers, rate};
use crate::fleet::{Fleet, Loaded, PERIOD, boot_time, session};
use crate::generator::{Generator, Random};
use crate::measure::{Extent, Samples, Section, require_uninterrupted};

pub(crate) const ABOUT: &str = "\
Sessions have slots of 3 s. Every 3 s of real time, the controller's own code derives the next slot of every session, loads
it into the maps and unloads the last one; three slots are loaded ahead, the least that can be configured. `slot_ms` is how
long that takes, `core_share` its processor time (including the kernel's) as a part of 3 s, `late` the number of entries that
went live after their slot had begun, and `lag_ms` the longest time from the beginning of an entry's slot until the entry
went live (negative if it was live before). `lookups_mpps` is the rate of strangers' frames to random addresses that the
receive program drops on another CPU while nothing is loaded, `lookups_while_turning` the part of that rate that is left
while slots are loaded without a pause.";

const SIZES: [(&str, u32); 4] = [("1k", 1_000), ("16k", 16_000), ("100k", 100_000), ("1m", 1_000_000)];

/// How far ahead slots are loaded.
const HORIZON: Duration = PERIOD.saturating_mul(3);

/// The section `rotate` of the results.
///
/// # Errors
/// When something cannot be set up, or the kernel refuses.
pub(crate) fn run(extent: Extent) -> Result<Section> {
    SIZES.into_iter().map(|(name, size)| Ok((name, measure(name, extent.scaled(size), extent)?))).collect()
}

fn measure(name: &str, size: u32, extent: Extent) -> Result<Map<String, serde_json::Value>> {
    let cable = Cable::new(&format!("rotate-{name}"))?;
    let sessions = (0..size).map(|index| session(index, PERIOD)).collect::<Result<_>>()?;
    let mut fleet = Fleet::new(&cable, sessions, HORIZON)?;

    let (mut wall, mut share) = (Samples::default(), Samples::default());
    let mut all = Loaded::NOTHING;
    // In a quick run, only the few sessions whose slot ends in that time have something to load.
    let pause = if extent.quick { extent.sample() } else { PERIOD };
    let mut next = Instant::now();
    for round in 1..=extent.rounds {
        next += pause;
        wait_until(next)?;
        let (start, cpu) = (Instant::now(), processor_time()?);
        all += fleet.advance(boot_time()?)?;
        let (elapsed, cpu) = (start.elapsed(), processor_time()?.saturating_sub(cpu));
        wall.push(elapsed.as_secs_f64() * 1e3);
        share.push(cpu.as_secs_f64() / PERIOD.as_secs_f64());
        eprintln!("round {round} of {}: {name:24} {:8.2} ms", extent.rounds, elapsed.as_secs_f64() * 1e3);
    }
    let (idle, turning) = lookups(&cable, &mut fleet, extent.sample())?;
    let values = [
        ("slot_ms", wall.median()),
        ("spread", wall.spread()),
        ("core_share", share.median()),
        ("lookups_mpps", idle),
        ("lookups_while_turning", turning / idle),
    ];
    let mut values: Map<_, _> =
        values.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    values.insert("late".to_owned(), all.late.into());
    values.insert("lag_ms".to_owned(), all.lag.map(|lag| lag as f64 / 1e6).into());
    Ok(values)
}

/// Mpps of strangers' frames that are dropped, first while nothing is loaded, then while slot after slot is loaded.
fn lookups(cable: &Cable, fleet: &mut Fleet, sample: Duration) -> Result<(f64, f64)> {
    let frame = cable.frame(&Headers::STRANGER)?;
    let generator = Generator::new(&cable.sender, &cable.veth.left, &frame, Random::DESTINATION)?;
    let idle = rate(&generator, sample, || cable.dropped())?;
    let done = AtomicBool::new(false);
    let turning = thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            let mpps = rate(&generator, sample, || cable.dropped());
            done.store(true, Ordering::Relaxed);
            mpps
        });
        // These slots are far in the future, but are loaded like those of the present.
        let mut now = boot_time()?;
        while !done.load(Ordering::Relaxed) {
            now += nanoseconds(PERIOD);
            fleet.advance(now)?;
        }
        strangers.join().map_err(|_| anyhow!("the generator's thread panicked"))?
    })?;
    Ok((idle, turning))
}

/// Processor time that this process has used.
fn processor_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?))
}

fn wait_until(time: Instant) -> Result<()> {
    const LONGEST: Duration = Duration::from_millis(100);
    loop {
        require_uninterrupted()?;
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LONGEST));
    }
}
