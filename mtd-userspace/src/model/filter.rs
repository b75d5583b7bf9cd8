//! Filters: which inner packets a peer may exchange with this host.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use mtd_common::abi::filter::MAX_RULES;
use mtd_common::packet::{NEXT_ICMPV6, NEXT_TCP, NEXT_UDP};

use super::{Fault, shown};

/// How a rule is written, in messages.
const EXAMPLE: &str =
    "\"allow in tcp/22\", \"allow out udp/53 to 10.0.0.53\" or \"deny in from 10.9.0.0/16\"";

/// IPv4 protocol: ICMP.
const ICMP: u8 = 1;

/// The filter of one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Its rules. One that denies is stronger than those that allow; what no rule allows is dropped.
    pub rules: Vec<Rule>,
    /// Whether a sender on this side is told that its packet may not leave.
    pub reject: Reject,
}

/// What a sender on this side is told of a packet that may not leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reject {
    /// Nothing.
    Drop,
    /// ICMP: communication administratively prohibited.
    #[default]
    Prohibited,
}

impl Reject {
    /// The values in the file.
    pub const CHOICES: &[(&'static str, Self)] = &[("drop", Self::Drop), ("prohibited", Self::Prohibited)];
    /// Their names.
    pub const WORDS: &[&'static str] = &["drop", "prohibited"];
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What becomes of the packets that it names.
    pub action: Action,
    /// Who opens: `None`: either end.
    pub direction: Option<Direction>,
    /// The protocol; `None`: any.
    pub protocol: Option<RuleProtocol>,
    /// First and last port at the end that is opened to; `None`: any.
    pub ports: Option<(u16, u16)>,
    /// The end that opens, host bits zero; `None`: any.
    pub from: Option<IpNet>,
    /// The end that is opened to, host bits zero; `None`: any.
    pub to: Option<IpNet>,
}

/// See [`Rule::action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// They pass, unless another rule denies them.
    Allow,
    /// They are dropped.
    Deny,
}

/// See [`Rule::direction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer opens.
    In,
    /// This host opens, or one behind it.
    Out,
}

/// See [`Rule::protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// The protocol, or IPv6 next header, with this number.
    Number(u8),
}

impl RuleProtocol {
    /// The numbers in IP headers that it stands for.
    pub fn numbers(self) -> Vec<u8> {
        match self {
            Self::Tcp => vec![NEXT_TCP],
            Self::Udp => vec![NEXT_UDP],
            Self::Icmp => vec![ICMP, NEXT_ICMPV6],
            Self::Number(number) => vec![number],
        }
    }
}

impl fmt::Display for RuleProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Rule {
    /// Whether it says the same for both directions, so that it takes one place among the rules, not two.
    pub const fn is_symmetric(&self) -> bool {
        self.direction.is_none() && self.ports.is_none() && self.from.is_none() && self.to.is_none()
    }

    /// Places that it takes among the [`MAX_RULES`] of a filter.
    pub const fn places(&self) -> usize {
        if self.direction.is_some() || self.is_symmetric() { 1 } else { 2 }
    }
}

impl Filter {
    /// Checks that the rules fit.
    ///
    /// # Errors
    /// When there are too many.
    pub fn check(rules: &[Rule]) -> Result<(), Fault> {
        let places: usize = rules.iter().map(Rule::places).sum();
        if places <= MAX_RULES {
            return Ok(());
        }
        let what = format!("has {places} rules of at most {MAX_RULES}; one without in or out counts twice");
        Err(Fault::new(what, "join rules by networks or port ranges, such as tcp/8000-8099"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.action == Action::Allow { "allow" } else { "deny" })?;
        match self.direction {
            Some(Direction::In) => f.write_str(" in")?,
            Some(Direction::Out) => f.write_str(" out")?,
            None => {}
        }
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, "/{first}")?,
            Some((first, last)) => write!(f, "/{first}-{last}")?,
            None => {}
        }
        let net = |net: IpNet| {
            if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
        };
        if let Some(from) = self.from {
            write!(f, " from {}", net(from))?;
        }
        if let Some(to) = self.to {
            write!(f, " to {}", net(to))?;
        }
        Ok(())
    }
}

