//! Requests of a test to `cargo xtask test`, which runs each test as a process of its own, several in parallel.
//!
//! These functions write the request and return an error, which the test passes on. The runner starts the test again when
//! the request is granted, so a test must make its requests before it does anything else. The runner builds only the files
//! that tests request.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

/// Variable that names the file for a request; not set if a test program is started by hand.
const REQUEST_VARIABLE: &str = "MTD_TEST_REQUEST";
/// Variable that is set if no other test is running.
const ALONE_VARIABLE: &str = "MTD_TEST_ALONE";

/// Requests to run alone, for tests that measure or load the machine themselves. `reason` says why the test cannot share
/// the processors.
///
/// If the test program is started by hand, nothing is checked (use `--test-threads=1`).
///
/// # Errors
/// When other tests are running; the runner starts the test again when they have ended.
pub fn alone(reason: &str) -> Result<()> {
    let (request, alone) = (env::var_os(REQUEST_VARIABLE), env::var_os(ALONE_VARIABLE));
    if let (Some(request), None) = (request, alone) {
        fs::write(request, "alone").context("cannot ask for the machine")?;
        bail!("to be run alone: {reason}");
    }
    Ok(())
}

/// Requests a file that `cargo xtask test` makes, by the variable that names it. Returns its path.
///
/// # Errors
/// When the file has not been made (yet).
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
