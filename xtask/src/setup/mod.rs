//! `cargo xtask setup`: installs the BPF tool chain, and the programs that tests and demonstration drive.

mod debian;
pub(crate) mod dependency_check;
mod linker;
mod peers;
mod programs;
mod toolchain;

use anyhow::{Result, bail};

use crate::console::say;
use crate::privilege::Privilege;
use crate::workspace::Workspace;

use debian::Apt;
use programs::User;
pub(crate) use toolchain::{TARGET, ToolChain};

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup           install what is missing, without questions
  cargo xtask setup --check   only report; exit code 1 if something is missing

If you are not root, builds run as you and packages are installed through `sudo -n`. Without sudo
packages are left out, and the command for the operator is printed.";

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Change nothing: report what is there, and exit with 1 if something is missing.
    #[arg(long)]
    check: bool,
    /// Also install the other tunnels that the benchmarks compare with mtd.
    #[arg(long)]
    bench: bool,
}

/// What a subcommand needs. Each need includes the BPF tool chain, which is enough to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The BPF tool chain only.
    ToolChain,
    /// Also the programs that the demonstration drives.
    Run,
    /// Also the programs that make a package.
    Packaging,
    /// Also cargo-deny, which checks the dependencies.
    Lints,
    /// Also the programs that tests drive.
    Tests,
    /// Also the programs that benchmarks drive and, as far as available, the tunnels that they compare with mtd.
    Benchmarks,
}

impl Need {
    fn user(self) -> Option<User> {
        match self {
            Self::ToolChain | Self::Lints => None,
            Self::Run => Some(User::Run),
            Self::Packaging => Some(User::Package),
            Self::Tests => Some(User::Test),
            Self::Benchmarks => Some(User::Bench),
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Something is missing (`--check`), or could not be installed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    if args.check {
        return check(&workspace);
    }
    ensure(&workspace, Need::Lints)?;
    let tool_chain = ensure(&workspace, Need::Tests)?;
    if args.bench {
        ensure(&workspace, Need::Benchmarks)?;
    }
    tool_chain.verify(&workspace)?;
    say(&format!("set up: {}", tool_chain.description()));
    Ok(())
}

/// The BPF tool chain and whatever else is needed, installed if it is missing. Prints nothing if everything is there.
///
/// # Errors
/// Something could not be installed; the error names it, and the remedy.
pub(crate) fn ensure(workspace: &Workspace, need: Need) -> Result<ToolChain> {
    let found = ToolChain::find();
    let user = need.user();
    let missing = user.map(programs::missing).unwrap_or_default();
    let peers = if need == Need::Benchmarks { peers::missing() } else { Vec::new() };
    let checker = need != Need::Lints || dependency_check::find().is_some();
    if let (Some(tool_chain), true) = (&found, checker && missing.is_empty() && peers.is_empty()) {
        return Ok(tool_chain.clone());
    }
    let mut apt = Apt::detect(Privilege::detect());
    // Programs come last: installing them fails without root, and everything that needs no root is done by then.
    let tool_chain = match found {
        Some(tool_chain) => tool_chain,
        None => toolchain::install(workspace, &mut apt)?,
    };
    if !checker {
        dependency_check::install()?;
    }
    if let Some(user) = user {
        programs::install(user, &missing, &mut apt)?;
    }
    peers::install(&peers, &mut apt);
    Ok(tool_chain)
}

fn check(workspace: &Workspace) -> Result<()> {
    let mut complete = true;
    match ToolChain::find().map(|found| (found.description(), found.verify(workspace))) {
        Some((description, Ok(()))) => println!("ok       BPF tool chain: {description}"),
        Some((_, Err(error))) => {
            complete = false;
            println!("broken   BPF tool chain: {error:#}");
        }
        None => {
            complete = false;
            println!("missing  BPF tool chain: no {}", toolchain::Facts::probe().gaps());
        }
    }
    for program in programs::PROGRAMS {
        let state = match (program.is_present(), program.optional) {
            (true, _) => "ok      ",
            (false, true) => "optional",
            (false, false) => "missing ",
        };
        complete &= program.is_present() || program.optional;
        println!("{state} {} ({}; Debian package {})", program.name, program.purpose, program.package);
    }
    let checker = dependency_check::find().is_some();
    complete &= checker;
    println!(
        "{} cargo-deny (licences and sources of dependencies)",
        if checker { "ok      " } else { "missing " }
    );
    for name in peers::missing() {
        println!("optional {name} (for the benchmarks; `cargo xtask setup --bench`)");
    }
    if !complete {
        bail!("the set-up is not complete: `cargo xtask setup` installs what is missing");
    }
    Ok(())
}
