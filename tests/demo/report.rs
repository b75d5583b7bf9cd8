//! What the demonstration found: numbers for programs, sentences for people, and whether everything held.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indicatif::{HumanBytes, HumanCount};
use mtd_common::DropReason;
use mtd_tests::traffic::{TcpReport, UdpReport};
use serde::Serialize;

use crate::flows::{Flows, Reports};
use crate::link::Seen;
use crate::options::{Link, Mode, Options};
use crate::stranger;

/// The numbers, in the form of `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Numbers {
    /// Slots that all traffic lived through.
    pub(crate) slots: u32,
    /// Different protected addresses that the server was seen to send from.
    pub(crate) server_addresses_seen: usize,
    /// Different UDP ports that it was seen to send from.
    pub(crate) server_ports_seen: usize,
    /// All TCP connections.
    pub(crate) tcp: Tcp,
    /// All UDP streams.
    pub(crate) udp: Udp,
    /// What the stranger sent and got.
    pub(crate) stranger: Probing,
    /// Captured packets with the marker that was sent through the tunnel.
    pub(crate) plaintext_seen: u64,
    /// Packets that the server's data plane dropped, by reason, as `mtd status` says.
    pub(crate) drops: BTreeMap<String, u64>,
}

/// See [`Numbers::tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Tcp {
    /// Connections opened.
    connections: usize,
    /// Connections that ended early, or whose data did not all arrive.
    broken: usize,
    /// Payload bytes that arrived, every one compared.
    bytes: u64,
}

/// See [`Numbers::udp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Udp {
    /// Packets sent.
    sent: u64,
    /// Packets that did not arrive.
    lost: u64,
}

/// See [`Numbers::stranger`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Probing {
    /// Frames that the stranger sent to the server or about its prefix, as captured on its link.
    pub(crate) probes: u64,
    /// Frames of the server that tell a stranger anything, as captured on the server's link.
    pub(crate) replies: u64,
}

/// Everything that was found.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    /// The numbers.
    pub(crate) numbers: Numbers,
    /// What the generators say.
    pub(crate) flows: Reports,
    /// What was captured on the server's link.
    pub(crate) seen: Seen,
    /// Packets with the marker at the client's end of the tunnel.
    pub(crate) marked_inside: u64,
    /// Frames that the captures missed.
    pub(crate) missed: u64,
    /// What the stranger did; absent with `--no-scan`.
    pub(crate) stranger: Option<stranger::Report>,
    /// Whether the operator ended it early.
    pub(crate) interrupted: bool,
}

impl Tcp {
    /// Sums up.
    pub(crate) fn of(reports: &[TcpReport]) -> Self {
        let broken = |report: &&TcpReport| report.broken.is_some() || !report.is_complete();
        Self {
            connections: reports.len(),
            broken: reports.iter().filter(broken).count(),
            bytes: reports.iter().map(TcpReport::bytes).sum(),
        }
    }
}

impl Udp {
    /// Sums up.
    pub(crate) fn of(reports: &[UdpReport]) -> Self {
        Self {
            sent: reports.iter().map(|report| report.sent).sum(),
            lost: reports.iter().map(|report| report.lost).sum(),
        }
    }
}

