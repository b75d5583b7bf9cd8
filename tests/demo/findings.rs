//! The findings of the demonstration, and whether everything worked as claimed.

use std::time::Duration;

use crate::first::Asked;
use crate::flows::Reports;
use crate::link::{Captured, Seen};
use crate::numbers::Numbers;
use crate::options::{Mode, Options};
use crate::probes::Kind;
use crate::sites::UNINVITED;
use crate::stranger;

/// All findings.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    /// The numbers.
    pub(crate) numbers: Numbers,
    /// The reports of the traffic generators.
    pub(crate) flows: Reports,
    /// The evaluation of the capture on the server's link.
    pub(crate) seen: Seen,
    /// Other results of the captures.
    pub(crate) captured: Captured,
    /// The stranger's report; absent with `--no-scan`.
    pub(crate) stranger: Option<stranger::Report>,
    /// What the unregistered client did and achieved.
    pub(crate) uninvited: Uninvited,
    /// The names of the registered clients, with the time from the start of each to its first packet through the tunnel.
    pub(crate) first: Vec<(&'static str, Duration)>,
    /// Whether the operator ended the demonstration early.
    pub(crate) interrupted: bool,
}

/// What the unregistered client did and achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uninvited {
    /// Whether nodes of the DHT answered when it looked for the server.
    pub(crate) looked: bool,
    /// Number of introductions that it found.
    pub(crate) fetched: u64,
    /// Number of tunnel addresses that it was given.
    pub(crate) addresses: usize,
    /// Its datagrams for the server's tunnel address.
    pub(crate) asked: Asked,
}

