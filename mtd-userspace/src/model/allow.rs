//! Allow rules: packets that pass to the kernel although they are refused.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::allow::Allow as Element;
use mtd_common::packet::{NEXT_ICMPV6, NEXT_TCP, NEXT_UDP};

use super::{Fault, shown};

/// How a rule is written, in messages.
const EXAMPLE: &str = "\"2001:db8:f::/48\", \"tcp/22\" or \"2001:db8:f::7 tcp/22\"";

/// One rule: a source, a protocol with or without a port, or both. A packet passes if it matches all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    /// Where packets come from, host bits zero; `None`: anywhere.
    pub source: Option<Ipv6Net>,
    /// The protocol; `None`: any.
    pub protocol: Option<Protocol>,
    /// The port at this host, of TCP or UDP, not 0; `None`: any.
    pub port: Option<u16>,
}

/// The protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMPv6.
    Icmpv6,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmpv6];

    /// Its name, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmpv6 => "icmpv6",
        }
    }

    /// Its IPv6 next header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => NEXT_TCP,
            Self::Udp => NEXT_UDP,
            Self::Icmpv6 => NEXT_ICMPV6,
        }
    }
}

impl Allow {
    /// Whether TCP connections from `client` to `port` of this host pass.
    pub fn covers_tcp(&self, client: Ipv6Addr, port: u16) -> bool {
        self.source.is_none_or(|source| source.contains(&client))
            && self.protocol.is_none_or(|protocol| protocol == Protocol::Tcp)
            && self.port.is_none_or(|named| named == port)
    }

    /// The form in which the programs compare.
    pub fn element(&self) -> Element {
        let half = |bytes: [u8; 16], from: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[from..from + 8]);
            u64::from_ne_bytes(part)
        };
        let source = self.source.unwrap_or_default();
        let (network, mask) = (source.network().octets(), source.netmask().octets());
        Element {
            high: half(network, 0),
            low: half(network, 8),
            mask_high: half(mask, 0),
            mask_low: half(mask, 8),
            protocol: self.protocol.map_or(0, Protocol::number),
            port: self.port.unwrap_or_default().to_be_bytes(),
            ..Element::default()
        }
    }

    /// The rule that an element in the programs' settings represents. `None`: not a valid one.
    pub fn of_element(element: &Element) -> Option<Self> {
        let whole =
            |high: u64, low: u64| u128::from(u64::from_be(high)) << 64 | u128::from(u64::from_be(low));
        let length = whole(element.mask_high, element.mask_low).leading_ones() as u8;
        let network = Ipv6Net::new(whole(element.high, element.low).into(), length).ok()?;
        let protocol = match element.protocol {
            0 => None,
            number => Some(Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?),
        };
        Some(Self {
            source: (length > 0).then_some(network),
            protocol,
            port: Some(u16::from_be_bytes(element.port)).filter(|&port| port != 0),
        })
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.map(|net| {
            let single = net.prefix_len() == net.max_prefix_len();
            if single { net.addr().to_string() } else { net.to_string() }
        });
        let port = self.port.map_or_else(String::new, |port| format!("/{port}"));
        let protocol = self.protocol.map(|protocol| format!("{}{port}", protocol.name()));
        let parts: Vec<String> = [source, protocol].into_iter().flatten().collect();
        f.write_str(&parts.join(" "))
    }
}

impl FromStr for Allow {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (source, protocol) = match words.as_slice() {
            [word] if word.contains(':') => (Some(source(word)?), None),
            [word] => (None, Some(protocol(word)?)),
            [first, second] => (Some(source(first)?), Some(protocol(second)?)),
            _ => return Err(wrong(text, "is no rule")),
        };
        if protocol.is_none() && source.is_some_and(|net| net.prefix_len() == 0) {
            let remedy = "name the networks that you come from, or let everything pass: policy = \"monitor\"";
            return Err(Fault::new(format!("{text} is everybody"), remedy));
        }
        let (protocol, port) = protocol.unzip();
        Ok(Self { source: source.filter(|net| net.prefix_len() > 0), protocol, port: port.flatten() })
    }
}

