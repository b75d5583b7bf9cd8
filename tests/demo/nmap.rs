//! nmap as the stranger runs it: one bounded scan after the other.

use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::Ipv6Net;
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;

/// Options of every scan: IPv6, no name resolution, packets through the kernel's routes and without nmap's own neighbour
/// discovery, and bounds on rate and time.
#[rustfmt::skip]
const COMMON: [&str; 13] = [
    "-6", "-n", "--send-ip", "--disable-arp-ping", "--noninteractive", "--max-retries", "1", "--min-rate", "100",
    "--max-rate", "200", "--host-timeout", "20s",
];

/// The scans, in their order.
const PLANS: [Plan; 4] = [
    Plan {
        what: "TCP, 100 ports of the live address",
        options: &["-Pn", "-sS", "-F"],
        block: 128,
        at: Aim::Session,
    },
    Plan {
        what: "UDP, 100 ports of the live address",
        options: &["-Pn", "-sU", "-F"],
        block: 128,
        at: Aim::Session,
    },
    Plan {
        what: "UDP, 100 ports of the introduction's address",
        options: &["-Pn", "-sU", "-F"],
        block: 128,
        at: Aim::Introduction,
    },
    Plan {
        what: "ICMPv6 echo, 64 addresses around the live one",
        options: &["-sn", "-PE"],
        block: 122,
        at: Aim::Session,
    },
];

#[derive(Debug)]
struct Plan {
    /// The subject of the scan.
    what: &'static str,
    options: &'static [&'static str],
    /// Length of the block around the live address that is scanned.
    block: u8,
    at: Aim,
}

/// The address that is scanned.
#[derive(Debug)]
enum Aim {
    /// The address of a session.
    Session,
    /// The address of the introduction, at which handshakes begin.
    Introduction,
}

/// A finished scan.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The subject of the scan.
    pub(crate) what: &'static str,
    /// nmap's findings, in its own words.
    pub(crate) verdict: String,
}

/// The scans, one after the other. Dropping this ends the running scan.
#[derive(Debug)]
pub(crate) struct Scans {
    /// The waiting scans in reverse order, each with the command `nmap` in the stranger's namespace, without arguments.
    waiting: Vec<(&'static Plan, Command)>,
    running: Option<(&'static Plan, Running)>,
    finished: Vec<Scan>,
}

impl Scans {
    /// Prepares all scans, from a namespace.
    ///
    /// # Errors
    /// When nmap is not installed.
    pub(crate) fn new(netns: &Netns) -> Result<Self> {
        match Command::new("nmap").arg("--version").output() {
            Ok(output) => ensure!(output.status.success(), "`nmap --version` failed: {output:?}"),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no nmap: `cargo xtask setup` installs it, --no-scan does without")
            }
            Err(error) => return Err(error).context("could not start nmap"),
        }
        let waiting =
            PLANS.iter().rev().map(|plan| Ok((plan, netns.command("nmap")?))).collect::<Result<_>>()?;
        Ok(Self { waiting, running: None, finished: Vec::new() })
    }

    /// Collects a scan that has ended, and starts the next one: on `live`, the present address of a session, or on the
    /// address of the introduction.
    ///
    /// # Errors
    /// When nmap cannot be started or fails.
    pub(crate) fn advance(&mut self, live: Ipv6Addr, introduction: Ipv6Addr) -> Result<()> {
        if let Some((plan, mut process)) = self.running.take() {
            match process.try_wait()? {
                None => self.running = Some((plan, process)),
                Some(status) => {
                    ensure!(status.success(), "nmap failed ({status}): {}", process.log());
                    self.finished.push(Scan { what: plan.what, verdict: verdict(&process.stdout()?) });
                }
            }
        }
        if self.running.is_none()
            && let Some((plan, mut command)) = self.waiting.pop()
        {
            let at = match plan.at {
                Aim::Session => live,
                Aim::Introduction => introduction,
            };
            let target = Ipv6Net::new(at, plan.block)?.trunc();
            command.args(COMMON).args(plan.options).arg(target.to_string());
            self.running = Some((plan, Running::spawn("nmap", command)?));
        }
        Ok(())
    }

    /// Ends the running scan, and returns those that have ended.
    pub(crate) fn finish(self) -> Vec<Scan> {
        self.finished
    }
}

/// The lines with the findings in nmap's report.
fn verdict(report: &str) -> String {
    let telling = |line: &&str| {
        ["Not shown:", "Skipping host"].iter().any(|start| line.starts_with(start))
            || ["/tcp", "/udp", "hosts up"].iter().any(|part| line.contains(part))
    };
    let lines: Vec<&str> = report.lines().filter(telling).map(str::trim).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn the_verdict_has_what_matters() {
        let silent = "Nmap scan report for 2001:db8::1\nHost is up.\nAll 100 scanned ports on 2001:db8::1 are in \
                      ignored states.\nNot shown: 100 filtered tcp ports (no-response)\n\nNmap done: 1 IP address (1 \
                      host up) scanned in 2.04 seconds\n";
        assert_eq!(verdict(silent), "Not shown: 100 filtered tcp ports (no-response)");
        let open = "Not shown: 99 filtered tcp ports (no-response)\nPORT   STATE SERVICE\n22/tcp open  ssh\n";
        assert_eq!(verdict(open), "Not shown: 99 filtered tcp ports (no-response); 22/tcp open  ssh");
    }
}
