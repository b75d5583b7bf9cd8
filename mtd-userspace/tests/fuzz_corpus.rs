//! Replays the committed corpus of the fuzz targets: no fuzzer, no special build (`cargo xtask fuzz` makes new inputs).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

// The fuzz crate is a workspace of its own, which needs a C++ compiler: only its functions are wanted here.
#[expect(unreachable_pub, reason = "public in the crate that the files belong to")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry of a folder").path()).collect()
}

/// The names in a folder, without suffixes.
fn names(folder: &Path) -> BTreeSet<String> {
    files(folder).iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets);
    assert_eq!(names(&fuzz().join("corpus")), targets);
}

#[test]
fn the_corpus_breaks_no_promise() {
    for (name, target) in TARGETS {
        let mut answers = BTreeSet::new();
        for path in files(&fuzz().join("corpus").join(name)) {
            // Shown by the test harness when the target panics.
            println!("{}", path.display());
            answers.insert(target(&fs::read(&path).unwrap()));
        }
        // Only refusals: the format has changed, and the corpus has not.
        assert!(answers.contains(&true), "no input for {name} is accepted");
        assert!(answers.contains(&false), "no input for {name} is refused");
    }
}
