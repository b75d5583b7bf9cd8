//! The benchmarks with minimal settings. Tested is only that they run, and the form of their output.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;
use mtd_tests::require_root;
use mtd_tests::runner::alone;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::demo::left_behind;

const PATIENCE: Duration = Duration::from_mins(2);

fn start(arguments: &[&str]) -> Result<Running> {
    alone("a benchmark measures, and takes all processors")?;
    require_root();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtd-bench"));
    command.args(arguments).env("MTD_BIN", mtd_program()?);
    Running::spawn("mtd-bench", command)
}

/// Runs the benchmark `name` quickly. Returns its part of the results, and the page.
fn run(name: &str) -> Result<(Value, String)> {
    let folder = tempfile::tempdir()?;
    let path = |file| -> Result<String> {
        Ok(folder.path().join(file).to_str().context("path of the results")?.to_owned())
    };
    let (json, page) = (path("results.json")?, path("page.md")?);
    let mut bench = start(&[name, "--quick", "--commit", "c0ffee", "--json", &json, "--report", &page])?;
    let status = bench.wait(PATIENCE)?;
    ensure!(status.success(), "mtd-bench ended with {status}:\n{}", bench.log());
    ensure!(left_behind(bench.pid())?.is_empty(), "left behind: {:?}", left_behind(bench.pid())?);
    let mut results: Value = serde_json::from_str(&fs::read_to_string(json)?)?;
    assert_eq!(keys(&results), BTreeSet::from(["machine", "commit", name]));
    assert_eq!(results["commit"], "c0ffee");
    Ok((results[name].take(), fs::read_to_string(page)?))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn positive(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_f64).is_some_and(|number| number > 0.0)
}

#[test]
fn drop_has_a_rate_for_every_kind_of_frame() -> Result<()> {
    let (drop, page) = run("drop")?;
    let cases = [
        "bare",
        "bare_random",
        "unauthorised_1k",
        "unauthorised_1k_fixed",
        "unauthorised_1m",
        "unauthorised_1m_fixed",
        "bad_sequence",
        "bad_tag",
        "nft",
    ];
    assert_eq!(keys(&drop), BTreeSet::from(cases));
    for case in cases {
        for key in ["mpps", "ratio_to_bare"] {
            assert!(positive(&drop, &format!("/{case}/{key}")), "{case}: {drop}");
        }
    }
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines.contains(&"- Commit: `c0ffee`"), "{page}");
    for start in ["| drop | wrong sequence numbers / bare | ≥ 0.5 | ", "| nft | ", "mtd_receive "] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start:?} in {page}");
    }
    Ok(())
}

#[test]
fn rotate_loads_slots_of_every_size() -> Result<()> {
    let (rotate, _) = run("rotate")?;
    assert_eq!(keys(&rotate), BTreeSet::from(["1k", "16k", "100k", "1m"]));
    for size in rotate.as_object().into_iter().flatten().map(|(_, size)| size) {
        assert!(positive(size, "/slot_ms") && size["core_share"].is_f64(), "{rotate}");
        assert_eq!(size["late"], 0, "{rotate}");
    }
    Ok(())
}

#[test]
fn flood_makes_two_curves() -> Result<()> {
    let (flood, page) = run("flood")?;
    assert_eq!(
        keys(&flood),
        BTreeSet::from(["curve", "half_at_mpps", "beside", "beside_half_at_mpps"]),
        "{flood}"
    );
    for curve in ["curve", "beside"] {
        for point in [0, 1] {
            assert!(positive(&flood, &format!("/{curve}/{point}/1")), "{flood}");
        }
        assert!(positive(&flood, &format!("/{curve}/1/0")), "no frame arrived: {flood}");
        assert!(page.contains(&format!("| {curve}: Mpps | per second |")), "{page}");
    }
    Ok(())
}

#[test]
fn an_interrupt_ends_it_early_and_leaves_nothing() -> Result<()> {
    let mut bench = start(&["rotate", "--rounds", "100"])?;
    bench.wait_for_line("round 1 of 100", PATIENCE)?;
    let own = left_behind(bench.pid())?;
    assert!(!own.is_empty(), "nothing to leave behind");
    let status = bench.terminate(Signal::SIGINT, PATIENCE)?;
    assert_eq!(status.code(), Some(1), "{}", bench.log());
    assert!(bench.log().contains("ended by a signal"), "{}", bench.log());
    assert_eq!(left_behind(bench.pid())?, [""; 0], "{}", bench.log());
    Ok(())
}
