//! The settings that connect the host to its networks: underlay interface, protected prefixes, tunnel device.

mod bypass;

use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;
use mtd_common::address::SINGLE_ADDRESS;

pub use self::bypass::{BYPASS_KEYS, Bypass};
use crate::model::{Fault, LinkMode, MAX_INNER_MTU, MIN_INNER_MTU};
use crate::schema::{
    self, Facts, Key, Kind, Located, MAX_INTERFACE_NAME, Part, Prefixes, Problems, Section, each_once,
    unlocated, value,
};

/// Range of `mtu_expires`: RFC 8201, section 4 asks for at least five minutes; less is for experiments.
pub const MTU_EXPIRES_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// The kernel's own value for paths outside of tunnels (`net.ipv6.route.mtu_expires`).
pub const DEFAULT_MTU_EXPIRES: Duration = Duration::from_mins(10);

/// Suffix of the name of the inside end of the tunnel device.
pub const INSIDE_SUFFIX: &str = "x";

/// Default name of the tunnel device.
const DEFAULT_DEVICE: &str = "mtd0";

/// The word in the configuration that stands for the prefix of the interface.
const FOLLOW_INTERFACE: &str = "interface";

/// The word that stands for a wait without end.
const FOREVER: &str = "forever";

/// Range of `interface_wait` where it is no word.
const INTERFACE_WAIT_RANGE: (Duration, Duration) = (Duration::ZERO, Duration::from_hours(30 * 24));

/// The top-level keys about the underlay.
pub const UNDERLAY_KEYS: &[Key] = &[
    Key::required(
        "interface",
        Kind::Text("the name of an interface"),
        r#""eth0""#,
        "The interface towards the other hosts.",
    ),
    Key::required(
        "prefix",
        Kind::List("an IPv6 prefix of 64 to 112 bits, or of 128; at most 4, none inside another"),
        r#""2001:db8:1::/64""#,
        "The protected prefix: mtd takes its moving addresses from it, and whatever is sent to it without being a valid \
         packet of a session is dropped without an answer. No other service of this host may have an address in it, unless \
         link is \"shared\". \"interface\" stands for the prefix on the link in which the interface has a global address \
         (the /64 around it, or a longer one that is on the link, of at most 96 bits), whichever that is at the time; only \
         with link = \"shared\", and not with [[peer]]. Where this host has a single address, that address with a length of \
         128: then its ports alone move, and the host is not dark; only with link = \"shared\".",
    )
    .from_requirement("MT-06"),
    Key::preset(
        "link",
        Kind::Choice(LinkMode::WORDS),
        r#""routed""#,
        "How packets for the prefix reach this host. \"routed\": a router has a route for it to this host (recommended). \
         \"on-link\": it is the prefix of the link; mtd answers neighbour solicitations for its live addresses. \"shared\": \
         as \"on-link\", and other hosts and this host's own addresses are in the prefix as well; all other packets are left \
         to the kernel.",
    )
    .from_requirement("MT-09"),
    Key::preset(
        "interface_wait",
        Kind::Text("\"forever\", or a duration up to 30 days"),
        r#""forever""#,
        "For how long a start waits for an interface that is not there yet, and a server whose prefix is \"interface\" for an \
         address. Meanwhile `mtd status` says what is missing. With \"0s\" it fails at once; `mtd attach` always does.",
    ),
];

/// The top-level keys about the tunnel device.
pub const TUNNEL_KEYS: &[Key] = &[
    Key::preset(
        "device",
        Kind::Text("the name of an interface, at most 14 characters"),
        r#""mtd0""#,
        "The tunnel device that applications see. Its inside end has an x behind the name (mtd0x).",
    ),
    Key::required(
        "address",
        Kind::List("an address with the length of its network"),
        r#"["fd00:6d74::1/64", "10.66.0.1/24"]"#,
        "Own addresses on the tunnel device, with the length of the tunnel's network.",
    )
    .otherwise("required, unless there is a [[server]], which gives addresses"),
    Key::required(
        "mtu",
        Kind::Integer(MIN_INNER_MTU as u32, MAX_INNER_MTU as u32),
        "1428",
        "Longest inner packet in bytes.",
    )
    .otherwise("the MTU of the interface less 72, at most 1428"),
    Key::preset(
        "mtu_expires",
        Kind::Duration(MTU_EXPIRES_RANGE.0, MTU_EXPIRES_RANGE.1),
        r#""10m""#,
        "After which time a path that carries less than the interface is tried again with longer packets. Meanwhile the peer is \
         sent shorter ones. What a path carries is found by probes inside the session; of a peer that does not answer them only \
         by what routers say (Packet Too Big).",
    ),
];

