//! `mtd drops`: shows why packets are dropped, as counters or packet by packet.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::follow::{self, interrupt};
use super::output::{self, Style};
use super::status::{self, Answers, Places, Select};
use crate::control::{self, ControlSocket, DropLine};
use crate::instance::{Instance, RUN_DIR};
use crate::status::{DroppedPacket, Status};

/// Number of characters of the longest names of drop reasons.
const REASON_WIDTH: usize = 20;

/// Show why packets are dropped
///
/// Shows a counter for each reason since the programs were attached, and what the reasons mean. With --follow: each
/// dropped packet as it comes, until Ctrl-C; under load only a sample, since drop events are limited in rate. The exit
/// status is that of `mtd status`.
///
/// Where nothing is enforced (`mtd policy IFACE monitor`), packets that pass but would be dropped are shown as such.
///
/// With --json: one object, {"schema": 1, "instances": [...]}, whose elements have the keys `interface`, `drops`,
/// `would_drop` and `events_suppressed`. With --follow --json: one object a line, either a packet, or {"lost": n} where
/// this program was too slow to see n packets.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd drops\n  \
    sudo mtd drops --follow --interface eth0\n  \
    sudo mtd drops --follow --json | jq -r 'select(.reason == \"bad_tag\").source'")]
pub(super) struct DropsArgs {
    /// The controllers to ask.
    #[command(flatten)]
    pub select: Select,

    /// Print dropped packets as they come
    #[arg(short, long)]
    pub follow: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the drops of the selected controllers. For `offline` see [`status::run`].
///
/// # Errors
/// A controller is missing, does not answer or stops, or standard output cannot be written.
pub(super) async fn run(
    args: &DropsArgs,
    offline: impl Fn(&Instance) -> Option<Status>,
) -> anyhow::Result<()> {
    if args.follow {
        let sockets = args.select.sockets(Path::new(RUN_DIR))?;
        return follow(sockets, args.json, io::stdout(), interrupt()).await;
    }
    let Answers { statuses, failures } = Answers::collect(&args.select, &Places::default(), offline).await;
    if args.json || !statuses.is_empty() {
        let text = if args.json { json(&statuses)? } else { human(&statuses, Style::of_stdout()) };
        output::print(&text)?;
    }
    status::joined(failures.into_iter().map(Into::into).collect())
}

fn json(statuses: &[Status]) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Counters<'a> {
        interface: &'a str,
        drops: &'a BTreeMap<String, u64>,
        would_drop: &'a BTreeMap<String, u64>,
        events_suppressed: u64,
    }
    let counters = statuses.iter().map(|status| Counters {
        interface: &status.interface,
        drops: &status.drops,
        would_drop: &status.would_drop,
        events_suppressed: status.frames.events_suppressed,
    });
    status::json(counters.collect())
}

fn human(statuses: &[Status], style: Style) -> String {
    let tables = |status: &Status| {
        let title = format!("dropped packets at {}", status.interface);
        let dropped = output::drop_table(style, &title, &status.drops);
        [Some(dropped), status::would_be_dropped(status, style)].into_iter().flatten().collect::<Vec<_>>()
    };
    statuses.iter().flat_map(tables).collect::<Vec<_>>().join("\n")
}

async fn follow(
    sockets: Vec<ControlSocket>,
    json: bool,
    output: impl Write + Send + 'static,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let connect = async |socket: &ControlSocket| control::client::drops(&socket.path).await;
    follow::run(sockets, connect, (json, describe_text), output, stop).await
}

fn describe_text(line: &str) -> anyhow::Result<String> {
    let event = serde_json::from_str(line).with_context(|| format!("not a drop event: {line}"))?;
    Ok(describe(&event))
}

/// Describes a line of the stream, in the style of tcpdump.
fn describe(line: &DropLine) -> String {
    match line {
        DropLine::Drop(drop) => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(drop.time_ns);
            format!("{} {}", humantime::format_rfc3339_micros(time), packet(drop))
        }
        DropLine::Lost { lost } => format!("({lost} more were dropped, too fast to be shown)"),
    }
}

/// A dropped packet, without its time.
pub(super) fn packet(drop: &DroppedPacket) -> String {
    let DroppedPacket { reason, direction, length, .. } = drop;
    let mut text = format!("{direction:7} {reason:REASON_WIDTH$}");
    if drop.source.is_some() || drop.destination.is_some() {
        let (source, destination) =
            (end(drop.source, drop.source_port), end(drop.destination, drop.destination_port));
        // Writing to a string cannot fail.
        let _ = write!(text, " {source} > {destination}");
    }
    if let Some(number) = drop.next_header {
        let _ = write!(text, " {}", protocol(number));
    }
    let _ = write!(text, " length {length}");
    if drop.passed {
        text += " (passed: nothing is enforced)";
    }
    text
}

fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    }
}

