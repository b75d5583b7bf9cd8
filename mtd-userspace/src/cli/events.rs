//! `mtd events`: shows recent events, or follows events as they happen.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;

use super::follow::{self, interrupt};
use super::output::{self, Style};
use super::status::{self, Select};
use crate::control::{ControlSocket, client};
use crate::instance::RUN_DIR;
use crate::status::{EventDocument, EventLine, PathEvent, SessionEvent};

/// Show what happens: sessions, paths, registrations, settings, trouble, dropped packets
///
/// Shows the last events, which the controller keeps (256, and 64 dropped packets), the oldest first. With --follow:
/// events as they happen, until Ctrl-C. Exit status: 0 if all is well, 1 if a controller is missing, does not answer or
/// stops, 2 for a wrong command line.
///
/// With --json: one object a line, either an event with the keys `number`, `time_ns`, `kind` and one named after the kind,
/// or {"lost": n} where this program was too slow to see n events. docs/events.md says what they mean.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd events\n  \
    sudo mtd events --follow --interface eth0\n  \
    sudo mtd events --follow --json | jq 'select(.kind == \"session\").session'")]
pub(super) struct EventsArgs {
    /// The controllers to ask.
    #[command(flatten)]
    pub select: Select,

    /// Print events as they come
    #[arg(short, long)]
    pub follow: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the events of the selected controllers.
///
/// # Errors
/// A controller is missing, does not answer or stops, or standard output cannot be written.
pub(super) async fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let sockets = args.select.sockets(Path::new(RUN_DIR))?;
    let style = Style::of_stdout();
    let describe = move |line: &str| describe(line, style);
    if args.follow {
        let connect = async |socket: &ControlSocket| client::events(&socket.path, true).await;
        return follow::run(sockets, connect, (args.json, describe), io::stdout(), interrupt()).await;
    }
    let labelled = sockets.len() > 1 && !args.json;
    let (mut text, mut failures) = (String::new(), Vec::new());
    for socket in sockets {
        match kept(&socket, args.json, describe).await {
            Ok(lines) => {
                for line in lines {
                    let label = if labelled { format!("{}: ", socket.interface) } else { String::new() };
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{label}{line}");
                }
            }
            Err(error) => failures.push(error),
        }
    }
    output::print(&text)?;
    status::joined(failures)
}

