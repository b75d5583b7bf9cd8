//! What a test may ask of `cargo xtask test`, which runs each test as a process of its own, some beside each other.
//!
//! A test asks by an error that it passes on. The runner starts it again when it can have what it asked for; so it asks
//! before it does anything else. What the runner does not know of, it has not built.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

/// Names the file for a wish; not set where a test program is started by hand.
const REQUEST_VARIABLE: &str = "MTD_TEST_REQUEST";
/// Set when no other test runs.
const ALONE_VARIABLE: &str = "MTD_TEST_ALONE";

/// For tests that cannot share the processors with others, because of `reason`: they measure, or load the machine themselves.
///
/// By hand, it is up to whoever starts the test program (`--test-threads=1`).
///
/// # Errors
/// When other tests run beside this one; the runner starts it again when they have ended.
pub fn alone(reason: &str) -> Result<()> {
    let (request, alone) = (env::var_os(REQUEST_VARIABLE), env::var_os(ALONE_VARIABLE));
    if let (Some(request), None) = (request, alone) {
        fs::write(request, "alone").context("cannot ask for the machine")?;
        bail!("to be run alone: {reason}");
    }
    Ok(())
}

/// A file that `cargo xtask test` makes for the tests that ask for it, by the variable that names it.
///
/// # Errors
/// When it is not there (yet).
pub fn provided(variable: &str) -> Result<PathBuf> {
    let Some(path) = env::var_os(variable).map(PathBuf::from) else {
        if let Some(request) = env::var_os(REQUEST_VARIABLE) {
            fs::write(request, variable).context("cannot ask for a file")?;
        }
        bail!("{variable} is not set; run the tests through `cargo xtask test`");
    };
    ensure!(path.is_file(), "{variable} is {}, which is no file", path.display());
    Ok(path)
}
