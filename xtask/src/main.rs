//! `cargo xtask`: set-up, build, demonstration, tests and packaging of mtd, one module per subcommand.
//!
//! To add a subcommand, write a module with `Args` (clap) and `run(&Args) -> anyhow::Result<()>`, a variant of
//! [`Command`] whose docstring is its help, and an arm in [`main`]. Messages of a subcommand go to stderr; stdout is for
//! data (test output, reports, JSON).

mod bench;
mod build;
mod console;
mod demo;
mod fuzz;
mod lint;
mod package;
mod privilege;
mod process;
mod run;
mod setup;
mod test;
mod timing;
mod torture;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, demonstration, tests and packaging of mtd.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the BPF tool chain and the programs that tests and demonstration drive.
    Setup(setup::Args),
    /// Build the BPF object, the controller and the CLI, and report load time and size of the programs.
    Build(build::Args),
    /// Run the demonstration in network namespaces, or, after `--`, mtd itself on this host.
    Run(run::Args),
    /// Run the lints and all tests, from unit tests to network namespaces.
    Test(test::Args),
    /// Run the lints: format, clippy, and checks of the dependencies.
    Lint(lint::Args),
    /// Make a Debian package.
    Package(package::Args),
    /// Measure mtd against the bare kernel, in network namespaces.
    Bench(bench::Args),
    /// Fuzz every decoder with libFuzzer.
    Fuzz(fuzz::Args),
    /// Run the long form of the torture tests: controllers killed and stopped at random under traffic, random frames.
    Torture(torture::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Torture(args) => torture::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