impl Findings {
    /// What did not hold, in sentences; empty when everything did.
    pub(crate) fn failures(&self, options: &Options) -> Vec<String> {
        let numbers = &self.numbers;
        let mut failures = Vec::new();
        let mut unless = |held: bool, what: String| {
            if !held {
                failures.push(what);
            }
        };
        let wanted = options.slots();
        unless(
            numbers.slots >= wanted || self.interrupted,
            format!("the traffic lived through {} of {wanted} slots", numbers.slots),
        );
        for report in &self.flows.tcp {
            let what = match &report.broken {
                Some(cause) => cause.clone(),
                None => "not everything that was sent has arrived".to_owned(),
            };
            let held = report.broken.is_none() && report.is_complete();
            unless(held, format!("the TCP connection from {} broke: {what}", report.local));
        }
        for report in &self.flows.udp {
            unless(report.lost == 0, format!("{} of {} UDP packets were lost", report.lost, report.sent));
            unless(report.duplicated == 0, format!("{} UDP packets arrived twice", report.duplicated));
            unless(report.foreign == 0, format!("{} foreign or changed UDP packets arrived", report.foreign));
        }
        unless(
            numbers.server_addresses_seen >= numbers.slots as usize,
            format!("the server used {} addresses in {} slots", numbers.server_addresses_seen, numbers.slots),
        );
        unless(numbers.stranger.replies == 0, self.reply());
        unless(
            numbers.stranger.probes > 0 || options.no_scan,
            "no probe of the stranger was seen on its link".to_owned(),
        );
        match options.mode {
            Mode::Encrypt => unless(
                numbers.plaintext_seen == 0,
                format!(
                    "{} packets on the server's link carried the marker in the clear",
                    numbers.plaintext_seen
                ),
            ),
            Mode::Authenticate => unless(
                numbers.plaintext_seen > 0,
                "the capture did not see the marker, which is in the clear in this mode".to_owned(),
            ),
        }
        unless(self.marked_inside > 0, "the marker was not seen inside the tunnel either".to_owned());
        unless(
            self.missed == 0,
            format!("the captures missed {} frames, so their counts are not complete", self.missed),
        );
        failures
    }

    fn reply(&self) -> String {
        let first = self.seen.first_reply.as_deref().unwrap_or_default();
        let bytes = hex::encode(&first[..first.len().min(96)]);
        format!("the server let itself be heard {} times, first by {bytes}", self.numbers.stranger.replies)
    }

    /// The summary for people.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub(crate) fn summary(&self, options: &Options) -> Result<String, std::fmt::Error> {
        let numbers = &self.numbers;
        let mut text = String::from("\nWhat was shown\n\n");
        let mut paragraph = |head: &str, body: &str| {
            write_wrapped(&mut text, &format!("  {head:<width$}", width = COLUMN - 2), body)
        };
        paragraph("Set-up", &set_up(options))?;
        paragraph("Moving", &self.moving())?;
        paragraph("TCP", &tcp(&numbers.tcp, numbers.slots))?;
        paragraph("UDP", &udp(&numbers.udp, self.flows.udp.len()))?;
        paragraph("Secrecy", &self.secrecy(options.mode))?;
        paragraph("Stranger", &self.stranger_in_words(options))?;
        for scan in self.stranger.iter().flat_map(|report| &report.nmap) {
            paragraph("", &format!("nmap, {}: {}", scan.what, scan.verdict))?;
        }
        let dropped = HumanCount(numbers.drops.values().sum());
        paragraph("Drops", &format!("the server's data plane dropped {dropped} packets in silence:"))?;
        write_drops(&mut text, &numbers.drops)?;
        let failures = self.failures(options);
        match (failures.is_empty(), self.interrupted) {
            (true, false) => writeln!(text, "\nEverything held.")?,
            (true, true) => writeln!(text, "\nEnded early by a signal; everything held until then.")?,
            (false, _) => {
                writeln!(text, "\nDid not hold:")?;
                for failure in failures {
                    writeln!(text, "  - {failure}")?;
                }
            }
        }
        Ok(text)
    }

    fn moving(&self) -> String {
        let Numbers { slots, server_addresses_seen, server_ports_seen, .. } = self.numbers;
        let last = self.seen.current.map_or_else(String::new, |(address, port)| {
            format!(" The last was [{address}]:{port}; it is dead by now.")
        });
        format!(
            "in {slots} whole slots (and the rest of the first and last one) the server sent from \
             {server_addresses_seen} different addresses and {server_ports_seen} different UDP ports. Both ends compute \
             them; nothing about them is ever sent.{last}"
        )
    }

    fn secrecy(&self, mode: Mode) -> String {
        let (packets, plaintext) = (HumanCount(self.seen.packets), HumanCount(self.numbers.plaintext_seen));
        let inside = HumanCount(self.marked_inside);
        let mode = match mode {
            Mode::Encrypt => "",
            Mode::Authenticate => " This mode authenticates packets and leaves them readable.",
        };
        format!(
            "all traffic carried a marker text. {inside} packets inside the tunnel contained it, and {plaintext} of the \
             {packets} packets captured on the server's Ethernet.{mode}"
        )
    }

    fn stranger_in_words(&self, options: &Options) -> String {
        let Some(report) = &self.stranger else { return "left out (--no-scan).".to_owned() };
        let Probing { probes, replies } = self.numbers.stranger;
        let on_link = match options.delivery {
            Link::Routed => "",
            Link::OnLink => {
                " Solicitations for live addresses were left out: on-link, these are answered, or the router could not \
                 deliver anything."
            }
        };
        format!(
            "a host on the server's own Ethernet, which was even told the live address and given captured packets, sent \
             {} probes: {}, the rest by nmap. The server let itself be heard {} times.{on_link}",
            HumanCount(probes),
            report.by_hand,
            HumanCount(replies)
        )
    }
}