/// An address or network, host bits zero.
fn source(text: &str) -> Result<Ipv6Net, Fault> {
    let net = match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
        Ok(IpNet::V6(net)) => net,
        Ok(IpNet::V4(_)) => {
            return Err(Fault::new(
                format!("{text} is IPv4, which always passes"),
                "leave it out: protected prefixes are IPv6",
            ));
        }
        Err(_) => return Err(wrong(text, "is no IPv6 address or network")),
    };
    if net != net.trunc() {
        let what = format!("{text} has bits behind its length");
        return Err(Fault::new(what, format!("write {} or {}", net.trunc(), net.addr())));
    }
    Ok(net)
}

/// A protocol, and a port where it has ports.
fn protocol(text: &str) -> Result<(Protocol, Option<u16>), Fault> {
    let (name, port) = text.split_once('/').map_or((text, None), |(name, port)| (name, Some(port)));
    let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name) else {
        return Err(wrong(text, "is no protocol"));
    };
    let Some(port) = port else { return Ok((protocol, None)) };
    if protocol == Protocol::Icmpv6 {
        return Err(Fault::new(format!("\"{}\": ICMPv6 has no ports", shown(text)), "write icmpv6"));
    }
    match port.parse() {
        Ok(port @ 1..) => Ok((protocol, Some(port))),
        _ => Err(wrong(text, "has no port from 1 to 65535")),
    }
}

fn wrong(text: &str, what: &str) -> Fault {
    let remedy =
        format!("write a source, a protocol (tcp, udp, icmpv6) with or without a port, or both: {EXAMPLE}");
    Fault::new(format!("\"{}\" {what}", shown(text)), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_shown_and_told_to_the_programs() {
        for text in [
            "2001:db8:f::/48",
            "2001:db8:f::7",
            "tcp",
            "tcp/22",
            "udp/51820",
            "icmpv6",
            "2001:db8:f::/48 tcp",
            "2001:db8:f::7 tcp/22",
            "fd00::/8 icmpv6",
        ] {
            let rule: Allow = text.parse().unwrap_or_else(|fault: Fault| panic!("{text}: {fault}"));
            assert_eq!(rule.to_string(), text);
            assert_eq!(Allow::of_element(&rule.element()), Some(rule), "{text}");
        }
        let everybody: Allow = "::/0 tcp/22".parse().unwrap();
        assert_eq!(everybody, "tcp/22".parse().unwrap());
    }

    #[test]
    fn mistakes_end_in_a_remedy() {
        for (text, part) in [
            ("", "tcp/22"),
            ("22", "tcp"),
            ("ssh", "tcp"),
            ("tcp/0", "1 to 65535"),
            ("tcp/ssh", "1 to 65535"),
            ("icmpv6/128", "write icmpv6"),
            ("10.0.0.0/8 tcp/22", "leave it out"),
            ("2001:db8:f::7/48", "2001:db8:f::/48 or 2001:db8:f::7"),
            ("2001:db8::/200", "no IPv6 address"),
            ("::/0", "monitor"),
            ("2001:db8::1 tcp/22 udp/53", "is no rule"),
        ] {
            let fault = text.parse::<Allow>().expect_err(text).to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn a_connection_is_covered_by_what_names_it() {
        let client = "2001:db8:f::7".parse().unwrap();
        for (rule, covered) in [
            ("2001:db8:f::/48", true),
            ("tcp/22", true),
            ("2001:db8:f::7 tcp/22", true),
            ("2001:db8:f::8 tcp/22", false),
            ("tcp/2222", false),
            ("udp/22", false),
            ("icmpv6", false),
        ] {
            assert_eq!(rule.parse::<Allow>().unwrap().covers_tcp(client, 22), covered, "{rule}");
        }
    }
}
