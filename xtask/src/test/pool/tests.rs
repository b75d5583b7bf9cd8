//! Tests of the pool. They run shell scripts instead of test programs; the scripts end as the harness does.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;

use super::*;

const OK: &str = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'";
const BAD: &str = "echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101";

fn case(name: &str, script: &str) -> Case {
    let command = Line {
        executable: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        directory: "/".into(),
    };
    Case { program: "sh".to_owned(), name: name.to_owned(), command }
}

fn run_with(
    jobs: usize,
    cases: Vec<Case>,
    provide: &(dyn Fn(&str) -> Result<PathBuf> + Sync),
) -> Vec<Record> {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let scratch = std::env::temp_dir().join(format!("xtask-pool-{}-{number}", std::process::id()));
    let start = |line: &Line, variables: &[(&str, OsString)]| {
        let mut command = Command::new(&line.executable);
        command.args(&line.arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    };
    let pool = Pool { jobs, live: false, scratch: scratch.clone(), command: &start, provide };
    let mut records = pool.run(cases).unwrap();
    fs::remove_dir_all(scratch).unwrap();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

fn run(jobs: usize, cases: Vec<Case>) -> Vec<Record> {
    run_with(jobs, cases, &|name| bail!("there is no {name}"))
}

fn verdict(script: &str) -> Verdict {
    run(2, vec![case("one", script)])[0].verdict
}

#[test]
fn a_test_passes_only_with_a_closing_line_that_counts_it() {
    assert_eq!(verdict(OK), Verdict::Passed);
    assert_eq!(verdict(BAD), Verdict::Failed);
    assert_eq!(verdict("echo 'test result: ok. 0 passed; 0 failed; 1 ignored'"), Verdict::Ignored);
    assert_eq!(verdict("kill -SEGV $$"), Verdict::Failed);
    assert_eq!(verdict("true"), Verdict::Failed, "it said nothing");
    assert_eq!(
        verdict("echo 'test result: ok. 0 passed; 0 failed; 0 ignored'"),
        Verdict::Failed,
        "no such test"
    );
    assert_eq!(verdict(&format!("{OK}; exit 1")), Verdict::Failed);
}

#[test]
fn tests_run_beside_each_other_and_each_is_timed() {
    let start = Instant::now();
    let cases = ["a", "b", "c", "d"].map(|name| case(name, &format!("sleep 0.5; {OK}")));
    let records = run(4, cases.to_vec());
    let elapsed = start.elapsed();
    // On a busy machine both times are longer.
    let one_after_the_other: Duration = records.iter().map(|record| record.elapsed).sum();
    assert!(elapsed < one_after_the_other.mul_f64(0.75), "{elapsed:?}, {one_after_the_other:?}");
    assert!(records.iter().all(|record| record.elapsed >= Duration::from_millis(500)), "{records:?}");
}

#[test]
fn who_asks_for_the_machine_runs_after_the_others_and_by_itself() {
    let folder = std::env::temp_dir().join(format!("xtask-alone-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    // Each script leaves a file while it runs; a script that runs alone sees no other's file.
    let busy = format!("touch {0}/$$; sleep 0.2; rm {0}/$$; {OK}", folder.display());
    let shy = format!(
        "test -n \"$MTD_TEST_ALONE\" || {{ echo alone > $MTD_TEST_REQUEST; {BAD}; }}; test -z \"$(ls {0})\" || {{ {BAD}; }}; {busy}",
        folder.display()
    );
    let cases = vec![case("a", &shy), case("b", &busy), case("c", &busy), case("d", &shy), case("e", &busy)];
    let records = run(3, cases);
    let alone: Vec<_> = records.iter().map(|record| (record.verdict, record.alone)).collect();
    let (shy, busy) = ((Verdict::Passed, true), (Verdict::Passed, false));
    assert_eq!(alone, [shy, busy, busy, shy, busy]);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_a_test_asks_for_is_made_and_the_test_runs_again() {
    let asks = format!(
        "test -n \"$WANTED\" || {{ echo WANTED > $MTD_TEST_REQUEST; {BAD}; }}; test $WANTED = /made; {OK}"
    );
    let made = AtomicUsize::new(0);
    let provide = |name: &str| {
        assert_eq!(name, "WANTED");
        made.fetch_add(1, Ordering::Relaxed);
        Ok(PathBuf::from("/made"))
    };
    assert_eq!(run_with(2, vec![case("one", &asks)], &provide)[0].verdict, Verdict::Passed);
    assert_eq!(made.into_inner(), 1);
    assert_eq!(verdict(&asks), Verdict::Failed, "what cannot be made is no reason to pass");
}

#[test]
fn who_asks_over_and_over_fails_in_the_end() {
    let never = format!("echo alone > $MTD_TEST_REQUEST; {BAD}");
    assert_eq!(verdict(&never), Verdict::Failed);
    let greedy = format!("echo WANTED > $MTD_TEST_REQUEST; {BAD}");
    assert_eq!(run_with(2, vec![case("one", &greedy)], &|_| Ok("/made".into()))[0].verdict, Verdict::Failed);
}

#[test]
fn a_wish_of_a_test_that_passes_is_none() {
    assert_eq!(verdict(&format!("echo alone > $MTD_TEST_REQUEST; {OK}")), Verdict::Passed);
}
