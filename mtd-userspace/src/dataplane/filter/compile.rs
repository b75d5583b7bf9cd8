//! From rules to the sets of rules by which the programs decide: see [`mtd_common::filter`].

use std::collections::BTreeMap;

use ipnet::IpNet;
use mtd_common::abi::filter::{
    FLAG_LOCAL, FLAG_LOCAL_PORTS, FLAG_PROHIBITED, FLAG_REMOTE, FLAG_REMOTE_PORTS, KIND_LOCAL,
    KIND_LOCAL_PORT, KIND_REMOTE, KIND_REMOTE_PORT, KIND_V6, MAX_RULES, Mask, Policy, RULE_KEY_BITS, RuleKey,
    rule_key,
};
use mtd_common::filter::port;

use crate::model::{Action, Direction, Filter, Reject, Rule, RuleProtocol};

/// A policy, and its part of the map of rules.
pub(super) struct Compiled {
    pub(super) policy: Policy,
    /// Prefix length in bits and key with number 0 of the policy, and the rules there.
    rules: Vec<(u32, u8, [u8; 16], Mask)>,
}

impl Compiled {
    /// The elements of the map of rules under this number of the policy.
    pub(super) fn rules(&self, number: u32) -> impl Iterator<Item = (u32, RuleKey, Mask)> + '_ {
        self.rules
            .iter()
            .map(move |(length, kind, value, mask)| (*length, rule_key(number, *kind, value), *mask))
    }
}

/// What takes one place among the rules: a rule, or a rule for one of the two directions.
struct Single<'a> {
    rule: &'a Rule,
    /// Whether the peer opens; `None`: as well as this end.
    inward: Option<bool>,
}

impl Single<'_> {
    /// Whether an end (this one: `local`) is the one that opens. `None`: nothing is known of it.
    fn net(&self, local: bool) -> Option<IpNet> {
        let opens = self.inward? != local;
        if opens { self.rule.from } else { self.rule.to }
    }

    fn ports(&self, local: bool) -> Option<(u16, u16)> {
        self.rule.ports.filter(|_| self.inward == Some(local))
    }
}

/// The policy of a filter. Of too many rules ([`Filter::check`]), the last are left out if they allow.
pub(super) fn compile(filter: &Filter) -> Compiled {
    let singles: Vec<Single<'_>> = filter.rules.iter().flat_map(singles).take(MAX_RULES).collect();
    let mut policy = Policy::default();
    if filter.reject == Reject::Prohibited {
        policy.flags |= FLAG_PROHIBITED;
    }
    for (n, single) in singles.iter().enumerate() {
        let rule = single.rule;
        if rule.action == Action::Deny {
            set(&mut policy.deny, n);
            if rule.direction.is_none() {
                set(&mut policy.always, n);
            }
        }
        if single.inward != Some(false) {
            set(&mut policy.inward, n);
        }
        if single.inward != Some(true) {
            set(&mut policy.outward, n);
        }
        if rule.ports.is_none() {
            set(&mut policy.portless, n);
        }
    }
    protocols(&mut policy, &singles);
    let mut rules = Vec::new();
    for (local, flag, kind) in [(true, FLAG_LOCAL, KIND_LOCAL), (false, FLAG_REMOTE, KIND_REMOTE)] {
        if singles.iter().any(|single| single.net(local).is_some()) {
            policy.flags |= flag;
            networks(&singles, local, kind, &mut rules);
        }
    }
    let ends = [(true, FLAG_LOCAL_PORTS, KIND_LOCAL_PORT), (false, FLAG_REMOTE_PORTS, KIND_REMOTE_PORT)];
    for (local, flag, kind) in ends {
        if singles.iter().any(|single| single.ports(local).is_some()) {
            policy.flags |= flag;
            ports(&singles, local, kind, &mut rules);
        }
    }
    Compiled { policy, rules }
}

fn singles(rule: &Rule) -> Vec<Single<'_>> {
    let of = |inward| Single { rule, inward };
    match rule.direction {
        Some(direction) => vec![of(Some(direction == Direction::In))],
        None if rule.is_symmetric() => vec![of(None)],
        None => vec![of(Some(true)), of(Some(false))],
    }
}

fn set(mask: &mut Mask, n: usize) {
    mask[n / 64] |= 1 << (n % 64);
}

/// The rules for which this is true.
fn mask(singles: &[Single<'_>], is_in: impl Fn(&Single<'_>) -> bool) -> Mask {
    let mut found = Mask::default();
    for (n, _) in singles.iter().enumerate().filter(|(_, single)| is_in(single)) {
        set(&mut found, n);
    }
    found
}

