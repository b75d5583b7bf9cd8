//! The findings of the demonstration, in sentences for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indicatif::{HumanBytes, HumanCount};
use mtd_common::DropReason;

use crate::findings::{Findings, Uninvited};
use crate::network::DHT_NODES;
use crate::numbers::{Numbers, Probing, Rendezvous, Tcp, Udp};
use crate::options::{Link, Mode, Options};
use crate::sites::UNINVITED;

/// Aim for the median time from a client's start to its first packet, in ms.
const FIRST_PACKET_AIM_MS: f64 = 1000.0;

impl Findings {
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
        paragraph("Rendezvous", &self.rendezvous())?;
        paragraph("Start", &self.start())?;
        paragraph("Moving", &self.moving())?;
        paragraph("TCP", &tcp(&numbers.tcp, numbers.slots))?;
        paragraph("UDP", &udp(&numbers.udp, self.flows.udp.len()))?;
        paragraph("Secrecy", &self.secrecy(options.mode))?;
        paragraph("Stranger", &self.stranger_in_words(options))?;
        for scan in self.stranger.iter().flat_map(|report| &report.nmap) {
            paragraph("", &format!("nmap, {}: {}", scan.what, scan.verdict))?;
        }
        paragraph("Uninvited", &self.uninvited_in_words())?;
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

    fn rendezvous(&self) -> String {
        let Rendezvous { published, fetched, median_fetch_ms } = &self.numbers.rendezvous;
        let took = median_fetch_ms.map_or_else(String::new, |ms| format!(", in {ms:.0} ms (median)"));
        format!(
            "the server has the clients' public keys, each client has the server's, and all know a few nodes of a \
             private DHT of {DHT_NODES}; nothing else is shared. The server published {published} introductions, each of \
             which one client can find and read; the clients found {fetched}{took}. {} of {} sessions were open in the \
             end.",
            self.numbers.sessions_open, self.numbers.clients
        )
    }

    fn start(&self) -> String {
        let each: Vec<String> =
            self.first.iter().map(|(name, time)| format!("{name} {} ms", time.as_millis())).collect();
        let median = self.numbers.start_to_first_packet_ms.unwrap_or(f64::NAN);
        let verdict = if median < FIRST_PACKET_AIM_MS { "" } else { ", which is missed here" };
        format!(
            "from the start of `mtd run` to the first packet through the tunnel and back: {}; median {median:.0} ms. The \
             aim is less than {FIRST_PACKET_AIM_MS:.0} ms{verdict}.",
            each.join(", ")
        )
    }

    fn uninvited_in_words(&self) -> String {
        let Uninvited { looked, fetched, asked, .. } = self.uninvited;
        let looked = if looked { "looked for it in the DHT" } else { "did not get as far as the DHT" };
        format!(
            "{UNINVITED} knows the server's public key and the DHT, and is not registered: {looked}, found {fetched} \
             introductions, sent {} datagrams for the server's tunnel address, and got {} answers.",
            HumanCount(asked.sent),
            HumanCount(asked.answers)
        )
    }

    fn moving(&self) -> String {
        let Numbers { slots, server_addresses_seen, server_ports_seen, .. } = self.numbers;
        let last = self.seen.current.map_or_else(String::new, |(address, port)| {
            format!(" The last was [{address}]:{port}; it is dead by now.")
        });
        format!(
            "in {slots} whole slots (and before and after them) the server sent from {server_addresses_seen} different \
             addresses and {server_ports_seen} different UDP ports, other ones with each client. Both ends compute them; \
             they are never sent.{last}"
        )
    }

    fn secrecy(&self, mode: Mode) -> String {
        let (packets, plaintext) = (HumanCount(self.seen.packets), HumanCount(self.numbers.plaintext_seen));
        let inside = HumanCount(self.captured.marked_inside.iter().sum());
        let mode = match mode {
            Mode::Encrypt => "",
            Mode::Authenticate => " This mode authenticates packets and leaves them readable.",
        };
        format!(
            "all traffic carried a marker text. {inside} packets inside the tunnels contained it, and {plaintext} of the \
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
        "a server, {} clients, an uninvited one, a router and a stranger, each in a network namespace; real `mtd run` in \
         mode {}, prefixes {delivery}, slots of {}. Sockets and packet captures counted what follows; only rendezvous \
         and drops are mtd's own counts.",
        options.clients,
        options.mode.name(),
        humantime::format_duration(options.period)
    )
}

fn tcp(tcp: &Tcp, slots: u32) -> String {
    format!(
        "{} connections (with each client one that is IPv6 inside, and one IPv4) opened once, across {slots} slots: {} \
         broken, {} arrived, every byte compared.",
        tcp.connections,
        tcp.broken,
        HumanBytes(tcp.bytes)
    )
}

fn udp(udp: &Udp, streams: usize) -> String {
    format!("{streams} streams, {} packets sent: {} lost.", HumanCount(udp.sent), HumanCount(udp.lost))
}

/// Writes a line for each reason, the most frequent one first.
fn write_drops(text: &mut String, drops: &BTreeMap<String, u64>) -> std::fmt::Result {
    let mut by_count: Vec<_> = drops.iter().collect();
    by_count.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    for (name, &count) in by_count {
        let help =
            DropReason::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| reason.help());
        write_wrapped(text, &format!("{:>20}  {name:<20}", HumanCount(count).to_string()), help)?;
    }
    Ok(())
}

/// Column in which the text of a paragraph begins.
const COLUMN: usize = 14;
/// Width of a line.
const WIDTH: usize = 100;

/// Writes `head`, then `body` in a column that begins where `head` ends.
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
