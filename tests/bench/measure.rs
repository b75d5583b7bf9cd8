//! Repeated measurements. The cases take turns, so that other load on the machine affects all of them alike.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::cleanup;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Map, Value};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Repetitions of each measurement.
    pub(crate) rounds: u32,
    /// Measure everything only briefly: the figures mean nothing, but every line of code has run.
    pub(crate) quick: bool,
}

impl Extent {
    /// Minimum length of one measurement.
    pub(crate) const fn sample(self) -> Duration {
        if self.quick { Duration::from_millis(20) } else { Duration::from_secs(1) }
    }

    /// `number`, or far fewer in a quick run.
    pub(crate) fn scaled(self, number: u32) -> u32 {
        const FEW: u32 = 50;
        if self.quick { number.min(FEW) } else { number }
    }
}

/// The samples of one case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// The median.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// Adds a sample.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Each sample divided by that of `base` in the same round, in which the other load on the machine was similar.
    pub(crate) fn over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(value, base)| value / base).collect())
    }

    /// The difference between the largest and the smallest sample, as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        let (least, most) =
            self.0.iter().fold((f64::MAX, f64::MIN), |(least, most), &x| (least.min(x), most.max(x)));
        (most - least) / self.median()
    }
}

/// A case and its samples.
pub(crate) type Case<'a> = (&'static str, Box<dyn FnMut() -> Result<f64> + 'a>);

/// The results of a benchmark, case by case.
pub(crate) type Section = Vec<(&'static str, Map<String, Value>)>;

/// Measures every case `rounds` times, in the order a-b-c-a-b-c, and prints each result.
///
/// # Errors
/// The first error of a measurement; a signal that asks to stop.
pub(crate) fn in_turn(
    cases: &mut [Case<'_>],
    rounds: u32,
    unit: &str,
) -> Result<Vec<(&'static str, Samples)>> {
    let mut all: Vec<_> = cases.iter().map(|(name, _)| (*name, Samples::default())).collect();
    for round in 1..=rounds {
        for ((name, measure), (_, samples)) in cases.iter_mut().zip(&mut all) {
            let value = measure()?;
            require_uninterrupted()?;
            eprintln!("round {round} of {rounds}: {name:24} {value:8.2} {unit}");
            samples.push(value);
        }
    }
    Ok(all)
}

/// To be called occasionally during work that takes long.
///
/// # Errors
/// When a signal has asked to stop.
pub(crate) fn require_uninterrupted() -> Result<()> {
    ensure!(!cleanup::interrupted(), "ended by a signal; everything is cleaned up");
    Ok(())
}

/// Pins the calling thread to one of the CPUs that it may use: to the one with this number, modulo the number of CPUs.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn pin(number: usize) -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let cpu = cpus.cycle().nth(number).context("no CPU to run on")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    Ok(sched_setaffinity(this, &only)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_spread_is_relative_to_it() {
        let odd = Samples(vec![3.0, 1.0, 2.0]);
        assert!((odd.median() - 2.0).abs() < 1e-9 && (odd.spread() - 1.0).abs() < 1e-9);
        let even = Samples(vec![4.0, 1.0, 2.0, 3.0]);
        assert!((even.median() - 2.5).abs() < 1e-9 && (even.spread() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (value, base) = (Samples(vec![1.0, 6.0, 2.0]), Samples(vec![2.0, 6.0, 8.0]));
        let ratio = value.over(&base);
        assert!((ratio.median() - 0.5).abs() < 1e-9 && (ratio.spread() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn cases_are_measured_in_turn() {
        let order = std::cell::RefCell::new(String::new());
        let note = |name: char| {
            order.borrow_mut().push(name);
            Ok(f64::from(name as u32))
        };
        let mut cases: Vec<Case<'_>> = vec![("a", Box::new(|| note('a'))), ("b", Box::new(|| note('b')))];
        let all = in_turn(&mut cases, 2, "").unwrap();
        drop(cases);
        assert_eq!(order.into_inner(), "abab");
        assert!(all[1].0 == "b" && (all[1].1.median() - 98.0).abs() < 1e-9);
    }
}