impl Findings {
    /// Sentences about claims that failed; empty if everything worked.
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
            format!("the traffic survived {} of {wanted} slots", numbers.slots),
        );
        self.traffic(&mut unless);
        for (client, (name, _)) in self.first.iter().enumerate() {
            let seen = self.seen.session_addresses(client);
            unless(
                seen >= numbers.slots as usize,
                format!("the server used {seen} addresses with {name} in {} slots", numbers.slots),
            );
            let marked = self.captured.marked_inside.get(client).is_some_and(|&marked| marked > 0);
            unless(marked, format!("the marker was not seen in the tunnel of {name} either"));
        }
        unless(numbers.stranger.replies == 0, self.reply());
        unless(
            numbers.stranger.probes > 0 || options.no_scan,
            "no probe of the stranger was seen on its link".to_owned(),
        );
        let intruded = self.stranger.as_ref().is_some_and(|report| report.by_hand.of(Kind::Introduction) > 0);
        unless(
            intruded || options.no_scan,
            "the stranger sent nothing to the server's introduction".to_owned(),
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
        let missed = self.captured.missed;
        unless(missed == 0, format!("the captures missed {missed} frames, so their counts are not complete"));
        self.meeting(options, &mut unless);
        self.outside(&mut unless);
        failures
    }

    /// Checks that everything that was sent through the tunnels arrived, once and unchanged.
    fn traffic(&self, unless: &mut impl FnMut(bool, String)) {
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
    }

    /// Checks that all clients reached the server.
    fn meeting(&self, options: &Options, unless: &mut impl FnMut(bool, String)) {
        let Numbers { clients, sessions_open, ref rendezvous, .. } = self.numbers;
        let wanted = usize::from(options.clients);
        unless(
            clients == wanted,
            format!("{clients} of {wanted} clients exchanged a packet through the tunnel"),
        );
        unless(sessions_open == wanted, format!("{sessions_open} of {wanted} sessions were open in the end"));
        for (what, count) in [("published", rendezvous.published), ("found", rendezvous.fetched)] {
            unless(
                count >= u64::from(options.clients),
                format!("{count} introductions were {what} for {wanted} clients"),
            );
        }
    }

    /// Checks that the uninvited client looked for the server, and achieved nothing.
    fn outside(&self, unless: &mut impl FnMut(bool, String)) {
        let Uninvited { looked, fetched, addresses, asked } = self.uninvited;
        unless(
            (looked && asked.sent > 0) || self.interrupted,
            format!("{UNINVITED}, who is not registered, did not look for the server"),
        );
        unless(fetched == 0, format!("{UNINVITED} found {fetched} introductions"));
        unless(addresses == 0, format!("{UNINVITED} was given {addresses} tunnel addresses"));
        unless(asked.answers == 0, format!("{UNINVITED} was answered through the tunnel"));
    }

    fn reply(&self) -> String {
        let first = self.seen.first_reply.as_deref().unwrap_or_default();
        let bytes = hex::encode(&first[..first.len().min(96)]);
        format!("the server let itself be heard {} times, first by {bytes}", self.numbers.stranger.replies)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv6Addr;

    use clap::Parser as _;

    use super::*;
    use crate::numbers::tests::flows;
    use crate::numbers::{Probing, Rendezvous, Tcp, Udp};
    use crate::stranger::Report;

    fn options(words: &[&str]) -> Options {
        Options::try_parse_from(["demo", "--slots", "5", "--clients", "1"].iter().chain(words)).unwrap()
    }

    fn findings() -> Findings {
        let (tcp, udp) = flows();
        let (tcp, udp) = (vec![tcp], vec![udp]);
        let numbers = Numbers {
            slots: 5,
            server_addresses_seen: 6,
            server_ports_seen: 6,
            tcp: Tcp::of(&tcp),
            udp: Udp::of(&udp),
            stranger: Probing { probes: 9, replies: 0 },
            plaintext_seen: 0,
            drops: BTreeMap::from([("tcp".to_owned(), 7), ("replayed".to_owned(), 1200)]),
            rendezvous: Rendezvous { published: 1, fetched: 1, median_fetch_ms: Some(120.5) },
            clients: 1,
            sessions_open: 1,
            start_to_first_packet_ms: Some(432.1),
        };
        let mut stranger = Report::default();
        stranger.by_hand.add(Kind::Introduction);
        Findings {
            numbers,
            flows: Reports { tcp, udp },
            seen: seen(5),
            captured: Captured { marked_inside: vec![3], missed: 0 },
            stranger: Some(stranger),
            uninvited: Uninvited {
                looked: true,
                fetched: 0,
                addresses: 0,
                asked: Asked { sent: 7, answers: 0 },
            },
            first: vec![("alice", Duration::from_millis(432))],
            interrupted: false,
        }
    }

    /// The evaluation of a capture in which the server sends to the first client from this number of addresses.
    fn seen(addresses: u16) -> Seen {
        let mut seen = Seen::default();
        for n in 1..=addresses {
            seen.sent(0, (Ipv6Addr::new(0x2001, 0xdb8, 5, 1, 0, 0, 0, n), 2000 + n));
        }
        seen
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
        assert!(only_failure(|it| it.seen = seen(4)).contains("4 addresses with alice in 5 slots"));
        assert!(only_failure(|it| it.flows.tcp[0].broken = Some("reset".to_owned())).contains("reset"));
        assert!(only_failure(|it| it.flows.tcp[0].received_by_client = 49).contains("not everything"));
        assert!(only_failure(|it| it.flows.udp[0].lost = 2).contains("2 of 10"));
        assert!(only_failure(|it| it.flows.udp[0].duplicated = 1).contains("twice"));
        assert!(only_failure(|it| it.flows.udp[0].foreign = 1).contains("foreign"));
        assert!(only_failure(|it| it.numbers.stranger.replies = 1).contains("heard 1 times"));
        assert!(only_failure(|it| it.numbers.stranger.probes = 0).contains("no probe"));
        assert!(only_failure(|it| it.stranger = Some(Report::default())).contains("introduction"));
        assert!(only_failure(|it| it.numbers.plaintext_seen = 1).contains("marker"));
        assert!(only_failure(|it| it.captured.marked_inside[0] = 0).contains("the tunnel of alice"));
        assert!(only_failure(|it| it.captured.missed = 1).contains("missed 1"));
    }

    #[test]
    fn who_is_invited_gets_in_and_who_is_not_does_not() {
        assert!(only_failure(|it| it.numbers.clients = 0).contains("0 of 1 clients"));
        assert!(only_failure(|it| it.numbers.sessions_open = 0).contains("0 of 1 sessions"));
        assert!(
            only_failure(|it| it.numbers.rendezvous.published = 0).contains("0 introductions were published")
        );
        assert!(only_failure(|it| it.numbers.rendezvous.fetched = 0).contains("0 introductions were found"));
        assert!(only_failure(|it| it.uninvited.looked = false).contains("did not look"));
        assert!(only_failure(|it| it.uninvited.asked.sent = 0).contains("did not look"));
        assert!(only_failure(|it| it.uninvited.fetched = 1).contains("found 1"));
        assert!(only_failure(|it| it.uninvited.addresses = 2).contains("given 2"));
        assert!(only_failure(|it| it.uninvited.asked.answers = 1).contains("answered"));
    }

    #[test]
    fn what_counts_depends_on_the_options() {
        let mut it = findings();
        it.numbers.stranger.probes = 0;
        it.stranger = None;
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
}
