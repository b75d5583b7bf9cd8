//! `mtd status --watch`: a view of the status that is updated in place.

mod terminal;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};

use self::terminal::Terminal;
use super::human::{endpoint, list};
use super::{Answers, unix_now};
use crate::cli::output;
use crate::model::Traffic;
use crate::status::{Endpoint, Status};

/// Maximum number of drop reasons that are shown: those with the highest rates.
const MAX_REASONS: usize = 8;

/// Calls `look` at the interval `every` and shows the answers, until the user asks for the end.
///
/// # Errors
/// The terminal or standard output cannot be written.
pub(super) async fn run(every: Duration, look: impl AsyncFn() -> Answers) -> anyhow::Result<ExitCode> {
    let mut terminal =
        if io::stdout().is_terminal() && io::stdin().is_terminal() { Some(Terminal::open()?) } else { None };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(every);
    let mut before: Option<(Vec<Status>, Instant)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            quit = quit(terminal.as_mut()) => {
                quit?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        let answers = look().await;
        let now = Instant::now();
        let earlier = before.as_ref().map(|(statuses, then)| (statuses.as_slice(), now - *then));
        let mut lines = view(&answers, earlier, unix_now());
        match &terminal {
            Some(_) => {
                lines[0].push_str("; q ends");
                terminal::draw(&lines)?;
            }
            None if !print(&lines)? => return Ok(ExitCode::SUCCESS),
            None => {}
        }
        before = Some((answers.statuses, now));
    }
}

/// Ready when the user asks for the end. Without a terminal, never ready.
async fn quit(terminal: Option<&mut Terminal>) -> io::Result<()> {
    match terminal {
        Some(terminal) => terminal.quit().await,
        None => std::future::pending().await,
    }
}

/// Prints the lines and an empty one. False if nobody reads standard output any more.
fn print(lines: &[String]) -> anyhow::Result<bool> {
    let text = lines.join("\n") + "\n\n";
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => output::quiet_if_unread(written).map(|()| true),
    }
}

/// The lines to show. `before`: the previous statuses, and how long ago they were fetched. `unix`: the Unix time in s.
fn view(answers: &Answers, before: Option<(&[Status], Duration)>, unix: f64) -> Vec<String> {
    let time = UNIX_EPOCH + Duration::from_secs_f64(unix.max(0.0));
    let mut lines = vec![format!("mtd status at {}", humantime::format_rfc3339_seconds(time))];
    for status in &answers.statuses {
        let earlier = before.and_then(|(statuses, since)| {
            let same = |earlier: &&Status| earlier.interface == status.interface && earlier.pid == status.pid;
            Some(Earlier { status: statuses.iter().find(same)?, since })
        });
        lines.push(String::new());
        lines.extend(instance(status, earlier.as_ref()));
    }
    lines.extend(answers.failures.iter().map(|failure| format!("\n{failure}")));
    lines
}

/// The previous status of an instance, and how long ago it was fetched.
struct Earlier<'a> {
    status: &'a Status,
    since: Duration,
}

impl Earlier<'_> {
    /// By how much a counter grew a second, rounded.
    fn rate(&self, now: u64, before: u64) -> u64 {
        let since = self.since.as_millis().max(1);
        ((u128::from(now.saturating_sub(before)) * 1000 + since / 2) / since) as u64
    }
}

fn instance(status: &Status, earlier: Option<&Earlier<'_>>) -> Vec<String> {
    let controller = match status.pid {
        Some(pid) => format!("controller {pid}, up {}", output::span(status.uptime_seconds)),
        None => "no controller".to_owned(),
    };
    let prefixes = list(&status.prefixes);
    let mut lines = vec![format!("{}: {prefixes}, {} XDP, {controller}", status.interface, status.xdp)];
    lines.extend(status.warnings.iter().map(|warning| format!("  ! {}", warning.text)));
    let rate = |value: &dyn Fn(&Status) -> u64| {
        earlier.map_or("-".to_owned(), |earlier| {
            format!("{}/s", earlier.rate(value(status), value(earlier.status)))
        })
    };
    let dropped = |status: &Status| status.drops.values().sum::<u64>();
    lines.push(format!(
        "  accepted {}, sent {}, dropped {}, none of ours {}",
        rate(&|status| status.frames.accepted),
        rate(&|status| status.frames.sent),
        rate(&dropped),
        rate(&|status| status.frames.passed),
    ));
    if let Some(left) = status.slots.and_then(|slots| slots.horizon_seconds) {
        lines.push(format!("  slots loaded for {left:.0} s"));
    }
    if let Some(earlier) = earlier {
        lines.extend(reasons(status, earlier));
    }
    lines.extend(sessions(status, earlier));
    lines
}