fn set_up(options: &Options) -> String {
    let delivery = match options.delivery {
        Link::Routed => "routed to the hosts",
        Link::OnLink => "on the hosts' links",
    };
    format!(
        "client, router, server and a stranger, each in a network namespace; two real `mtd run` in mode {}, prefixes \
         {delivery}, slots of {}. Sockets and packet captures counted what follows; only the drops are mtd's own count.",
        options.mode.name(),
        humantime::format_duration(options.period)
    )
}

fn tcp(tcp: &Tcp, slots: u32) -> String {
    let (connections, v4) = Flows::CONNECTIONS;
    format!(
        "{connections} connections ({v4} of them IPv4 inside) opened once, across {slots} slots: {} broken, {} arrived, \
         every byte compared.",
        tcp.broken,
        HumanBytes(tcp.bytes)
    )
}

fn udp(udp: &Udp, streams: usize) -> String {
    format!("{streams} streams, {} packets sent: {} lost.", HumanCount(udp.sent), HumanCount(udp.lost))
}

/// A line for each reason, the most frequent first.
fn write_drops(text: &mut String, drops: &BTreeMap<String, u64>) -> std::fmt::Result {
    let mut by_count: Vec<_> = drops.iter().collect();
    by_count.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    for (name, &count) in by_count {
        let help =
            DropReason::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| reason.help());
        write_wrapped(text, &format!("{:>18}  {name:<20}", HumanCount(count).to_string()), help)?;
    }
    Ok(())
}

/// Column in which the text of a paragraph begins.
const COLUMN: usize = 11;
/// Width of a line.
const WIDTH: usize = 100;