/// The settings of the underlay in the file.
#[derive(Debug)]
pub struct Underlay {
    /// Name of the underlay interface.
    pub interface: Option<Located<String>>,
    prefixes: Vec<Located<Ipv6Net>>,
    prefixes_complete: bool,
    follow_at: Option<usize>,
    /// How packets for the prefixes reach this host.
    pub link: LinkMode,
    /// How long a start waits for the interface; `None`: for ever.
    pub interface_wait: Option<Duration>,
}

impl Underlay {
    /// Reads the root.
    pub fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let interface =
            root.required("interface", problems, |text| schema::interface_name(text, MAX_INTERFACE_NAME));
        let follow_at = root.word("prefix", FOLLOW_INTERFACE);
        let before = problems.count();
        let prefixes = match follow_at {
            None => root.list("prefix", problems, schema::prefix),
            Some(_) => Vec::new(),
        };
        let prefixes_complete = problems.count() == before && prefixes.len() <= MAX_PREFIXES;
        let link = root.choice("link", problems, LinkMode::CHOICES).unwrap_or_default();
        let interface_wait = root.optional("interface_wait", problems, |text| match text {
            FOREVER => Ok(None),
            text => schema::duration(text, INTERFACE_WAIT_RANGE)
                .map(Some)
                .map_err(|fault| Fault::new(fault.what, format!("{}; or write \"{FOREVER}\"", fault.remedy))),
        });
        let interface_wait = value(interface_wait).flatten();
        Self { interface, prefixes, prefixes_complete, follow_at, link, interface_wait }
    }

    /// The protected prefixes, and whether the prefix is that of the interface and changes with it.
    pub fn prefixes(&self) -> (Vec<Ipv6Net>, bool) {
        (self.prefixes.iter().map(|prefix| prefix.value).collect(), self.follow_at.is_some())
    }

    /// Checks that the data plane has room for all prefixes, and that none lies inside another (requirement MT-06).
    fn check_prefixes(&self, facts: &Facts, problems: &mut Problems<'_>) {
        if let Some(surplus) = self.prefixes.get(MAX_PREFIXES) {
            let what = format!("more than {MAX_PREFIXES} prefixes");
            problems.add(surplus.at, "prefix", Fault::new(what, format!("keep at most {MAX_PREFIXES}")));
        }
        let prefixes = facts.own_prefixes();
        for (index, Located { value: prefix, at }) in prefixes.iter().enumerate() {
            let overlap =
                |other: &&Located<Ipv6Net>| prefix.contains(&other.value) || other.value.contains(prefix);
            if let Some(other) = prefixes[..index].iter().find(overlap) {
                let what = format!("{prefix} overlaps {}", other.value);
                problems.add(*at, "prefix", Fault::new(what, "keep the one that is routed to this host"));
            }
        }
    }

    /// A single address is also the one that this host's other traffic uses, so it is shared; and the programs look up either
    /// addresses or ports.
    fn check_single_addresses(&self, problems: &mut Problems<'_>) {
        let is_single = |prefix: &&Located<Ipv6Net>| prefix.value.prefix_len() == SINGLE_ADDRESS;
        let Some(single) = self.prefixes.iter().find(is_single) else { return };
        if self.link != LinkMode::Shared {
            let what = format!(
                "{} is a single address, which this host uses for everything else too, and link is \"{}\"",
                single.value, self.link
            );
            problems.add(single.at, "prefix", Fault::new(what, "add a line link = \"shared\""));
        }
        if let Some(other) = self.prefixes.iter().find(|prefix| !is_single(prefix)) {
            let what = format!("{} is a single address and {} is not", single.value, other.value);
            let remedy = "keep the prefix, from which addresses and ports are taken, or the single addresses";
            problems.add(single.at, "prefix", Fault::new(what, remedy));
        }
    }

    /// The prefix can follow the interface only if the other ends find this host by rendezvous.
    fn check_follow(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(at) = self.follow_at else { return };
        if self.link != LinkMode::Shared {
            let what = format!(
                "the prefix of the interface is shared with other hosts, and link is \"{}\"",
                self.link
            );
            let remedy =
                "add a line link = \"shared\", or write the protected prefix itself, such as 2001:db8:1::/64";
            problems.add(at, "prefix", Fault::new(what, remedy));
        }
        if let Some(peer) = facts.needs_prefix.first() {
            let what = format!(
                "the prefix of the interface may change, and the peer in line {} needs to know it",
                problems.line(*peer)
            );
            problems.add(
                at,
                "prefix",
                Fault::new(what, "write the prefix itself, or leave the [[peer]] out"),
            );
        }
    }
}

