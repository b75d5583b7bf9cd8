//! The command line: one module for each subcommand.

mod check;
mod debug;
mod dht;
mod drops;
mod events;
mod follow;
mod guard;
mod introduction;
mod keys;
mod logging;
mod output;
mod peers;
mod run;
mod sessions;
mod status;
mod web;

use std::io;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use clap::{ArgAction, Parser, Subcommand};

use self::logging::{LogFormat, complain};
use crate::controller;
use crate::remedy::{Doing, clause};

/// Threads that work on tasks.
const WORKERS: usize = 2;

/// Moving-target network defence: servers that strangers cannot find.
#[derive(Debug, Parser)]
#[command(
    name = "mtd",
    version,
    max_term_width = 100,
    after_help = "Examples:
  mtd genpsk > /etc/mtd/keys/laptop.key   make a key for both ends of a session
  mtd check                               check the configuration
  mtd run -c /etc/mtd/mtd.toml            run the controller until Ctrl-C
  mtd peers add laptop PUBLIC_KEY         register a client
  mtd status                              show the state of controller and sessions
  mtd drops --follow                      show dropped packets as they come
  mtd events --follow                     show events as they happen

Exit status: 0 success, 1 failure, 2 wrong usage; `mtd status` has further values."
)]
struct Cli {
    /// Log more: -v for debug, -vv for trace. The environment variable `MTD_LOG` takes filters such as `mtd=debug`.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Format of the log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "human", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a new private key (X25519, base64).
    #[command(after_help = "Example: umask 077; mtd genkey > private.key")]
    Genkey,
    /// Print a new pre-shared key (32 random bytes, base64): the secret of a statically configured session.
    #[command(after_help = "Example: umask 077; mtd genpsk > laptop.key")]
    Genpsk,
    /// Read a private key from standard input and print its public key.
    #[command(after_help = "Example: mtd pubkey < private.key > public.key")]
    Pubkey,
    /// Check a configuration without changing anything.
    Check(check::CheckArgs),
    /// Run the controller in the foreground.
    Run(run::RunArgs),
    /// Make the protected prefixes dark, without a controller.
    Attach(run::AttachArgs),
    /// Remove everything that mtd has attached to an interface.
    Detach(run::DetachArgs),
    /// Keep what `--confirm-within` would undo.
    Confirm(guard::ConfirmArgs),
    /// Change what happens to packets that are not valid: they are dropped, or only counted.
    Policy(guard::PolicyArgs),
    /// Detach an interface if nobody confirms.
    #[command(hide = true)]
    Guard(guard::GuardArgs),
    /// Show the state of the controller and its sessions.
    Status(status::StatusArgs),
    /// Show the sessions with registered clients and with servers.
    Sessions(sessions::SessionsArgs),
    /// Register, remove and list clients.
    Peers(peers::PeersArgs),
    Introduction(introduction::IntroductionArgs),
    /// Make the controller read its configuration and the registered clients again.
    Reload(peers::ReloadArgs),
    /// Show which packets are dropped, and why.
    Drops(drops::DropsArgs),
    /// Show what happens: sessions, paths, registrations, settings, trouble, dropped packets.
    Events(events::EventsArgs),
    /// Print the link to the web view.
    Web(web::WebArgs),
    /// Look something up in the DHT, store something in it, or serve a private one.
    Dht(dht::DhtArgs),
    /// Reports for developers.
    Debug(debug::DebugArgs),
}

/// Exit status of `mtd run` when nobody has confirmed. The unit has it in `RestartPreventExitStatus=`.
const UNCONFIRMED: u8 = 5;

/// Runs the command given by the arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.verbose, cli.log_format);
    if let Err(error) = logging::forbid_core_dumps() {
        tracing::warn!("keys may get into core dumps: {error}");
    }
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            if error.is::<controller::Unconfirmed>() {
                ExitCode::from(UNCONFIRMED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Genkey => keys::genkey()?,
        Command::Genpsk => keys::genpsk()?,
        Command::Pubkey => keys::pubkey()?,
        Command::Check(args) => check::run(&args)?,
        Command::Run(args) => runtime()?.block_on(run::run(args))?,
        Command::Attach(args) => runtime()?.block_on(run::attach(args))?,
        Command::Detach(args) => runtime()?.block_on(run::detach(args))?,
        Command::Status(args) => {
            return runtime()?.block_on(status::run(&args, controller::offline_status));
        }
        Command::Confirm(args) => runtime()?.block_on(guard::confirm(args))?,
        Command::Policy(args) => runtime()?.block_on(guard::policy(args))?,
        Command::Guard(args) => runtime()?.block_on(guard::guard(args))?,
        Command::Sessions(args) => {
            runtime()?.block_on(sessions::run(&args, controller::offline_status))?;
        }
        Command::Peers(args) => runtime()?.block_on(peers::run(args))?,
        Command::Introduction(args) => runtime()?.block_on(introduction::run(&args))?,
        Command::Reload(args) => runtime()?.block_on(peers::reload(&args))?,
        Command::Drops(args) => runtime()?.block_on(drops::run(&args, controller::offline_status))?,
        Command::Events(args) => runtime()?.block_on(events::run(&args))?,
        Command::Web(args) => web::run(&args)?,
        Command::Dht(args) => runtime()?.block_on(dht::run(&args))?,
        Command::Debug(args) => debug::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails unless this many threads can be started at a time: the runtime panics where they cannot.
fn require_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // None ends before all have begun.
        let _closed = gate.lock();
        (0..count)
            .try_for_each(|_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).map(drop))
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    require_threads(WORKERS + 1).map_err(|error| {
        let way = clause(Doing::Start, &error);
        anyhow::anyhow!("cannot start threads: {error}{way}")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    runtime.map_err(|error| {
        let way = clause(Doing::Start, &error);
        anyhow::anyhow!("cannot start: {error}{way}")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