/// Writes `head`, then `body` in a column of its own that begins where `head` ends.
fn write_wrapped(text: &mut String, head: &str, body: &str) -> std::fmt::Result {
    let column = head.chars().count();
    let mut line = head.to_owned();
    let mut at = column;
    for word in body.split(' ') {
        let wide = word.chars().count();
        if at > column && at + 1 + wide > WIDTH {
            writeln!(text, "{line}")?;
            line = " ".repeat(column);
            at = column;
        }
        if at > column {
            line.push(' ');
            at += 1;
        }
        line.push_str(word);
        at += wide;
    }
    writeln!(text, "{line}")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;

    fn options(words: &[&str]) -> Options {
        Options::try_parse_from(["demo", "--slots", "5"].iter().chain(words)).unwrap()
    }

    fn findings() -> Findings {
        let end = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        let tcp = vec![TcpReport {
            local: end,
            peer: end,
            sent_to_server: 100,
            received_by_server: 100,
            sent_to_client: 50,
            received_by_client: 50,
            broken: None,
            longest_stall: Duration::ZERO,
        }];
        let udp = vec![UdpReport {
            sent: 10,
            send_errors: 0,
            received: 10,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            foreign: 0,
            longest_gap: Duration::ZERO,
        }];
        let numbers = Numbers {
            slots: 5,
            server_addresses_seen: 6,
            server_ports_seen: 6,
            tcp: Tcp::of(&tcp),
            udp: Udp::of(&udp),
            stranger: Probing { probes: 9, replies: 0 },
            plaintext_seen: 0,
            drops: BTreeMap::from([("tcp".to_owned(), 7), ("replayed".to_owned(), 1200)]),
        };
        Findings {
            numbers,
            flows: Reports { tcp, udp },
            seen: Seen::default(),
            marked_inside: 3,
            missed: 0,
            stranger: Some(stranger::Report::default()),
            interrupted: false,
        }
    }

    fn only_failure(change: impl FnOnce(&mut Findings)) -> String {
        let mut findings = findings();
        change(&mut findings);
        let failures = findings.failures(&options(&[]));
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(
            findings.summary(&options(&[])).unwrap().contains(&format!("Did not hold:\n  - {}", failures[0]))
        );
        failures[0].clone()
    }

    #[test]
    fn everything_held() {
        assert_eq!(findings().failures(&options(&[])), [""; 0]);
        let text = findings().summary(&options(&[])).unwrap();
        assert!(text.contains("\nEverything held.\n"), "{text}");
        assert!(text.find("1,200  replayed") < text.find("7  tcp"), "{text}");
    }

    #[test]
    fn each_thing_that_does_not_hold_is_said() {
        assert!(only_failure(|it| it.numbers.slots = 4).contains("4 of 5 slots"));
        assert!(only_failure(|it| it.numbers.server_addresses_seen = 4).contains("4 addresses in 5 slots"));
        assert!(only_failure(|it| it.flows.tcp[0].broken = Some("reset".to_owned())).contains("reset"));
        assert!(only_failure(|it| it.flows.tcp[0].received_by_client = 49).contains("not everything"));
        assert!(only_failure(|it| it.flows.udp[0].lost = 2).contains("2 of 10"));
        assert!(only_failure(|it| it.flows.udp[0].duplicated = 1).contains("twice"));
        assert!(only_failure(|it| it.flows.udp[0].foreign = 1).contains("foreign"));
        assert!(only_failure(|it| it.numbers.stranger.replies = 1).contains("heard 1 times"));
        assert!(only_failure(|it| it.numbers.stranger.probes = 0).contains("no probe"));
        assert!(only_failure(|it| it.numbers.plaintext_seen = 1).contains("marker"));
        assert!(only_failure(|it| it.marked_inside = 0).contains("inside the tunnel"));
        assert!(only_failure(|it| it.missed = 1).contains("missed 1"));
    }

    #[test]
    fn what_counts_depends_on_the_options() {
        let mut it = findings();
        it.numbers.stranger.probes = 0;
        assert_eq!(it.failures(&options(&["--no-scan"])), [""; 0]);
        assert!(
            it.failures(&options(&["--no-scan", "--mode", "authenticate"]))[0]
                .contains("did not see the marker")
        );
        it.numbers.plaintext_seen = 10;
        assert_eq!(it.failures(&options(&["--no-scan", "--mode", "authenticate"])), [""; 0]);
        it.numbers.slots = 1;
        it.interrupted = true;
        assert_eq!(it.failures(&options(&["--no-scan", "--mode", "authenticate"])), [""; 0]);
    }

    #[test]
    fn the_sums_are_over_all_connections_and_streams() {
        let mut it = findings();
        it.flows.tcp.push(TcpReport { broken: Some("reset".to_owned()), ..it.flows.tcp[0].clone() });
        it.flows.tcp.push(TcpReport { sent_to_server: 101, ..it.flows.tcp[0].clone() });
        assert_eq!(Tcp::of(&it.flows.tcp), Tcp { connections: 3, broken: 2, bytes: 450 });
        it.flows.udp.push(UdpReport { sent: 7, received: 4, lost: 3, ..it.flows.udp[0] });
        assert_eq!(Udp::of(&it.flows.udp), Udp { sent: 17, lost: 3 });
    }
}