/// Name of an IPv6 next header.
fn protocol(number: u8) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        0 => "hop-by-hop options",
        6 => "TCP",
        17 => "UDP",
        43 => "routing header",
        44 => "fragment",
        58 => "ICMPv6",
        60 => "destination options",
        _ => return Cow::Owned(format!("next header {number}")),
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

    use super::*;
    use crate::control::tests::{Running, event, sample};

    /// Output that the test can read, and that fails after a number of lines.
    #[derive(Clone)]
    struct Output {
        text: Arc<Mutex<String>>,
        lines_taken: usize,
    }

    impl Output {
        fn taking(lines_taken: usize) -> Self {
            Self { text: Arc::default(), lines_taken }
        }

        async fn wait_for_lines(&self, count: usize) -> Vec<String> {
            for _ in 0..500 {
                let lines: Vec<_> = self.text.lock().unwrap().lines().map(str::to_owned).collect();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{count} lines did not come: {:?}", self.text);
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut text = self.text.lock().unwrap();
            if text.lines().count() >= self.lines_taken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            text.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn socket(running: &Running, interface: &str) -> ControlSocket {
        ControlSocket { interface: interface.to_owned(), path: running.socket() }
    }

    /// Waits until the follower has subscribed, since it gets only later events.
    async fn until_followed(running: &Running) {
        while running.followers() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn packets_are_told_in_one_line() {
        let udp = DroppedPacket { time_ns: 1_700_000_000_123_456_789, ..event(0) };
        assert_eq!(
            describe(&DropLine::Drop(udp.clone())),
            "2023-11-14T22:13:20.123456Z receive unknown_address      \
             [2001:db8:2::1]:4000 > [2001:db8:1::1]:5000 UDP length 1404"
        );
        let icmp =
            DroppedPacket { source_port: None, destination_port: None, next_header: Some(58), ..udp.clone() };
        let text = describe(&DropLine::Drop(icmp));
        assert!(text.ends_with(" 2001:db8:2::1 > 2001:db8:1::1 ICMPv6 length 1404"), "{text}");
        let truncated = DroppedPacket {
            source: None,
            destination: None,
            next_header: None,
            direction: "send".to_owned(),
            reason: "truncated".to_owned(),
            length: 14,
            ..udp
        };
        let text = describe(&DropLine::Drop(truncated));
        assert!(text.ends_with("Z send    truncated            length 14"), "{text}");
        assert_eq!(describe(&DropLine::Lost { lost: 3 }), "(3 more were dropped, too fast to be shown)");
        assert_eq!(protocol(255), "next header 255");
    }

    #[test]
    fn reasons_fit_their_column() {
        let longest = mtd_common::DropReason::ALL.iter().map(|reason| reason.name().len()).max();
        assert_eq!(longest, Some(REASON_WIDTH));
    }

    #[test]
    fn counters_are_told_for_each_interface() {
        let statuses =
            [sample(), Status { interface: "eth1".to_owned(), drops: BTreeMap::new(), ..sample() }];
        let text = human(&statuses, Style::new(false));
        assert!(
            text.starts_with("dropped packets at eth0:\n  reason   count  meaning\n  bad_tag      3  "),
            "{text}"
        );
        assert!(text.ends_with("\n\ndropped packets at eth1: none\n"), "{text}");

        let value: serde_json::Value = serde_json::from_str(&json(&statuses).unwrap()).unwrap();
        let expected = serde_json::json!({"schema": 1, "instances": [
            {"interface": "eth0", "drops": {"bad_tag": 3}, "would_drop": {}, "events_suppressed": 0},
            {"interface": "eth1", "drops": {}, "would_drop": {}, "events_suppressed": 0},
        ]});
        assert_eq!(value, expected);
    }

    #[tokio::test]
    async fn following_ends_well_when_interrupted() {
        for json in [false, true] {
            let running = Running::start();
            let output = Output::taking(usize::MAX);
            let (stop, stopped) = oneshot::channel();
            let follower =
                tokio::spawn(follow(vec![socket(&running, "eth0")], json, output.clone(), async {
                    let _ = stopped.await;
                }));
            until_followed(&running).await;
            running.send(1);
            running.send(2);
            let lines = output.wait_for_lines(2).await;
            for (line, number) in lines.iter().zip(1..) {
                if json {
                    assert_eq!(serde_json::from_str::<DroppedPacket>(line).unwrap(), event(number));
                } else {
                    assert_eq!(*line, describe(&DropLine::Drop(event(number))));
                }
            }
            stop.send(()).unwrap();
            follower.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn following_ends_well_when_nobody_reads() {
        let running = Running::start();
        let output = Output::taking(1);
        let follower = tokio::spawn(follow(vec![socket(&running, "eth0")], false, output.clone(), pending()));
        until_followed(&running).await;
        for number in 0..3 {
            running.send(number);
        }
        follower.await.unwrap().unwrap();
        assert_eq!(output.wait_for_lines(1).await.len(), 1);
    }

    #[tokio::test]
    async fn several_controllers_are_followed_until_all_have_stopped() {
        let (first, second, gone) = (Running::start(), Running::start(), tempfile::tempdir().unwrap());
        let missing = ControlSocket { interface: "eth2".to_owned(), path: gone.path().join("eth2.sock") };
        let sockets = vec![socket(&first, "eth0"), socket(&second, "eth1"), missing];
        let output = Output::taking(usize::MAX);
        let follower = tokio::spawn(follow(sockets, false, output.clone(), pending()));
        until_followed(&first).await;
        until_followed(&second).await;
        first.send(1);
        output.wait_for_lines(1).await;
        first.stop().await;
        second.send(2);
        let lines = output.wait_for_lines(2).await;
        assert!(
            lines[0].starts_with("eth0: 1970-01-01T") && lines[1].starts_with("eth1: 1970-01-01T"),
            "{lines:?}"
        );
        second.stop().await;
        let error = follower.await.unwrap().unwrap_err().to_string();
        for part in ["no controller is running for ", "for eth0 has stopped", "for eth1 has stopped"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_to_follow_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = Select::default().sockets(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("no controller is running for any interface"), "{error}");
        let path = folder.path().join("eth0.sock");
        let select = Select { interface: None, socket: Some(path.clone()) };
        let sockets = select.sockets(folder.path()).unwrap();
        let error = follow(sockets, false, io::sink(), pending()).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no controller is running for {}", path.display())), "{error}");
    }
}