/// The drops since the previous update, by reason, the most frequent ones first.
fn reasons(status: &Status, earlier: &Earlier<'_>) -> Option<String> {
    let before = |reason: &String| earlier.status.drops.get(reason).copied().unwrap_or_default();
    let recent =
        status.drops.iter().map(|(reason, &count)| (reason.clone(), count.saturating_sub(before(reason))));
    let recent: BTreeMap<_, _> = recent.filter(|(_, count)| *count > 0).collect();
    let parts: Vec<_> = output::by_count(&recent)
        .into_iter()
        .take(MAX_REASONS)
        .map(|(reason, count)| format!("{reason} {}/s", earlier.rate(count, 0)))
        .collect();
    (!parts.is_empty()).then(|| format!("  drops: {}", parts.join(", ")))
}

/// The parts of a session or statically configured peer that are shown.
struct Row<'a> {
    name: &'a str,
    state: &'static str,
    ends: Option<(Endpoint, Endpoint)>,
    traffic: [Traffic; 2],
    last_valid: Option<f64>,
}

fn rows(status: &Status) -> Vec<Row<'_>> {
    let peers = status.peers.iter().map(|peer| Row {
        name: &peer.name,
        state: peer.state.as_str(),
        ends: Some((peer.local, peer.remote)),
        traffic: [peer.received, peer.sent],
        last_valid: peer.last_valid_seconds,
    });
    let sessions = status.sessions.iter().map(|session| Row {
        name: &session.name,
        state: session.state.as_str(),
        ends: session.local.zip(session.remote),
        traffic: [session.received, session.sent],
        last_valid: session.last_valid_seconds,
    });
    peers.chain(sessions).collect()
}

fn sessions(status: &Status, earlier: Option<&Earlier<'_>>) -> Vec<String> {
    let before: BTreeMap<&str, [Traffic; 2]> = earlier
        .map(|earlier| rows(earlier.status).into_iter().map(|row| (row.name, row.traffic)).collect())
        .unwrap_or_default();
    let mut lines = Vec::new();
    for Row { name, state, ends, traffic, last_valid } in rows(status) {
        let age = last_valid.map_or("never".to_owned(), |seconds| format!("{seconds:.1} s ago"));
        let rates = match (before.get(name), earlier) {
            (Some(old), Some(earlier)) => [0, 1].map(|way: usize| {
                let rate = earlier.rate(traffic[way].bytes, old[way].bytes);
                format!("{}/s", output::bytes(rate))
            }),
            _ => ["-".to_owned(), "-".to_owned()],
        };
        lines.push(format!("  {name}: {state}, last valid {age}, in {}, out {}", rates[0], rates[1]));
        if let Some((local, remote)) = ends {
            lines.push(format!("    {} <-> {}", endpoint(local), endpoint(remote)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::{office, session};
    use crate::control::tests::sample;

    fn answers(status: Status) -> Answers {
        Answers { statuses: vec![status], failures: Vec::new() }
    }

    #[test]
    fn rates_come_from_two_looks_and_addresses_are_shown_as_they_move() {
        let old = Status { peers: vec![office()], ..sample() };
        let mut new = old.clone();
        new.frames.accepted += 50;
        new.drops.insert("tcp".to_owned(), 4);
        new.peers[0].received.bytes += 4096;
        new.peers[0].local.port = 4001;
        new.sessions = vec![session()];
        let lines = view(&answers(new), Some((&[old], Duration::from_secs(2))), 1_800_000_000.5);
        let expected = [
            "mtd status at 2027-01-15T08:00:00Z",
            "",
            "eth0: 2001:db8:1::/64, native XDP, controller 42, up 1 min 1 s",
            "  accepted 25/s, sent 0/s, dropped 2/s, none of ours 0/s",
            "  drops: tcp 2/s",
            "  office: open, last valid 2.4 s ago, in 2.00 KiB/s, out 0 B/s",
            "    [2001:db8:1::1234]:4001 <-> [2001:db8:2::5678]:50000",
            "  laptop: open, last valid 2.4 s ago, in -, out -",
            "    [2001:db8:1::1234]:4000 <-> [2001:db8:2::5678]:50000",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_new_controller_has_no_rates_yet() {
        let (old, new) = (sample(), Status { pid: Some(43), ..sample() });
        let lines = view(&answers(new), Some((&[old], Duration::from_secs(1))), 0.0);
        assert!(lines.contains(&"  accepted -, sent -, dropped -, none of ours -".to_owned()), "{lines:?}");
    }
}
