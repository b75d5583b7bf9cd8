//! The log: as text for people, as JSON for programs, with priorities for the journal.

use std::fmt;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::os::fd::AsFd as _;

use clap::ValueEnum;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Text; in the journal without time and level, which the journal adds itself.
    Human,
    /// One JSON object a line: `timestamp`, `level`, `fields`.
    Json,
}

/// Starts logging to standard error.
pub(super) fn start(verbose: u8, format: LogFormat) {
    let default = match verbose {
        // Misbehaviour of DHT nodes is not logged; mtd itself reports when the DHT is out of reach.
        0 => "mtd=info,warn,mainline=off",
        1 => "mtd=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("MTD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Json => log.json().with_target(false).init(),
        LogFormat::Human if is_journal() => log.with_ansi(false).event_format(Journal::new()).init(),
        LogFormat::Human => log.with_ansi(colours).with_target(false).init(),
    }
}

/// Prevents core dumps of this process, because its memory contains keys.
///
/// # Errors
/// The kernel refuses.
pub(super) fn forbid_core_dumps() -> nix::Result<()> {
    // The limit has no effect where dumps are piped to a program; the other setting works there too.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)
}

/// Whether standard error goes to systemd's journal, according to `JOURNAL_STREAM` (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(stderr().as_fd()).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Lines that begin with a priority (sd-daemon(3)) instead of time, level and colours.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The priority as in syslog(3).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Prints an error with its causes to standard error.
pub(super) fn complain(error: &anyhow::Error) {
    // There is nowhere left to report a failure.
    let _ = writeln!(stderr(), "mtd: {error:#}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_journal_gets_priorities_and_nothing_that_it_adds_itself() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let lines = Arc::clone(&lines);
            move || Lines(Arc::clone(&lines))
        };
        let log = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(writer)
            .with_ansi(false)
            .event_format(Journal::new())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::error!("broken");
            tracing::warn!(slots = 3, "late");
            tracing::info!("ready");
            tracing::debug!("look");
            tracing::trace!("see");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>broken\n<4>late slots=3\n<6>ready\n<7>look\n<7>see\n");
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