/// The lines for the events that a controller has kept.
async fn kept(
    socket: &ControlSocket,
    json: bool,
    describe: impl Fn(&str) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<String>> {
    let mut lines = client::events(&socket.path, false).await?;
    let mut kept = Vec::new();
    while let Some(line) = lines.next_line().await? {
        kept.push(if json { line } else { describe(&line)? });
    }
    Ok(kept)
}

/// An event in one line.
fn describe(line: &str, style: Style) -> anyhow::Result<String> {
    let event = match serde_json::from_str(line).with_context(|| format!("not an event: {line}"))? {
        EventLine::Event(event) => event,
        EventLine::Lost { lost } => return Ok(format!("({lost} more, too fast to be shown)")),
    };
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(event.time_ns);
    let time = humantime::format_rfc3339_millis(time);
    // Padded before it is coloured, since the escape sequences count as characters but take no room on a terminal.
    let kind = style.heading(&format!("{:13}", event.kind));
    Ok(format!("{time} {kind} {}", what(&event)))
}

/// Describes an event in words.
fn what(event: &EventDocument) -> String {
    if let Some(drop) = &event.drop {
        return super::drops::packet(drop);
    }
    if let Some(session) = &event.session {
        return session_text(session);
    }
    if let Some(PathEvent { name, mtu }) = &event.path {
        let who = name.as_ref().map_or_else(String::new, |name| format!(" to {name}"));
        return match mtu {
            Some(mtu) => format!("the path{who} carries packets of up to {mtu} bytes"),
            None => format!("the MTU of the path{who} is tried again"),
        };
    }
    if let Some(guard) = &event.enforcement {
        let left = guard.confirm_seconds_left.map_or_else(String::new, |left| {
            format!(", open again in {} s unless it is confirmed", left.round())
        });
        return format!("policy {}{left}", guard.policy);
    }
    if let Some(registration) = &event.registration {
        return format!("client {} {}", registration.name, registration.change);
    }
    if let Some(configuration) = &event.configuration {
        return match configuration.not_in_force.as_slice() {
            [] => "read again".to_owned(),
            keys => format!("read again; needs a restart: {}", keys.join(", ")),
        };
    }
    if let Some(task) = &event.task {
        let then = if task.restarted { "started again" } else { "the controller stops" };
        return format!("{}: {}; {then}", task.name, task.why);
    }
    if let Some(repair) = &event.repair {
        return format!("{}, which somebody else had changed: {}", repair.device, repair.changes.join(", "));
    }
    "of a kind that this version does not know".to_owned()
}

fn session_text(session: &SessionEvent) -> String {
    let SessionEvent { change, name, public_key, reason, count } = session;
    let who = name.as_ref().or(public_key.as_ref()).map(|who| format!("{who} {change}"));
    who.unwrap_or_else(|| {
        let (count, reason) = (count.unwrap_or(1), reason.as_deref().unwrap_or("unknown"));
        format!("{count} handshakes {change}: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ConfigurationEvent, Guard, RegistrationEvent, TaskEvent};

    fn told(change: impl FnOnce(&mut EventDocument)) -> String {
        let mut event =
            EventDocument { number: 1, time_ns: 1_700_000_000_123_456_789, ..EventDocument::default() };
        change(&mut event);
        let line = serde_json::to_string(&EventLine::Event(Box::new(event))).unwrap();
        describe(&line, Style::new(false)).unwrap()
    }

    #[test]
    fn each_kind_is_told_in_one_line() {
        let session = SessionEvent { change: "opened".to_owned(), ..SessionEvent::default() };
        let open = told(|event| {
            event.kind = "session".to_owned();
            event.session = Some(SessionEvent { name: Some("laptop".to_owned()), ..session.clone() });
        });
        assert_eq!(open, "2023-11-14T22:13:20.123Z session       laptop opened");
        let refused = told(|event| {
            let (reason, count) = (Some("unknown_client".to_owned()), Some(3));
            event.session = Some(SessionEvent { change: "refused".to_owned(), reason, count, ..session });
        });
        assert!(refused.ends_with("3 handshakes refused: unknown_client"), "{refused}");
        for (change, end) in [
            (
                told(|event| event.path = Some(PathEvent { name: None, mtu: Some(1400) })),
                "the path carries packets of up to 1400 bytes",
            ),
            (told(|event| event.enforcement = Some(Guard::default())), "policy dark"),
            (
                told(|event| {
                    let (change, name) = ("added".to_owned(), "desk".to_owned());
                    event.registration = Some(RegistrationEvent { change, name, public_key: String::new() });
                }),
                "client desk added",
            ),
            (
                told(|event| {
                    event.configuration = Some(ConfigurationEvent { not_in_force: vec!["mtu".to_owned()] });
                }),
                "read again; needs a restart: mtu",
            ),
            (
                told(|event| {
                    let (name, why) = ("web view".to_owned(), "panic: x".to_owned());
                    event.task = Some(TaskEvent { name, why, restarted: true });
                }),
                "web view: panic: x; started again",
            ),
            (
                told(|event| event.drop = Some(crate::control::tests::event(0))),
                "receive unknown_address      [2001:db8:2::1]:4000 > [2001:db8:1::1]:5000 UDP length 1404",
            ),
        ] {
            assert!(change.ends_with(end), "{change}");
        }
        assert_eq!(describe("{\"lost\":3}", Style::new(false)).unwrap(), "(3 more, too fast to be shown)");
        assert!(describe("nonsense", Style::new(false)).is_err());
    }
}
