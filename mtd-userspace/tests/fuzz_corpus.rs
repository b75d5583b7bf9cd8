//! Replays the committed corpus of the fuzz targets: no fuzzer, no special build (`cargo xtask fuzz` makes new inputs).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

// The fuzz crate is a workspace of its own, which needs a C++ compiler: only its functions are wanted here.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The names in a folder, without what stands behind the first dot.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    entries.map(|entry| name(entry.unwrap()).split('.').next().unwrap_or_default().to_owned()).collect()
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
        let mut replayed = 0;
        for entry in fs::read_dir(fuzz().join("corpus").join(name)).unwrap() {
            let path = entry.unwrap().path();
            // Shown by the test harness when the target panics.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "no input for {name}");
    }
}