impl Part for Underlay {
    fn tell(&self, facts: &mut Facts) {
        facts.interface.clone_from(&self.interface);
        facts.prefixes = Prefixes {
            listed: self.prefixes.clone(),
            complete: self.prefixes_complete,
            follow_at: self.follow_at,
        };
        facts.link = self.link;
    }

    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        self.check_prefixes(facts, problems);
        self.check_single_addresses(problems);
        self.check_follow(facts, problems);
    }
}

/// The settings of the tunnel device in the file.
#[derive(Debug)]
pub struct Tunnel {
    device: Option<Located<String>>,
    addresses: Vec<Located<IpNet>>,
    addresses_complete: bool,
    /// Longest inner packet in bytes; `None`: as the underlay allows.
    pub mtu: Option<u16>,
    mtu_expires: Option<Duration>,
}

impl Tunnel {
    /// Reads the root. `needs_address`: this host gets no tunnel address from a server.
    pub fn read(root: &Section<'_, '_>, needs_address: bool, problems: &mut Problems<'_>) -> Self {
        let most = MAX_INTERFACE_NAME - INSIDE_SUFFIX.len();
        let before = problems.count();
        let addresses = if needs_address {
            root.list("address", problems, tunnel_address)
        } else {
            root.optional_list("address", problems, tunnel_address)
        };
        let addresses_complete = problems.count() == before;
        Self {
            device: root.optional("device", problems, |text| schema::interface_name(text, most)),
            addresses,
            addresses_complete,
            mtu: root.integer("mtu", problems).map(|mtu| mtu.value as u16),
            mtu_expires: value(root.duration("mtu_expires", problems)),
        }
    }

    /// Name of the tunnel device.
    pub fn device(&self) -> String {
        self.device.as_ref().map_or(DEFAULT_DEVICE, |device| &device.value).to_owned()
    }

    /// Own tunnel addresses with the length of their network.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.addresses.iter().cloned().map(unlocated).collect()
    }

    /// Time for which a router's report on a path is believed.
    pub fn mtu_expires(&self) -> Duration {
        self.mtu_expires.unwrap_or(DEFAULT_MTU_EXPIRES)
    }

    fn check_device(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(interface) = &facts.interface else { return };
        let (device, at) = match &self.device {
            Some(device) => (device.value.as_str(), device.at),
            None => (DEFAULT_DEVICE, interface.at),
        };
        let inside = format!("{device}{INSIDE_SUFFIX}");
        if interface.value == device || interface.value == inside {
            let what =
                format!("mtd would create {device} and {inside}, one of which is the underlay interface");
            let remedy = "write a name that no interface has, such as device = \"mtd1\"";
            problems.add(at, "device", Fault::new(what, remedy));
        }
    }

    fn check_addresses(&self, facts: &Facts, problems: &mut Problems<'_>) {
        for Located { value: net, at } in &self.addresses {
            if let Some(prefix) = facts.prefix_around(net.addr()) {
                let what = format!("{} lies in the protected prefix {prefix}", net.addr());
                let remedy = "write an address of the tunnel's own inner network, such as fd00:6d74::1/64";
                problems.add(*at, "address", Fault::new(what, remedy));
            }
        }
        let addresses = self.addresses.iter().map(|net| Located { value: net.value.addr(), at: net.at });
        let addresses: Vec<_> = addresses.collect();
        each_once(addresses.iter().map(|address| ("address", address)), problems, |address, line| {
            Fault::new(format!("{address} is in line {line} already"), "keep one of them")
        });
    }
}

impl Part for Tunnel {
    fn tell(&self, facts: &mut Facts) {
        facts.addresses.clone_from(&self.addresses);
        facts.addresses_complete = self.addresses_complete;
    }

    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        self.check_device(facts, problems);
        self.check_addresses(facts, problems);
    }
}

/// An own tunnel address with the length of its network.
fn tunnel_address(text: &str) -> Result<IpNet, Fault> {
    const EXAMPLE: &str = "fd00:6d74::1/64 or 10.66.0.1/24";
    let length = if text.contains(':') { 64 } else { 24 };
    let net = text.parse::<IpNet>().map_err(|_| schema::not_a_network(text, length, EXAMPLE))?;
    schema::check_unicast(net.addr(), EXAMPLE)?;
    Ok(net)
}