/// Class 0 is that of the protocols that no rule names.
fn protocols(policy: &mut Policy, singles: &[Single<'_>]) {
    let numbers = |single: &Single<'_>| single.rule.protocol.map(RuleProtocol::numbers);
    let mut classes: BTreeMap<Mask, u8> = BTreeMap::new();
    for number in 0..=u8::MAX {
        let found = mask(singles, |single| numbers(single).is_none_or(|numbers| numbers.contains(&number)));
        let next = classes.len() as u8;
        let class = *classes.entry(found).or_insert(next);
        policy.classes[usize::from(number)] = class;
        policy.protocols[usize::from(class)] = found;
    }
}

/// Both families have an element for everything; each network that a rule names has one with all rules that it lies in.
fn networks(singles: &[Single<'_>], local: bool, kind: u8, rules: &mut Vec<(u32, u8, [u8; 16], Mask)>) {
    let mut named: Vec<IpNet> = singles.iter().filter_map(|single| single.net(local)).collect();
    named.sort_unstable();
    named.dedup();
    let unnamed = mask(singles, |single| single.net(local).is_none());
    rules.push((RULE_KEY_BITS, kind, [0; 16], unnamed));
    rules.push((RULE_KEY_BITS, kind + KIND_V6, [0; 16], unnamed));
    for net in named {
        let found = mask(singles, |single| single.net(local).is_none_or(|other| other.contains(&net)));
        let length = u32::from(net.prefix_len());
        match net {
            IpNet::V4(net) => {
                let value = net.network().to_ipv6_mapped().octets();
                rules.push((RULE_KEY_BITS + 96 + length, kind, value, found));
            }
            IpNet::V6(net) => {
                rules.push((RULE_KEY_BITS + length, kind + KIND_V6, net.network().octets(), found));
            }
        }
    }
}

/// The ports fall into ranges within which all are in the same rules. Each such range is divided into prefixes.
fn ports(singles: &[Single<'_>], local: bool, kind: u8, rules: &mut Vec<(u32, u8, [u8; 16], Mask)>) {
    let named: Vec<(u16, u16)> = singles.iter().filter_map(|single| single.ports(local)).collect();
    let mut bounds: Vec<u32> =
        named.iter().flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let unnamed = mask(singles, |single| single.ports(local).is_none());
    rules.push((RULE_KEY_BITS, kind, [0; 16], unnamed));
    for range in bounds.windows(2) {
        let (start, end) = (range[0], range[1]);
        let holds = |(first, last): (u16, u16)| u32::from(first) <= start && end <= u32::from(last) + 1;
        if !named.iter().copied().any(holds) {
            continue;
        }
        let found = mask(singles, |single| single.ports(local).is_none_or(holds));
        let mut from = start;
        while from < end {
            let aligned = if from == 0 { 16 } else { from.trailing_zeros().min(16) };
            let fitting = (end - from).ilog2();
            let bits = aligned.min(fitting);
            rules.push((RULE_KEY_BITS + 16 - bits, kind, port((from as u16).to_be_bytes()), found));
            from += 1 << bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mtd_common::filter::{Flow, Opens, Verdict, judge};
    use proptest::prelude::*;

    use super::*;

    /// What the map of rules finds: the element with the longest matching prefix.
    fn look<'a>(rules: &'a [(u32, RuleKey, Mask)], kind: u8, value: &[u8; 16]) -> Option<&'a Mask> {
        let key = rule_key(7, kind, value);
        let matches = |length: u32, other: &RuleKey| {
            (0..length as usize).all(|bit| (key[bit / 8] ^ other[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        let found = rules.iter().filter(|(length, other, _)| matches(*length, other));
        found.max_by_key(|(length, ..)| *length).map(|(.., mask)| mask)
    }

    /// A packet as its parts: whether it comes in, addresses and ports at both ends (this one first), protocol, what it opens.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        inward: bool,
        ends: [(IpAddr, u16); 2],
        protocol: u8,
        has_ports: bool,
        opens: Opens,
    }

    impl Case {
        fn flow(&self) -> Flow {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let [local, remote] = self.ends;
            let (source, destination) = if self.inward { (remote, local) } else { (local, remote) };
            Flow {
                source: octets(source.0),
                destination: octets(destination.0),
                source_port: source.1.to_be_bytes(),
                destination_port: destination.1.to_be_bytes(),
                version: if local.0.is_ipv4() { 4 } else { 6 },
                protocol: self.protocol,
                has_ports: self.has_ports,
                opens: self.opens,
                ..Flow::default()
            }
        }

        /// Whether the rule names the packet, if the peer opens (`inward`) or this end.
        fn suits(&self, rule: &Rule, inward: bool) -> bool {
            let [local, remote] = self.ends;
            let (from, to) = if inward { (remote, local) } else { (local, remote) };
            rule.protocol.is_none_or(|protocol| protocol.numbers().contains(&self.protocol))
                && rule.from.is_none_or(|net| net.contains(&from.0))
                && rule.to.is_none_or(|net| net.contains(&to.0))
                && rule.ports.is_none_or(|(first, last)| self.has_ports && (first..=last).contains(&to.1))
        }

        /// The decision rule by rule, as the documentation says it.
        fn expected(&self, filter: &Filter) -> Verdict {
            let mut verdict = Verdict::Unnamed;
            for rule in &filter.rules {
                for inward in [true, false] {
                    let of = if inward { Direction::In } else { Direction::Out };
                    if rule.direction.is_some_and(|direction| direction != of) || !self.suits(rule, inward) {
                        continue;
                    }
                    let goes_so = inward == self.inward;
                    match (rule.action, self.opens) {
                        (Action::Allow, Opens::Something) if !goes_so => {}
                        (Action::Allow, _) => verdict = Verdict::Allowed,
                        (Action::Deny, _) if rule.direction.is_none() => return Verdict::Denied,
                        (Action::Deny, Opens::Something | Opens::Unknown) if goes_so => {
                            return Verdict::Denied;
                        }
                        (Action::Deny, _) => {}
                    }
                }
            }
            verdict
        }
    }

    fn judged(filter: &Filter, case: &Case) -> Verdict {
        let compiled = compile(filter);
        let rules: Vec<_> = compiled.rules(7).collect();
        judge(&compiled.policy, &case.flow(), case.inward, |kind, value| look(&rules, kind, value))
    }

    const ADDRESSES: [&str; 7] =
        ["10.0.0.1", "10.0.0.2", "10.9.0.1", "192.0.2.1", "fd00::1", "fd00::2", "fd00:1::1"];
    const NETS: [&str; 9] = [
        "10.0.0.1/32",
        "10.0.0.0/30",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "fd00::1/128",
        "fd00::/64",
        "fd00::/16",
        "::/0",
        "10.9.0.0/16",
    ];
    const PORTS: [u16; 8] = [0, 1, 22, 53, 80, 1024, 60_000, 65_535];

    fn rule() -> impl Strategy<Value = String> {
        let side = |word: &'static str| {
            prop::option::weighted(0.4, 0..NETS.len())
                .prop_map(move |n| n.map_or_else(String::new, |n| format!(" {word} {}", NETS[n])))
        };
        let parts = (
            prop::sample::select(vec!["allow", "deny"]),
            prop::sample::select(vec!["", " in", " out"]),
            prop::sample::select(vec![
                "",
                " tcp",
                " udp",
                " icmp",
                " 47",
                " tcp/22",
                " tcp/1-65535",
                " udp/53",
                " tcp/20-90",
                " udp/1024-65535",
            ]),
            side("from"),
            side("to"),
        );
        parts.prop_map(|(action, direction, protocol, from, to)| {
            format!("{action}{direction}{protocol}{from}{to}")
        })
    }

    fn case() -> impl Strategy<Value = Case> {
        let port = || prop::sample::select(PORTS.to_vec());
        let opens = prop::sample::select(vec![Opens::Unknown, Opens::Something, Opens::Nothing]);
        let protocol = prop::sample::select(vec![6, 17, 1, 58, 47, 50]);
        let family = any::<bool>();
        (any::<bool>(), family, 0..3_usize, 0..3_usize, port(), port(), protocol, any::<bool>(), opens)
            .prop_map(|(inward, v4, local, remote, local_port, remote_port, protocol, has_ports, opens)| {
                let first = if v4 { 0 } else { 4 };
                let address = |n: usize| ADDRESSES[first + n].parse().unwrap();
                let ends = [(address(local), local_port), (address(remote), remote_port)];
                Case { inward, ends, protocol, has_ports, opens }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn masks_decide_as_the_rules_do_one_by_one(
            texts in prop::collection::vec(rule(), 1..12),
            cases in prop::collection::vec(case(), 20),
        ) {
            let rules: Vec<Rule> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            let filter = Filter { rules, reject: Reject::Drop };
            for case in cases {
                prop_assert_eq!(judged(&filter, &case), case.expected(&filter), "{:?} {:?}", texts, case);
            }
        }

        #[test]
        fn every_port_of_a_range_and_no_other_suits(first in 1_u16.., length: u16, port: u16) {
            let last = first.saturating_add(length);
            let rule = format!("allow in tcp/{first}-{last}").parse().unwrap();
            let filter = Filter { rules: vec![rule], reject: Reject::Drop };
            for port in [port, first, last, first - 1, last.saturating_add(1)] {
                let ends = [("10.0.0.1".parse().unwrap(), port), ("10.0.0.2".parse().unwrap(), 5)];
                let case = Case { inward: true, ends, protocol: 6, has_ports: true, opens: Opens::Something };
                let allowed = judged(&filter, &case) == Verdict::Allowed;
                prop_assert_eq!(allowed, (first..=last).contains(&port), "{} in {}-{}", port, first, last);
            }
        }
    }

    #[test]
    fn a_full_filter_fits_and_the_last_rule_counts_as_the_first() {
        let rules: Vec<Rule> =
            (1..=MAX_RULES).map(|port| format!("allow in udp/{port}").parse().unwrap()).collect();
        let filter = Filter { rules, reject: Reject::Prohibited };
        for (port, expected) in [(1, Verdict::Allowed), (256, Verdict::Allowed), (257, Verdict::Unnamed)] {
            let ends = [("fd00::1".parse().unwrap(), port), ("fd00::2".parse().unwrap(), 9)];
            let case = Case { inward: true, ends, protocol: 17, has_ports: true, opens: Opens::Unknown };
            assert_eq!(judged(&filter, &case), expected, "port {port}");
        }
    }
}
