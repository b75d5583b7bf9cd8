//! `mtd sessions`: one line for each session with a registered client or a server.

use clap::Args;
use serde::Serialize;

use super::output::{self, Style};
use super::status::{self, Answers, Places, Select};
use crate::instance::Instance;
use crate::status::{Session, SessionRole, Status};

/// Show the sessions with registered clients and with servers
///
/// Shows one line for each; `mtd status` shows more, and also the statically configured peers. Exit status: 0 if all is
/// well, 1 if a controller is missing or does not answer, 2 for a wrong command line.
///
/// With --json: one object, {"schema": 1, "instances": [...]}, whose elements have the keys `interface` and `sessions`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd sessions\n  \
    sudo mtd sessions --json | jq '.instances[].sessions[] | select(.state != \"open\").name'")]
pub(super) struct SessionsArgs {
    /// The controllers to ask.
    #[command(flatten)]
    pub select: Select,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the sessions of the selected controllers. For `offline` see [`status::run`].
///
/// # Errors
/// A controller is missing or does not answer, or standard output cannot be written.
pub(super) async fn run(
    args: &SessionsArgs,
    offline: impl Fn(&Instance) -> Option<Status>,
) -> anyhow::Result<()> {
    let Answers { statuses, failures } = Answers::collect(&args.select, &Places::default(), offline).await;
    if args.json {
        output::print(&json(&statuses)?)?;
    } else if !statuses.is_empty() {
        output::print(&human(&statuses, Style::of_stdout()))?;
    }
    status::joined(failures.into_iter().map(Into::into).collect())
}

fn json(statuses: &[Status]) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Sessions<'a> {
        interface: &'a str,
        sessions: &'a [Session],
    }
    let sessions =
        statuses.iter().map(|status| Sessions { interface: &status.interface, sessions: &status.sessions });
    status::json(sessions.collect())
}

fn human(statuses: &[Status], style: Style) -> String {
    let table = |status: &Status| {
        let rows = status.sessions.iter().map(row).collect();
        let columns = ["name", "is our", "state", "addresses", "last valid", "keys", "received", "sent"];
        output::table(style, &format!("sessions at {}", status.interface), columns, rows)
    };
    statuses.iter().map(table).collect::<Vec<_>>().join("\n")
}

fn row(session: &Session) -> [String; 8] {
    let other = match session.role {
        SessionRole::Client => "server",
        SessionRole::Server => "client",
    };
    let since = |seconds: Option<f64>| seconds.map_or("-".to_owned(), output::span);
    [
        session.name.clone(),
        other.to_owned(),
        session.state.as_str().to_owned(),
        output::list_or_dash(&session.tunnel.remote),
        since(session.last_valid_seconds),
        since(session.rekeyed_seconds),
        output::bytes(session.received.bytes),
        output::bytes(session.sent.bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::session;
    use crate::control::tests::sample;
    use crate::status::SessionState;

    #[test]
    fn a_session_is_a_line() {
        let finding = Session {
            name: "office".to_owned(),
            role: SessionRole::Client,
            state: SessionState::Finding,
            tunnel: crate::status::Tunnel::default(),
            last_valid_seconds: None,
            rekeyed_seconds: None,
            ..session()
        };
        let statuses = [
            Status { sessions: vec![finding, session()], ..sample() },
            Status { interface: "eth1".to_owned(), ..sample() },
        ];
        let expected = "\
sessions at eth0:
  name    is our  state    addresses               last valid  keys  received  sent
  office  server  finding  -                       -           -     1.50 MiB  60 B
  laptop  client  open     fd00:6d74::7,10.66.0.7  2 s         30 s  1.50 MiB  60 B

sessions at eth1: none
";
        assert_eq!(human(&statuses, Style::new(false)), expected);

        let value: serde_json::Value = serde_json::from_str(&json(&statuses).unwrap()).unwrap();
        assert_eq!(value["instances"][0]["sessions"][0]["state"], "finding");
        assert_eq!(value["instances"][1], serde_json::json!({"interface": "eth1", "sessions": []}));
        assert_eq!(json(&[]).unwrap(), "{\n  \"schema\": 1,\n  \"instances\": []\n}\n");
    }
}