impl FromStr for Rule {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let mut words = text.split_whitespace().peekable();
        let action = match words.next() {
            Some("allow") => Action::Allow,
            Some("deny") => Action::Deny,
            _ => return Err(wrong(text, "begins with neither allow nor deny")),
        };
        let direction = match words.peek() {
            Some(&"in") => Some(Direction::In),
            Some(&"out") => Some(Direction::Out),
            _ => None,
        };
        words.next_if(|_| direction.is_some());
        let mut rule = Self { action, direction, protocol: None, ports: None, from: None, to: None };
        if let Some(word) = words.next_if(|word| !matches!(*word, "from" | "to")) {
            let (protocol, ports) = protocol(word)?;
            (rule.protocol, rule.ports) = (Some(protocol), ports);
        }
        while let Some(word) = words.next() {
            let place = match word {
                "from" if rule.from.is_none() && rule.to.is_none() => &mut rule.from,
                "to" if rule.to.is_none() => &mut rule.to,
                _ => return Err(wrong(text, "is no rule")),
            };
            let Some(net) = words.next() else {
                return Err(wrong(text, &format!("has no address behind {word}")));
            };
            *place = Some(network(net)?);
        }
        if let (Some(from), Some(to)) = (rule.from, rule.to)
            && from.addr().is_ipv4() != to.addr().is_ipv4()
        {
            return Err(Fault::new(
                format!("\"{}\" has addresses of both IP versions", shown(text)),
                "write a rule for each IP version",
            ));
        }
        Ok(rule)
    }
}

/// An address or network, host bits zero.
fn network(text: &str) -> Result<IpNet, Fault> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| wrong(text, "is no address or network"))?;
    if net != net.trunc() {
        let what = format!("{text} has bits behind its length");
        return Err(Fault::new(what, format!("write {} or {}", net.trunc(), net.addr())));
    }
    Ok(net)
}

/// A protocol, with ports where it has ports.
fn protocol(text: &str) -> Result<(RuleProtocol, Option<(u16, u16)>), Fault> {
    let (name, ports) = text.split_once('/').map_or((text, None), |(name, ports)| (name, Some(ports)));
    let protocol = match name {
        "tcp" => RuleProtocol::Tcp,
        "udp" => RuleProtocol::Udp,
        "icmp" => RuleProtocol::Icmp,
        _ => match name.parse() {
            Ok(number) => RuleProtocol::Number(number),
            Err(_) => return Err(wrong(text, "is no protocol (tcp, udp, icmp, or a number up to 255)")),
        },
    };
    let Some(ports) = ports else { return Ok((protocol, None)) };
    if !matches!(protocol, RuleProtocol::Tcp | RuleProtocol::Udp | RuleProtocol::Number(33 | 132 | 136)) {
        let what = format!("\"{}\": {protocol} has no ports", shown(text));
        return Err(Fault::new(what, format!("write {protocol}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first @ 1..), Ok(last)) if first <= last => Ok((protocol, Some((first, last)))),
        _ => Err(wrong(text, "has no port or range of ports from 1 to 65535")),
    }
}

fn wrong(text: &str, what: &str) -> Fault {
    let remedy = format!(
        "write allow or deny, then in or out, a protocol with or without ports, from ADDRESS, to ADDRESS, each if it \
         matters: {EXAMPLE}"
    );
    Fault::new(format!("\"{}\" {what}", shown(text)), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown() {
        for text in [
            "allow",
            "deny",
            "allow in",
            "allow in tcp/22",
            "allow out tcp/8000-8099 to 10.0.0.0/8",
            "deny udp from fd00:1::/64",
            "allow icmp",
            "allow in 47 from 10.0.0.7 to 10.1.0.0/16",
            "deny out tcp to fd00::5",
            "allow in 132/2905",
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|fault: Fault| panic!("{text}: {fault}"));
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!("allow tcp/22".parse::<Rule>().unwrap().places(), 2);
        assert_eq!("allow out tcp/22".parse::<Rule>().unwrap().places(), 1);
        assert_eq!("deny udp".parse::<Rule>().unwrap().places(), 1);
    }

    #[test]
    fn mistakes_end_in_a_remedy() {
        for (text, part) in [
            ("", "neither allow nor deny"),
            ("tcp/22", "neither allow nor deny"),
            ("allow ssh", "no protocol"),
            ("allow tcp/0", "1 to 65535"),
            ("allow tcp/5-4", "1 to 65535"),
            ("allow tcp/70000", "1 to 65535"),
            ("allow icmp/8", "write icmp"),
            ("allow 256", "no protocol"),
            ("allow from", "behind from"),
            ("allow from 10.0.0.1/8", "10.0.0.0/8 or 10.0.0.1"),
            ("allow from 10.0.0.0/33", "no address"),
            ("allow from 10.0.0.0/8 to fd00::/8", "each IP version"),
            ("allow to 10.0.0.1 from 10.0.0.2", "is no rule"),
            ("allow tcp udp", "is no rule"),
        ] {
            let fault = text.parse::<Rule>().expect_err(text).to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn as_many_rules_as_there_are_places() {
        let rule: Rule = "allow tcp/22".parse().unwrap();
        assert!(Filter::check(&[rule; MAX_RULES / 2]).is_ok());
        assert!(Filter::check(&[rule; MAX_RULES / 2 + 1]).unwrap_err().what.contains("258"));
    }
}
