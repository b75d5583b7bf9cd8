//! The `mtd` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mtd::cli::main()
}
